"""Ways that are drawn, what each loses against full sampling, and a file that keeps it after each drawing.

Legend: S sampled prompts. Losses are in per cent of what full sampling of the same prompts has.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from dataclasses import replace as replaced
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..files.whole_files import replace
from ..plan.sensitivity import bounded_text
from .detail import detail_loss, fidelity_loss
from .losses import mean_and_error, relative_loss
from .ways import Way, way_data

if TYPE_CHECKING:
    from .workbench import Drawn, Workbench

FORMAT = "hierdiff-trials-1"
MOST_BYTES = 1 << 24
# progress(done, most, what): passes that are done, those that it may take at most, and what is drawn now, in words.
Progress: TypeAlias = Callable[[int, int, str], Any]
GOOD, SAME = MEASURES = ("looks as good", "looks the same")


@dataclass(frozen=True)
class Scores:
    """What was measured on one drawing.

    Attributes
    ----------
    values : dict of str to S floats
        By the names of the losses: "adherence" itself, "detail" and "fidelity" as losses against full sampling with
        the same noise.
    passes : float or None
        That the drawing took, where it says so.
    chance : S floats, or None
        Of full sampling with another noise: "detail" against full sampling with the first.
    """

    values: dict[str, list[float]]
    passes: float | None = None
    chance: list[float] | None = None


@dataclass
class Trials:
    """All drawings of a measurement, each made once.

    Attributes
    ----------
    workbench : Workbench
        The model and the sampled prompts.
    full : Way
        Full sampling.
    measure : str
        One of `MEASURES`.
    path : Path or None
        Of the file that keeps them.
    progress : callable or None
        Called before each drawing.
    most : int
        Passes that all of them may take.
    done : int
        Passes so far, those of kept drawings too.
    """

    workbench: Workbench
    full: Way
    measure: str
    path: Path | None = None
    progress: Progress | None = None
    most: int = 0
    done: int = 0
    scores: dict[str, Scores] = field(default_factory=dict)
    references: dict[int, Drawn] = field(default_factory=dict)
    counted: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.is_file():
            self.scores = _kept(self.path)

    def passes_of(self, way: Way) -> int:
        """Passes of a drawing and its measurement, before it is made."""
        tree, measured = self.workbench.tree, self.measure == GOOD
        drawn = way.passes(tree, self.workbench.guided) * tree.num_distinct
        return round(drawn) + measured * self.workbench.adherence_passes * tree.num_prompts

    def score(self, way: Way, repeat: int, what: str) -> Scores:
        """The scores of a way with some noise: drawn, unless they are kept.

        Parameters
        ----------
        way : Way
            To be drawn.
        repeat : int
            See `Workbench.draw`.
        what : str
            For the progress.

        Returns
        -------
        scores : Scores
        """
        key = self._key(way, repeat)
        if key not in self.scores:
            drawn = self._draw(way, repeat, what)
            self.scores[key] = self._scores(drawn, way, repeat)
            self._keep()
        if key not in self.counted:
            self.counted.add(key)
            self.done += self.passes_of(way)
        return self.scores[key]

    def losses(self, way: Way, repeats: Sequence[int], what: str) -> tuple[dict[str, float], dict[str, float]]:
        """What a way loses against full sampling with the same noise, and the standard errors.

        Parameters
        ----------
        way : Way
            To be drawn.
        repeats : sequence of int
            Noises, over which the mean is taken.
        what : str
            For the progress.

        Returns
        -------
        losses : dict of str to float
            Means in per cent.
        errors : dict of str to float
            Standard errors of the means, from the differences between prompts and between noises.
        """
        full = [self.score(self.full, repeat, "full sampling").values for repeat in repeats]
        own = full if way == self.full else [self.score(way, repeat, what).values for repeat in repeats]
        losses, errors = {}, {}
        for name in full[0]:
            values, reference = np.array([one[name] for one in own]), np.array([one[name] for one in full])
            shares = relative_loss(values, reference) if name == "adherence" else values
            mean, error = mean_and_error(shares)
            error = float(np.hypot(error, _between_noises(shares)))
            losses[name], errors[name] = 100 * self._above_chance(name, mean), 100 * error
        return losses, errors

    def _above_chance(self, name: str, mean: float) -> float:
        """Detail is compared without its sign: that of another noise differs by chance alone, which is no loss."""
        if name != "detail" or mean <= 0:
            return mean
        chance = mean_and_error(self.score(self.full, 1, "full sampling, another noise").chance or [0.0])[0]
        return float(np.sqrt(max(mean**2 - chance**2, 0.0)))

    def _reference(self, repeat: int) -> Drawn:
        """Full sampling's pictures; drawn again where only their scores were kept."""
        if repeat not in self.references:
            self.references[repeat] = self._draw(self.full, repeat, "full sampling")
        return self.references[repeat]

    def _draw(self, way: Way, repeat: int, what: str) -> Drawn:
        if way == self.full and repeat in self.references:
            return self.references[repeat]
        if self.progress is not None:
            self.progress(min(self.done, self.most), self.most, what)
        drawn = self.workbench.draw(way, way.plan(self.workbench.tree), repeat)
        if way == self.full:
            self.references[repeat] = drawn
        return drawn

    def _scores(self, drawn: Drawn, way: Way, repeat: int) -> Scores:
        if self.measure == SAME:
            reference = drawn if way == self.full else self._reference(repeat)
            return Scores({"fidelity": fidelity_loss(drawn.latents, reference.latents).tolist()}, drawn.passes)
        scores = Scores({"adherence": np.asarray(self.workbench.adherence(drawn.latents)).tolist()}, drawn.passes)
        if drawn.pictures is None:
            return scores
        scores.values["detail"] = self._detail(drawn, drawn if way == self.full else self._reference(repeat))
        another = way == self.full and repeat > 0
        return replaced(scores, chance=self._detail(drawn, self._reference(0))) if another else scores

    @staticmethod
    def _detail(drawn: Drawn, reference: Drawn) -> list[float]:
        if drawn.pictures is None or reference.pictures is None:
            raise ValueError("a workbench must give pictures of all ways, or of none")
        return detail_loss(drawn.pictures, reference.pictures).tolist()

    def _key(self, way: Way, repeat: int) -> str:
        return json.dumps([self.measure, repeat, way_data(way)])

    def _keep(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = {"format": FORMAT, "trials": {key: asdict(one) for key, one in self.scores.items()}}
        replace(self.path, (json.dumps(data) + "\n").encode())


def _between_noises(shares: np.ndarray) -> float:
    """Standard error of the mean over R noises of (R, S) losses: all prompts of a set begin with the same one."""
    means = shares.mean(axis=1)
    return float(means.std(ddof=1) / len(means) ** 0.5) if len(means) > 1 else 0.0


def trials_path(folder: str | os.PathLike, workbench: Workbench) -> Path:
    """The file of a model's trials in a folder: another one for other weights, settings or prompts."""
    tree = workbench.tree
    known = [workbench.fingerprint, workbench.steps, sorted((k, str(v)) for k, v in workbench.settings.items())]
    leaves = [tree.Z.tolist(), tree.keys, tree.prompts]
    return Path(folder) / f"{hashlib.sha256(json.dumps([known, leaves]).encode()).hexdigest()[:32]}.json"


def _kept(path: Path) -> dict[str, Scores]:
    """What a file keeps; nothing where it is none of ours: then it is measured again."""
    try:
        data = json.loads(bounded_text(path, MOST_BYTES))
        if data["format"] != FORMAT:
            return {}
        return {key: Scores(one["values"], one["passes"], one["chance"]) for key, one in data["trials"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
