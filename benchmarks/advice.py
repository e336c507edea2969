"""Whether the advisor's advice holds: on sets, seeds and settings that it was not measured on, by judges.

    python benchmarks/advice.py [--small] [--models emoji scenes] [--minutes 6] [--workers 8] [--out advice.jsonl]
                                [--emoji-judge FOLDER] [--scene-judge FILE] [--scenes FOLDER]
    python benchmarks/advice.py --report advice.jsonl [--figure advice.png]

For each model: advice is measured once on a calibration set, with goal *no visible loss* (the scene model also with
step caches) and for five budgets; its plans then draw 10 other sets with 4 other seeds, beside full sampling and, at
equal passes, each single means. And 40 random cases of a set, a sampler and a strength of guidance: is more lost on the
whole set, with other seeds, than was promised?

Every result is a line of the file as soon as there is one. A second run goes on with what is missing.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from advice_report import figure, report
from hierdiff_core.measure.advice import GOALS, advise
from judged_models import (
    JUDGES,
    SCENES,
    Emoji,
    Scenes,
    device_of,
    emoji_judge,
    emoji_sets,
    scene_judge,
    scene_sets,
)

from hierdiff_core import Budget, GuidanceCourse, Profile, build_plan, plan_for
from hierdiff_core.measure.adherence import LEVELS
from hierdiff_core.measure.detail import detail_loss
from hierdiff_core.measure.losses import mean_and_error, relative_loss
from hierdiff_core.plan.algebra import alone

LOSSLESS, ROWS = GOALS
ALLOWED = 3.0  # per cent
BUDGETS = (0.6, 0.45, 0.3, 0.2, 0.125)  # of the passes of full sampling
CALIBRATION_SEED, FIRST_SEED, CASE_SEED = 7, 1000, 5000
EMOJI_CASES = {"scheduler": ("DDPM", "DDIM", "Euler", "Euler ancestral", "DPM++ 2M", "UniPC"), "guidance": (2, 3, 4, 6)}
SCENE_CASES = {
    "sampler": ("euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "ddim", "uni_pc", "res_multistep", "heun"),
    "scheduler": ("simple", "normal", "beta", "sgm_uniform"),
    "cfg": (2.0, 3.0, 4.5, 6.0),
}


# --- ways of one means at a number of passes -------------------------------------------------------------------------


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


# --- models ----------------------------------------------------------------------------------------------------------


class Work:
    """One worker's models, judges and file.

    Parameters
    ----------
    options : Namespace
    lock : Lock   of the file
    """

    def __init__(self, options, lock):
        self.options, self.lock = options, lock
        self.judges = {}
        torch.backends.cudnn.allow_tf32 = False
        torch.set_num_threads(1)

    def judge(self, name):
        if name not in self.judges:
            load, path = (
                (emoji_judge, self.options.emoji_judge) if name == "emoji" else (scene_judge, self.options.scene_judge)
            )
            self.judges[name] = load(path, device_of())
        return self.judges[name]

    def model(self, name, sets, **settings):
        """`Emoji` or `Scenes` of some sets."""
        judge = self.judge(name)
        if name == "emoji":
            return Emoji(sets, judge, **settings)
        return Scenes(sets, judge.names, judge, self.options.scenes, **settings)

    def sets(self, name, count, size, seed=0):
        """Sets that calibration never saw (seed 0), or others."""
        if name == "emoji":
            return emoji_sets(count, size)
        return scene_sets(count, size, len(self.judge(name).names), seed)

    def calibration(self, name):
        """One set of other prompts, of all kinds."""
        count = 6 if self.options.small else 48
        if name == "emoji":
            return self.model(name, emoji_sets(None, count, calibration=True))
        return self.model(name, {"all kinds": np.concatenate([*self.sets(name, 4, count // 4, 99).values()])})

    def write(self, **row):
        with self.lock, self.options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def steps(self, name):
        return (8 if name == "emoji" else 6) if self.options.small else {"emoji": 40, "scenes": 20}[name]


def scored(model, drawn, full=None):
    """Figures of each picture: right, parts, adherence (N,), and detail against full sampling of the same seed."""
    right, parts = model.right(drawn.pictures)
    found = {"right": right, "parts": parts, "adherence": model.adherence(drawn.latents, LEVELS).mean(axis=0)}
    reference = drawn if full is None else full
    found["detail"] = np.concatenate(
        [detail_loss(drawn.pictures[here], reference.pictures[here]) for here in slices(model)]
    )
    return found


def slices(model):
    ends = np.cumsum([0, *(tree.num_prompts for tree in model.trees.values())]).tolist()
    return [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]  # noqa: RUF007


# --- sets that calibration never saw ---------------------------------------------------------------------------------


class Unseen:
    """Advice from a calibration set, and what it makes of other sets.

    Parameters
    ----------
    work : Work
    name : str   of the model
    """

    def __init__(self, work, name):
        self.work, self.name, self.options = work, name, work.options
        self.steps = work.steps(name)
        self.advice = {}
        count, size, seeds = (2, 6, 1) if work.options.small else (10, 24, 4)
        self.sets, self.seeds = work.sets(name, count, size), range(FIRST_SEED, FIRST_SEED + seeds)
        self.budgets = BUDGETS[2:3] if work.options.small else BUDGETS

    def run(self):
        self.ask()
        model = self.work.model(self.name, self.sets)
        for seed in self.seeds:
            model.start(seed)
            full = self.add(model, "full sampling", "full sampling", self.full(model), None)
            for goal, advice in self.advice.items():
                plans = [advice.plan_for(tree) for tree in model.trees.values()]
                cache = advice.chosen.way.cache
                self.add(model, goal, "advised", plans, full, cache)
                if goal.startswith(ROWS):
                    self.alone(model, goal, plans, full)

    def ask(self):
        """All advice that is needed: what was drawn for one goal is found again for the next."""
        calibration = self.work.calibration(self.name)
        calibration.start(CALIBRATION_SEED)
        samples = 4 if self.options.small else 12
        passes = 2 * self.steps
        kept = self.options.out.with_suffix(".kept") / self.name
        goals = [(LOSSLESS, ALLOWED, False), *((ROWS, share * passes / 2, False) for share in self.budgets)]
        goals += [(LOSSLESS, ALLOWED, True)] if self.name == "scenes" else []
        for goal, value, caches in goals:
            began = time.monotonic()
            more = {"caches": True} if caches else {}
            bench, tree = calibration.workbench(samples, CALIBRATION_SEED, self.steps, **more)
            advice = advise(bench, tree, goal, value, folder=kept)
            key = f"{goal} {value:g}{', with step caches' * caches}"
            self.advice[key] = advice
            self.work.write(
                kind="advice",
                model=self.name,
                goal=key,
                passes=advice.chosen.passes,
                full=advice.full.passes,
                loss=advice.loss,
                promised=advice.promised,
                verdict=advice.verdict,
                met=advice.met,
                sentences=advice.sentences,
                seconds=time.monotonic() - began,
            )

    def full(self, model):
        return [alone(tree.num_prompts, self.steps, tree.keys) for tree in model.trees.values()]

    def alone(self, model, goal, advised, full):
        """Each single means with no more passes than the advised plan of each set."""
        budgets = [passes_of(plan) for plan in advised]
        for means, make in SINGLE.items():
            plans = [make(tree, self.steps, passes) for tree, passes in zip(model.trees.values(), budgets, strict=True)]
            if all(plan is not None for plan in plans) and one_run(plans):
                self.add(model, goal, means, plans, full)

    def add(self, model, goal, way, plans, full, cache=""):
        """Draw, judge, write a line for each set; gives the drawing."""
        drawn = model.draw(plans, cache)
        figures = scored(model, drawn, full)
        for (name, plan), here in zip(zip(model.trees, plans, strict=True), slices(model), strict=True):
            self.work.write(
                kind="unseen",
                model=self.name,
                goal=goal,
                way=way,
                set=name,
                seed=model.seed,
                passes=passes_of(plan) if drawn.passes is None else drawn.passes,
                pictures=here.stop - here.start,
                **{key: float(values[here].mean()) for key, values in figures.items()},
            )
        return drawn


def passes_of(plan):
    """Passes for each picture."""
    return (plan.guidance or GuidanceCourse()).passes(plan) / plan.num_prompts


def one_run(plans):
    """Whether they can be drawn together."""
    return len({plan.num_steps for plan in plans}) == len({plan.guidance for plan in plans}) == 1


# --- wrong advice ----------------------------------------------------------------------------------------------------


def cases(options):
    """Settings of the random cases: (model, number)."""
    count = 2 if options.small else 40
    return [(options.models[i % len(options.models)], i) for i in range(count)]


def settings_of(name, number):
    """Sampler and strength of a case."""
    rng = np.random.default_rng([CASE_SEED, number])
    choices = EMOJI_CASES if name == "emoji" else SCENE_CASES
    return {key: rng.choice(np.array(values)).item() for key, values in choices.items()}, int(rng.integers(1000))


def run_case(work, name, number):
    """Advice on a set, as a user asks for it, and what the whole set loses with two other seeds."""
    began = time.monotonic()
    settings, seed = settings_of(name, number)
    size = 6 if work.options.small else 24
    sets = work.sets(name, 13 if name == "emoji" else 12, size, 50 + number)
    chosen = list(sets)[seed % len(sets)]
    model = work.model(name, {chosen: sets[chosen]}, **settings)
    model.start(seed)
    bench, tree = model.workbench(4 if work.options.small else 8, seed, work.steps(name))
    advice = advise(bench, tree, LOSSLESS, ALLOWED)
    plan = advice.plan_for(tree)
    found = whole_set(model, plan, work.steps(name), (seed + 101, seed + 102))
    work.write(
        kind="case",
        model=name,
        number=number,
        set=chosen,
        settings=settings,
        promised=advice.promised,
        expected=advice.loss,
        verdict=advice.verdict,
        met=advice.met,
        passes=passes_of(plan) / (2 * work.steps(name)),
        seconds=time.monotonic() - began,
        **found,
    )


def whole_set(model, plan, steps, seeds):
    """Losses in per cent, with standard errors, and what the judge finds."""
    rows, pictures = {"full": [], "advised": []}, []
    for seed in seeds:
        model.seed = seed  # of the noise: the embeddings of the emoji are the user's
        full = model.draw([alone(plan.num_prompts, steps, plan.prompt_keys)])
        pictures.append(full.pictures)
        rows["full"].append(scored(model, full))
        rows["advised"].append(scored(model, model.draw([plan]), full))
    column = {way: {key: np.array([one[key] for one in found]) for key in found[0]} for way, found in rows.items()}
    loss, error = mean_and_error(relative_loss(column["advised"]["adherence"], column["full"]["adherence"]))
    detail, detail_error = mean_and_error(column["advised"]["detail"])
    chance = mean_and_error(detail_loss(pictures[1], pictures[0]))[0]  # as the advisor counts it
    detail = float(np.sqrt(max(detail**2 - chance**2, 0.0))) if detail > 0 else detail
    return {
        "losses": {"adherence": 100 * loss, "detail": 100 * detail},
        "errors": {"adherence": 100 * error, "detail": 100 * detail_error},
        "right": {way: float(values["right"].mean()) for way, values in column.items()},
    }


# --- all of it -------------------------------------------------------------------------------------------------------

WORK = []


def begin(options, lock):
    """In each worker."""
    WORK.append(Work(options, lock))


@torch.no_grad()
def run(task):
    """A task in a worker; what goes wrong is a line of the file too."""
    kind, name, number = task
    work = WORK[0]
    try:
        if kind == "unseen":
            Unseen(work, name).run()
        else:
            run_case(work, name, number)
        work.write(kind="done", task=task)
    except Exception as error:  # the others go on
        traceback.print_exc()
        work.write(kind="failed", task=task, error=f"{type(error).__name__}: {error}"[:500])
    return task


def tasks(options):
    """Those that are not done yet, the long ones first."""
    everything = [("unseen", name, 0) for name in options.models] + [("case", *case) for case in cases(options)]
    done = {tuple(row["task"]) for row in rows_of(options.out) if row["kind"] == "done"}
    return [task for task in everything if task not in done]


def rows_of(path):
    """Lines of a file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check_judges(options):
    """The models whose judges are there."""
    paths = {"emoji": options.emoji_judge / "judge.safetensors", "scenes": options.scene_judge}
    missing = [name for name in options.models if not paths[name].is_file()]
    for name in missing:
        print(f"{name}: left out, there is no judge at {paths[name]}", file=sys.stderr)
    return [name for name in options.models if name not in missing]


def measure(options):
    """All tasks, until the time is over."""
    began, todo = time.monotonic(), tasks(options)
    machine = torch.cuda.get_device_name() if device_of() == "cuda" else "CPU"
    context = multiprocessing.get_context("spawn")
    lock = context.Lock()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": "machine", "machine": f"{machine}, torch {torch.__version__}"}) + "\n")
    with context.Pool(options.workers, begin, (options, lock)) as pool:  # leaving it ends what still runs
        results = pool.imap_unordered(run, todo)
        for _ in todo:
            left = 60 * options.minutes - (time.monotonic() - began)
            try:
                task = results.next(timeout=max(left, 0.1))
            except multiprocessing.TimeoutError:
                print("the time is over: what is done is reported", file=sys.stderr)
                break
            print(f"{time.monotonic() - began:.0f} s: {' '.join(map(str, task))}", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few prompts, steps and cases: for a CPU")
    parser.add_argument("--models", nargs="+", default=["emoji", "scenes"], choices=["emoji", "scenes"])
    parser.add_argument("--minutes", type=float, default=6.0, help="for everything; what is done then is reported")
    parser.add_argument("--workers", type=int, help="processes; 8 by default, 1 with --small")
    parser.add_argument("--emoji-judge", type=Path, default=JUDGES / "run" / "judge")
    parser.add_argument("--scene-judge", type=Path, default=JUDGES / "scenes" / "judges" / "judge-202.safetensors")
    parser.add_argument("--scenes", type=Path, default=SCENES, help="folder of the scene model")
    parser.add_argument("--out", type=Path, default=Path("advice.jsonl"))
    parser.add_argument("--report", type=Path, metavar="JSONL", help="only print the tables again")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="also draw the figure")
    options = parser.parse_args()
    options.workers = options.workers or (1 if options.small else 8)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
    if not options.report:
        options.models = check_judges(options) or sys.exit("nothing can be judged")
        measure(options)
    rows = rows_of(options.report or options.out)
    print(report(rows))
    if options.figure:
        figure(rows).save(options.figure)


if __name__ == "__main__":
    main()
