"""The advisor's search: each means alone, then mixes of them, the best of which are checked with another noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..plan.tree import PromptTree
from .curves import Curves
from .menu import BOOST, BOOSTS, ENDS, FULL, NEAR, STEPS, TOGETHER, Menu, Mix
from .trials import Trials

CHECKS = 12  # mixes that are drawn at most
SINGLES = 3  # means alone that are checked at most, until one holds
CHECKED = 6.0  # full samplings of the sample that checks may take at most
NOISES = (0, 1)  # the first chooses, both check
FIRST = NOISES[:1]
FRESH = (2, 3)  # noises that took no part in any choice: the advised mix is confirmed with them
CONFIRMED = (*NOISES[1:], *FRESH)  # what is said of the advised mix: the noise that chose it flatters it
ROUNDS = 3  # mixes that may fail to be confirmed, before none is advised
MARGIN = 1.0  # standard errors that the loss of what is advised stays below the tolerance
WORTH = 0.97  # of the passes: savings beyond that are worth another check
TYPICAL = 5.0  # per cent: losses of about this size are looked for where the goal is a number of passes
MENDED = 0.7  # a boost pays if it leaves no more of the loss
FAR = 2.0  # tolerances: what loses more with the first noise is not drawn with the second
ALMOST = 1.25  # of the least loss so far: what is expected to lose no more is worth a drawing
FINALISTS = 3  # mixes that are checked where the goal is a number of passes
ROUNDING = 1e-9


@dataclass(frozen=True)
class Found:
    """One mix that was drawn.

    Attributes
    ----------
    mix : Mix
        How far each means was taken.
    passes : float
        For each picture of the whole set.
    losses, errors : dict of str to float
        In per cent, see `Trials.losses`.
    checked : bool
        Whether by all `NOISES`.
    confirmed : bool
        Whether its losses are those with `CONFIRMED` noises.
    """

    mix: Mix
    passes: float
    losses: dict[str, float]
    errors: dict[str, float]
    checked: bool = False
    confirmed: bool = False

    @property
    def loss(self) -> float:
        """The largest of the losses."""
        return max(self.losses.values())

    @property
    def careful(self) -> float:
        """The largest of the losses, with `MARGIN`."""
        return max(self.losses[name] + MARGIN * self.errors[name] for name in self.losses)


@dataclass(eq=False)
class Search:
    """Everything that is tried on a workbench.

    Attributes
    ----------
    menu : Menu
        What can be tried.
    trials : Trials
        What was drawn.
    tree : PromptTree
        Of the whole set.
    tolerance : float
        Loss in per cent that a means alone is to stay below.
    curves : Curves
        What each means lost alone.
    found : dict
        All that was drawn, by its mix.
    caches : dict
        Share of the passes that each step cache leaves.
    boost : float
        Of guidance after a split, where that was found to mend; 1: nowhere.
    raised : dict of str to float
        What that guidance gains where the trunk is as short as can be and leaves little to mend, per cent.
    """

    menu: Menu
    trials: Trials
    tree: PromptTree
    tolerance: float = TYPICAL
    curves: Curves = field(default_factory=Curves)
    found: dict[Mix, Found] = field(default_factory=dict)
    caches: dict[str, float] = field(default_factory=dict)
    boost: float = 1.0
    raised: dict[str, float] = field(default_factory=dict)

    def draw(self, mix: Mix, check: bool = False, confirm: bool = False) -> Found:
        """Draw a mix, with both noises if it is to be checked, with fresh ones if it is to be confirmed."""
        known = self.found.get(mix)
        if known is not None and (known.confirmed if confirm else known.checked or not check):
            return known
        way, what = self.menu.way(mix), self.menu.named(mix)
        losses, errors = self.trials.losses(way, CONFIRMED if confirm else NOISES if check else FIRST, what)
        losses = {name: loss + self._gained(mix, name) for name, loss in losses.items()}
        self._count(mix)
        self.found[mix] = Found(mix, self.passes(mix), losses, errors, check or confirm, confirm)
        if mix.means not in (TOGETHER, FULL):
            which = mix.boost if mix.means == BOOST else None
            self.curves.add(mix.means, 0 if mix.cache else max(mix.degrees), losses, which)
            self.__dict__.pop("sums", None)
        return self.found[mix]

    def _gained(self, mix: Mix, name: str) -> float:
        """What other guidance gains by itself, where it does: it must not hide what other means lose."""
        alone = self.curves.alone.get((ENDS, None), {})
        gained = self.raised.get(name, 0.0) if mix.boost != 1 else 0.0
        if mix.ends < 0 or mix.means != TOGETHER or not alone:
            return gained
        nearest = min(alone, key=lambda degree: abs(degree - mix.ends))
        return gained + max(0.0, -alone[nearest][name])

    def _count(self, mix: Mix) -> None:
        """How many passes a cache leaves, where a drawing has told it."""
        way, bench = self.menu.way(mix), self.trials.workbench
        made = self.trials.score(way, 0, "").passes
        if mix.cache and made is not None:
            self.caches[mix.cache] = made / (way.passes(bench.tree, bench.guided) * bench.tree.num_distinct)

    def passes(self, mix: Mix) -> float:
        """Passes for each picture of the whole set."""
        way = self.menu.way(mix)
        return way.passes(self.tree, self.trials.workbench.guided) * self.caches.get(mix.cache, 1.0)

    # --- each means alone

    def each_alone(self) -> None:
        """Draw full sampling with both noises, then each means until it no longer holds the tolerance."""
        menu, full = self.menu, Mix()
        self.draw(full, check=True)
        self.halve(len(menu.step_counts), lambda degree: Mix(steps=degree))
        self.halve(len(menu.guided_shares), lambda degree: Mix(ends=degree))
        holds = self.halve(len(menu.depths), lambda degree: Mix(trunk=degree))
        if holds >= 0 and menu.near_depths:  # what all can share, neighbours can
            self.curves.add(NEAR, holds, self.draw(Mix(trunk=holds)).losses)
        self.halve(len(menu.near_depths), lambda degree: Mix(near=degree), holds)
        self._boosts(holds + 1)
        for name in self.trials.workbench.caches:
            self.draw(Mix(cache=name))

    def halve(self, count: int, mix: Callable[[int], Mix], holds: int = -1) -> int:
        """Find the greatest degree that holds the tolerance by halving; -1 for none.

        Parameters
        ----------
        count : int
            Degrees that there are.
        mix : callable
            ``mix(degree)``.
        holds : int
            A degree that is known to hold.

        Returns
        -------
        degree : int
        """
        fails = count
        while fails - holds > 1:
            degree = (holds + fails) // 2
            found = self.draw(mix(degree))
            holds, fails = (degree, fails) if found.loss <= self.tolerance else (holds, degree)
        return holds

    def _boosts(self, fails: int) -> None:
        """Where a trunk failed, whether stronger guidance after its splits mends it; then how deep it may be."""
        depths = self.menu.depths
        if not self.trials.workbench.guided or fails >= len(depths):
            return
        loss = self.draw(Mix(trunk=fails)).loss
        for boost in BOOSTS:
            self.raised = {}
            shortest = self.draw(Mix(trunk=0, boost=boost)).losses
            without = self.draw(Mix(trunk=0)).losses
            self.raised = {name: max(0.0, without[name] - shortest[name]) for name in without}
            found = self.draw(Mix(trunk=fails, boost=boost))
            if found.loss <= MENDED * loss:
                self.boost = boost
                if found.loss <= self.tolerance:  # else no deeper trunk holds it
                    self.halve(len(depths), lambda degree: Mix(trunk=degree, boost=boost), fails)  # noqa: B023
                return

    # --- mixes

    @cached_property
    def mixes(self) -> list[tuple[float, Mix]]:
        """All mixes with their passes, fewest first."""
        guided = self.trials.workbench.guided
        found = []
        for mix in self._sharings():
            way = self.menu.way(mix)
            shared = np.searchsorted(self.tree.heights, way.thresholds(self.tree), side="right")
            rows = (self.tree.num_distinct - shared) / self.tree.num_distinct
            for degree in range(-1, len(self.menu.guided_shares)):
                own = replace(mix, ends=degree)
                if not self.menu.guides_splits(own):
                    continue
                course = self.menu.course(own, way.steps)
                passes = float(rows @ (1 + course.inside(way.steps) if guided else np.ones(way.steps)))
                found += [(passes * self.caches.get(name, 1.0), replace(own, cache=name)) for name in self._caches()]
        return sorted(found, key=lambda one: one[0])

    def _caches(self) -> tuple[str, ...]:
        return ("", *(name for name in self.trials.workbench.caches if name in self.caches))

    def _sharings(self) -> Iterator[Mix]:
        """All numbers of steps with all sharings, raised guidance too where it was found to mend."""
        near = range(len(self.menu.near_depths))
        for steps in range(-1, len(self.menu.step_counts)):
            for trunk in range(-1, len(self.menu.depths)):
                for degree in (-1, *(own for own in near if own > trunk)):
                    for boost in {1.0, self.boost} if trunk >= 0 else {1.0}:
                        yield Mix(steps, trunk, degree, boost=boost)

    @cached_property
    def sums(self) -> np.ndarray:
        """What each of `mixes` is expected to lose by its means alone, per cent; once all were drawn alone."""
        names = tuple(self.found[Mix()].losses)
        return np.array([self.curves.sum_of(mix, names) for _, mix in self.mixes])

    def expected(self) -> np.ndarray:
        """What each of `mixes` is expected to lose, as those that were drawn have lost more or less."""
        return np.where(self._together, self.curves.times([mix for _, mix in self.mixes]) * self.sums, self.sums)

    @cached_property
    def _together(self) -> np.ndarray:
        return np.array([mix.means == TOGETHER for _, mix in self.mixes])

    def within(self, tolerance: float) -> Found | None:
        """The mix with the fewest passes that holds a tolerance, confirmed; None where none does.

        Parameters
        ----------
        tolerance : float
            Per cent.

        Returns
        -------
        found : Found or None
        """
        most = round(self.trials.done + CHECKED * self.trials.passes_of(self.trials.full))
        for _ in range(ROUNDS):
            best = self._checked_within(tolerance, most)
            if best is None:
                return None
            confirmed = self.draw(best.mix, confirm=True)
            if confirmed.careful <= tolerance:
                return confirmed
        return None

    def _checked_within(self, tolerance: float, most: int) -> Found | None:
        """The mix with the fewest passes that was checked and holds a tolerance; none where none does.

        The best means alone is made sure of first. Then the mix of the fewest passes that is expected to hold is drawn;
        once one has failed, those that change a single means of the best one so far come first.
        """
        alone, failed = self._alone_within(tolerance)
        checked = [alone, *(found for found in self.found.values() if found.checked)]
        held = [one for one in checked if one and one.careful <= tolerance and self._saves(one)]
        best = min(held, key=lambda one: one.passes, default=None)
        failed += [found.mix for found in self.found.values() if found.confirmed and found.careful > tolerance]
        near = None
        for _ in range(CHECKS):
            below = WORTH * (self.passes(Mix()) if best is None else best.passes)
            mix = self._next(tolerance, failed, below, near) or self._next(tolerance, failed, below)
            if mix is None or self.trials.done + len(NOISES) * self.trials.passes_of(self.menu.way(mix)) > most:
                break
            found = self._tried(mix, tolerance)
            if found.checked and found.careful <= tolerance:
                best, near = found, None
            else:
                failed.append(mix)
                near = None if best is None else best.mix
        return best

    def _saves(self, found: Found) -> bool:
        """Whether a mix is worth more than full sampling: a cache that skips nothing saves nothing."""
        return found.passes <= WORTH * self.passes(Mix())

    def _alone_within(self, tolerance: float) -> tuple[Found | None, list[Mix]]:
        """Of the means alone the one with the fewest passes that holds with both noises, and those that do not."""
        failed = []
        single = [found for found in self.found.values() if found.mix.means != TOGETHER]
        held = [found for found in single if self._saves(found) and found.loss <= tolerance]
        for found in sorted(held, key=lambda one: one.passes)[:SINGLES]:
            checked = self.draw(found.mix, check=True)
            if checked.careful <= tolerance:
                return checked, failed
            failed.append(found.mix)
        return None, failed

    def _next(self, tolerance: float, failed: list[Mix], below: float, near: Mix | None = None) -> Mix | None:
        """The mix of the fewest passes that is expected to hold; none severer than one that failed."""
        aim = self._aim(tolerance)
        for (passes, mix), loss in zip(self.mixes, self.expected(), strict=True):
            if passes > below:
                return None
            known = self.found.get(mix)
            if (known is not None and known.checked) or (near is not None and mix.changes(near) > 1):
                continue
            if loss <= aim and not any(mix.severer(one) for one in failed):
                return mix
        return None

    def _aim(self, tolerance: float) -> float:
        """The loss that leaves room for `MARGIN`, as unsure as drawn losses are; half the tolerance at least."""
        errors = [max(found.errors.values()) for found in self.found.values() if found.mix != Mix()]
        unsure = float(np.median(errors)) if errors else 0.0
        return max(tolerance / 2, tolerance - MARGIN * unsure) if np.isfinite(unsure) else tolerance

    def _tried(self, mix: Mix, tolerance: float) -> Found:
        """Draw a mix; with the second noise unless it fails by far with the first."""
        found = self._learnt(mix)
        return found if found.loss > FAR * tolerance else self.draw(mix, check=True)

    def _learnt(self, mix: Mix) -> Found:
        """Draw a mix, and compare it with what was expected of it."""
        new = mix not in self.found
        found = self.draw(mix)
        if new and mix.means == TOGETHER:
            self.curves.mixed.append((mix, self.curves.sum_of(mix, tuple(found.losses)), found.loss))
        return found

    def for_passes(self, passes: float) -> Found:
        """The mix that loses least with so many passes for each picture, or the one with the fewest; confirmed."""
        places = np.array([place for place, (own, _) in enumerate(self.mixes) if own <= passes * (1 + ROUNDING)])
        if not len(places):
            return self.draw(self.mixes[0][1], confirm=True)
        drawn = [self._learnt(mix) for mix in self._contenders(places)]
        for _ in range(CHECKS - len(drawn)):  # what was learnt may favour another one
            expected, least = self.expected()[places], min(found.loss for found in drawn)
            order = (int(i) for i in np.argsort(expected, kind="stable"))
            best = next((i for i in order if self.mixes[places[i]][1] not in self.found), None)
            if best is None or expected[best] > ALMOST * least:
                break
            drawn.append(self._learnt(self.mixes[places[best]][1]))
        finalists = sorted(drawn, key=lambda found: found.loss)[:FINALISTS]
        best = min((self.draw(found.mix, check=True) for found in finalists), key=lambda found: found.loss)
        return self.draw(best.mix, confirm=True)

    def _contenders(self, affordable: np.ndarray) -> list[Mix]:
        """The most promising mixes of several kinds: what is expected of mixes may favour one kind wrongly."""
        order = affordable[np.argsort(self.expected()[affordable], kind="stable")]
        kinds: tuple[Callable[[Mix], bool], ...] = (
            lambda mix: True,
            lambda mix: max(mix.trunk, mix.near) < 0,
            lambda mix: max(mix.trunk, mix.near) < 0 <= min(mix.steps, mix.ends),
            lambda mix: mix.steps < 0,
            lambda mix: mix.ends < 0,
            lambda mix: mix.means == STEPS,
            lambda mix: max(mix.steps, mix.ends) < 0 and mix.boost == 1,
        )
        best = (next((self.mixes[place][1] for place in order if kind(self.mixes[place][1])), None) for kind in kinds)
        return list(dict.fromkeys(mix for mix in best if mix is not None))
