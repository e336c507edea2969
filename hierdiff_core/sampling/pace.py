"""How fast a run goes: seconds for an amount of work, from what was measured on the way; and seconds in words."""

from __future__ import annotations

import numpy as np

LEAST_RECENT = 8  # evaluations that an estimate of the time left is made of, where there are as many
RECENT_SHARE = 0.25
SLOW = 3.0  # times the upper quartile of the seconds for a unit of work: what was beyond it was no work (compiling)
LARGE = 0.9  # of the largest evaluation


class Pace:
    """Seconds that work takes, from evaluations of different sizes.

    Notes
    -----
    The first evaluation is left out: it loads, compiles and tunes. Others that took far longer than most count as if
    they had taken three times as long as the upper quartile. Where a step cache answers, the means have its answers in
    them: what is left and what separate runs would take are told as if it answered as often there.

    Examples
    --------
    >>> from hierdiff_core.sampling.pace import Pace
    >>> pace = Pace()
    >>> for work, seconds in ((1, 9.0), (1, 1.5), (2, 2.0), (4, 3.0)):
    ...     pace.add(work, seconds)
    >>> round(pace.per_unit, 2), pace.per_unit_of_large
    (0.93, 0.75)
    """

    def __init__(self) -> None:
        self._measured: list[tuple[float, float]] = []

    def add(self, work: float, seconds: float) -> None:
        """Note one evaluation.

        Parameters
        ----------
        work : float
            Its size, in any unit.
        seconds : float
            That it took.
        """
        if work > 0:
            self._measured.append((work, max(seconds, 0.0)))

    @property
    def per_unit(self) -> float | None:
        """Seconds for a unit of work at the rate of the latest evaluations; None before the second of a run."""
        work, seconds = self._usual()
        if not len(work):
            return None
        recent = slice(-max(LEAST_RECENT, round(RECENT_SHARE * len(work))), None)
        return float(seconds[recent].sum() / work[recent].sum())

    @property
    def per_unit_of_large(self) -> float | None:
        """Seconds for a unit of work in the larger evaluations; None before the second of a run.

        Less than in small ones where a part of the time goes into every evaluation, as with few rows on a fast GPU.
        """
        work, seconds = self._usual()
        if not len(work):
            return None
        large = work >= LARGE * work.max()
        return float(seconds[large].sum() / work[large].sum())

    @property
    def measured(self) -> float:
        """Seconds of all evaluations, the first and slow ones counted as the others would have taken."""
        work, seconds = self._usual()
        if not len(work):
            return 0.0
        return float(seconds.sum() + self._measured[0][0] * seconds.sum() / work.sum())

    def _usual(self) -> tuple[np.ndarray, np.ndarray]:
        """Sizes and seconds of all evaluations but the first, none far slower than most."""
        work, seconds = np.array(self._measured[1:], dtype=np.float64).reshape(-1, 2).T
        if not len(work):
            return work, seconds
        usual = float(np.quantile(seconds / work, 0.75))
        return work, np.minimum(seconds, SLOW * usual * work)


def in_words(seconds: float) -> str:
    """A time in words, as exact as is of use.

    Parameters
    ----------
    seconds : float >= 0

    Returns
    -------
    words : str

    Examples
    --------
    >>> from hierdiff_core.sampling.pace import in_words
    >>> [in_words(seconds) for seconds in (0.04, 4.25, 41.2, 119.7, 3725)]
    ['0.0 s', '4.2 s', '41 s', '2 min', '1 h 2 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole, 60, "min", "s")
    return _two(round(seconds / 60), 60, "h", "min")


def about(seconds: float) -> str:
    """A time that was estimated, in words.

    Parameters
    ----------
    seconds : float >= 0

    Returns
    -------
    words : str

    Examples
    --------
    >>> from hierdiff_core.sampling.pace import about
    >>> [about(seconds) for seconds in (0.3, 4.4, 33, 130, 3725)]
    ['about 1 s', 'about 4 s', 'about 35 s', 'about 2 min', 'about 1 h']
    """
    if seconds < 10:
        rounded = max(round(seconds), 1)
    elif seconds < 57.5:
        rounded = 5 * round(seconds / 5)
    elif seconds < 3570:
        rounded = 60 * max(round(seconds / 60), 1)
    else:
        rounded = 600 * round(seconds / 600)
    return f"about {in_words(rounded) if rounded >= 10 else f'{rounded} s'}"


def _two(whole: int, of: int, large: str, small: str) -> str:
    """`1 h 2 min` of 62 and 60."""
    rest = whole % of
    return f"{whole // of} {large}" + (f" {rest} {small}" if rest else "")
