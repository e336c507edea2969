"""Ways of drawing by one means alone, at a number of passes for each picture: what advice.py compares advice with."""

from dataclasses import replace

from hierdiff_core import Budget, GuidanceCourse, Profile, build_plan, plan_for
from hierdiff_core.plan.algebra import alone


def fewer_steps(tree, steps, passes):
    return alone(tree.num_prompts, max(1, int(passes / 2)), tree.keys)


def less_guidance(tree, steps, passes):
    if passes < steps:  # guidance is half of the passes
        return None
    course = GuidanceCourse(end=max(0.0, int(passes - steps) / steps))
    return replace(alone(tree.num_prompts, steps, tree.keys), guidance=course)


def trunk(tree, steps, passes):
    count = tree.num_prompts
    shared = next((d for d in range(steps) if 2 * (d / count + steps - d) <= passes + 1e-6), None)
    if shared is None:
        return None
    return build_plan(tree.Z, [float(tree.Z[-1, 2])] * shared + [0.0] * (steps - shared), tree.keys)


def shared(power):
    def plan(tree, steps, passes):
        saving = min(max(1 - passes / (2 * steps), 0.0), 1.0)
        profile = Profile(steps, "power", power=power)
        return plan_for(tree, Budget("saving", saving, clamp=True), profile)

    return plan


SINGLE = {
    "fewer steps": fewer_steps,
    "guidance only at first": less_guidance,
    "first steps shared by all": trunk,
    "shared steps, straight line": shared(1.0),
    "shared steps, power 4": shared(4.0),
}


def passes_of(plan):
    """Passes for each picture."""
    return (plan.guidance or GuidanceCourse()).passes(plan) / plan.num_prompts
