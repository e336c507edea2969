"""Whether anything of other nodes takes part in the calls of a model, or may look at them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from .attachments import (
    CALLS_FUNCTION,
    ROW_WRAPPERS,
    Attached,
    around_model,
    cfg_functions_of,
    objects_of,
    patches_of,
    wrappers_of,
)
from .step_caches import host_cache

if TYPE_CHECKING:
    from .guard import Case


class Listeners:
    """Those of one run, also such as no guard has to ask: they may read whose rows a call has."""

    def __init__(self) -> None:
        self._objects: dict[int, list[Attached]] = {}  # by the model's identity

    def has_any(self, case: Case) -> bool:
        """Whether there are any at a call."""
        options = case.options.get("transformer_options", {})
        entries = (entry for side in case.sides for entry in side or ())
        found = itertools.chain(
            patches_of(options),
            self._inside(case.model),
            around_model(case.options),
            wrappers_of(case.options, ROW_WRAPPERS),
            (one for one in cfg_functions_of(case.options) if one.kind == CALLS_FUNCTION),
            (entry for entry in entries if any(entry.get(name) is not None for name in ("control", "hooks"))),
        )
        return next(iter(found), None) is not None or host_cache(options) is not None

    def _inside(self, model):
        if id(model) not in self._objects:
            patcher = getattr(model, "current_patcher", None)
            self._objects[id(model)] = [] if patcher is None else list(objects_of(patcher))
        return self._objects[id(model)]
