"""Advice in plain words, for somebody who never heard of its method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .menu import BOOST, ENDS, FULL, NEAR, STEPS, TOGETHER, TRUNK

if TYPE_CHECKING:
    from .advised_way import Advice, Measured
    from .ways import Way

OF = {
    "adherence": "of what the prompts show in their pictures",
    "detail": "of the fine detail",
    "fidelity": "of the difference between two prompts' pictures",
}
UNSEEN = 0.5  # per cent that nobody measures
UNSURE = 2.0  # per cent: what is larger is a loss, however unsure
SURE = 2.0  # standard errors
DEEP = 0.5  # of the steps
NOISY = ("ancestral", "sde", "ddpm", "lcm")  # in names of samplers
SAVES = 0.98  # of the passes: what leaves more saves nothing


def sentences_of(advice: Advice) -> tuple[str, ...]:
    """What pays, what it costs, how sure that is, and what each means does alone.

    Parameters
    ----------
    advice : Advice

    Returns
    -------
    sentences : tuple of str
        The first says it all.
    """
    lines = [_headline(advice)]
    if advice.chosen != advice.full:
        lines.append(_checked(advice))
    lines += [line for means in _means(advice) if (line := _alone(advice, means))]
    if _bears_little_sharing(advice) and not _adds_noise(advice):
        lines.append(
            "Samplers that add noise in each step, such as Euler ancestral, often bear more sharing: measure with one."
        )
    if not advice.guided:
        lines.append("This model is used without guidance, so there is none to cut or to raise.")
    if "detail" not in advice.full.losses and "adherence" in advice.full.losses:
        lines.append("Fine detail was not measured: nothing decoded the pictures.")
    return tuple(lines)


def _bears_little_sharing(advice: Advice) -> bool:
    """Whether a trunk of `DEEP` of the steps or less was already too much."""
    failed = [one for one in advice.measured if one.means == TRUNK and advice.verdict_on(one) != "none"]
    return any(_share_above(advice.full.way, one.way.trunk) <= DEEP for one in failed)


def _adds_noise(advice: Advice) -> bool:
    """Whether the sampler's name says that it adds noise."""
    names = " ".join(str(value).lower() for value in advice.settings.values())
    return any(kind in names for kind in NOISY)


def _headline(advice: Advice) -> str:
    chosen, full = advice.chosen, advice.full
    if chosen == full:
        return _nothing(advice)
    parts = _parts(chosen.way, full.way)
    together = "together " if len(parts) > 1 else ""
    cost = f"{together}{number(chosen.passes)} instead of {number(full.passes)} passes per picture"
    line = "; ".join([*parts, f"{cost}, {_lost(chosen)}"])
    if not advice.met:
        line += f". {_missed(advice)}"
    return _capital(line) + "."


def _parts(way: Way, full: Way) -> list[str]:
    """What a way does, a part for each means."""
    parts = []
    shared, near = (_share_above(full, level) for level in (way.trunk, way.sharing[-1][0] if way.sharing else 1.0))
    if shared and near > shared:
        parts.append(f"sharing pays: all prompts together for the first {shared:.0%} of the steps, ".replace("%", " %"))
        parts[-1] += f"neighbours for {near:.0%}".replace("%", " %")
    elif shared or near:
        who = "sharing" if shared else "sharing between neighbours"
        parts.append(f"{who} pays up to {max(shared, near):.0%} of the steps".replace("%", " %"))
    if way.steps < full.steps:
        parts.append(f"{way.steps} of {full.steps} steps are enough")
    if way.guidance.end < 1:
        parts.append(f"guidance can stop after {way.guidance.end:.0%}".replace("%", " %"))
    if way.guidance.boosts:
        steps = f"{way.guidance.boost_steps} step{'s' * (way.guidance.boost_steps > 1)}"
        parts.append(f"guidance times {way.guidance.boost:g} for {steps} after each split mends what sharing costs")
    if way.cache:
        parts.append(f"{way.cache} skips what hardly changes")
    return parts


def _share_above(full: Way, level: float) -> float:
    """Share of full sampling's steps that end at a noise level or above."""
    return sum(own >= level for own in full.levels[1:]) / full.steps


def _lost(measured: Measured) -> str:
    """What a way lost, in words."""
    if measured.loss <= max(UNSEEN, min(SURE * measured.error, UNSURE)):
        return "no measurable loss"
    name = max(measured.losses, key=lambda own: measured.losses[own])
    return f"{_percent(measured.loss)} lost {OF[name]}"


def _nothing(advice: Advice) -> str:
    """Nothing holds the goal, or nothing that does saves anything."""
    if advice.met:
        return f"All {advice.full.way.steps} steps, unshared: that is within the goal, and nothing loses less."
    line = f"Nothing that saves holds a loss of {_percent(advice.value)}: draw all steps, and share none"
    saving = [one for one in advice.measured if one.passes < SAVES * advice.full.passes]
    if not saving:
        return f"{line}."
    least = min(saving, key=lambda one: one.at_most(1.0))
    cost = f"takes {number(least.passes)} instead of {number(advice.full.passes)} passes per picture"
    lost = f"{_percent(least.loss)} ± {_percent(least.error)}"
    if least.loss <= advice.value:
        return f"{line}. What {cost} lost {lost}, too unsure to be promised: measure with more samples."
    return f"{line}. What loses least of all that was tried {cost}, and loses {lost}."


def _missed(advice: Advice) -> str:
    asked = number(advice.value * (1 + advice.guided))
    return f"No way takes {asked} passes or fewer for this set, so this is the one that takes the fewest"


def _checked(advice: Advice) -> str:
    each = ", ".join(
        f"{_percent(loss)} ± {_percent(advice.chosen.errors[name])} {OF[name]}"
        for name, loss in advice.chosen.losses.items()
    )
    return (
        f"Checked by drawing it for {advice.samples} of {advice.prompts} prompts with three seeds; it lost {each}. "
        f"Expect {_percent(advice.promised)} at most."
    )


def _means(advice: Advice) -> list[str]:
    """Means that were tried alone, in the order in which they were tried."""
    known = [STEPS, ENDS, TRUNK, BOOST, NEAR]
    others = [one.means for one in advice.measured if one.means not in (*known, TOGETHER, FULL)]
    return list(dict.fromkeys([*known, *others]))


def _alone(advice: Advice, means: str) -> str | None:
    """How far one means can be taken alone."""
    own = sorted((one for one in advice.measured if one.means == means), key=lambda one: one.passes)
    allowed = advice.value if advice.goal == "no visible loss" else 5.0
    if not own:
        return None
    held = [one for one in own if one.loss <= allowed]
    if held:
        return _capital(f"{means}, alone: {_degree(held[0], advice)} lose {_percent(held[0].loss)}.")
    return _capital(f"{means}, alone, does not pay: {_degree(own[-1], advice)} lose {_percent(own[-1].loss)}.")


def _degree(measured: Measured, advice: Advice) -> str:
    way, full = measured.way, advice.full.way
    cost = f"{number(measured.passes)} passes"
    if measured.means == STEPS:
        return f"{way.steps} of {full.steps} steps ({cost})"
    if measured.means == ENDS:
        return f"{way.guidance.end:.0%} of the steps guided ({cost})".replace("%", " %")
    if measured.means in (TRUNK, BOOST, NEAR):
        level = min(way.trunk, way.sharing[-1][0] if way.sharing else 1.0)
        return f"{_share_above(full, level):.0%} of the steps shared ({cost})".replace("%", " %")
    return cost


def _percent(value: float) -> str:
    digits = 1 if abs(value) < 10 else 0
    return f"{max(value, 0.0):.{digits}f} %"


def number(value: float) -> str:
    """A number of passes: one digit after the point where there is something to say."""
    return f"{value:.1f}".removesuffix(".0")


def _capital(line: str) -> str:
    return line[:1].upper() + line[1:]
