"""What was measured for a plan on the model that is to draw it. A plan that is changed forgets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .sensitivity import LONGEST_TEXT, check_settings, is_number, shortened

VERDICTS = ("none", "slight", "visible")
LARGEST = 1e12  # loss or passes of a file


@dataclass(frozen=True)
class Advised:
    """The verdict on a plan: what a measurement on one model says that it loses against sampling everything.

    Attributes
    ----------
    model : str
        Fingerprint of the weights.
    settings : dict
        What it holds for: sampler, scheduler, steps, cfg, size; short texts and numbers.
    verdict : one of VERDICTS
        How much of the loss can be seen.
    loss : float
        Against full sampling of the same prompts, relative to it; below 0 where the plan is better.
    passes : float
        Of the model for each picture: a guided step is two.
    measure : str
        What the loss is a loss of.

    Raises
    ------
    ValueError
        Naming the entry, if it is something else.

    Examples
    --------
    >>> from hierdiff_core.plan.advised import Advised
    >>> Advised("5f1c", {"sampler": "euler", "steps": 20}, "none", 0.004, 12.3, "looks as good").verdict
    'none'
    """

    model: str
    settings: dict[str, Any]
    verdict: str
    loss: float
    passes: float
    measure: str

    def __post_init__(self) -> None:
        for name in ("model", "measure"):
            value = getattr(self, name)
            if not isinstance(value, str) or not 0 < len(value) <= LONGEST_TEXT:
                raise ValueError(f"{name} must be a text of 1 to {LONGEST_TEXT} characters; got {shortened(value)}")
            value.encode()  # half surrogates: UnicodeEncodeError is a ValueError
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}; got {shortened(self.verdict)}")
        for name, least in (("loss", -LARGEST), ("passes", 0)):
            value = getattr(self, name)
            if not (is_number(value) and least <= value <= LARGEST):
                raise ValueError(f"{name} must be a number from {least:g} to {LARGEST:g}; got {shortened(value)}")
            object.__setattr__(self, name, float(value))
        check_settings(self.settings)


def advised_data(advised: Advised) -> dict[str, Any]:
    """What a file of a plan holds of it, as JSON's types."""
    return {name: getattr(advised, name) for name in Advised.__dataclass_fields__}


def advised_of(data: Any) -> Advised:
    """An `Advised` from what `advised_data` gave, or somebody else made; `ValueError` if it is something else."""
    names = list(Advised.__dataclass_fields__)
    if not isinstance(data, dict) or not data.keys() >= set(names):
        raise ValueError(f"advised must have {', '.join(names)}; got {shortened(data)}")
    try:
        return Advised(**{name: data[name] for name in names})
    except ValueError as error:
        raise ValueError(f"advised: {error}") from error
