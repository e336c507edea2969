"""What is given to a sampler in the place of a denoiser."""

from __future__ import annotations

from typing import Any


class StandIn:
    """A denoiser of which a part is done otherwise; all else is the real one's.

    Parameters
    ----------
    model : object
        The real denoiser.

    Notes
    -----
    Samplers ask a denoiser whether it has a `model`, for example: a stand-in has no names that any of them asks for.
    """

    def __init__(self, model: Any):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
