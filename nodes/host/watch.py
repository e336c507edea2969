"""Whether the functions around a model do anything: those that only listen need no guard, and no row more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .attachments import COMPOSED, MODEL_WRAPPERS, UNET_FUNCTION, needs_no_guard


class Watch:
    """Notes which functions around the model change what goes in or what comes out.

    Attributes
    ----------
    active : list
        Those that did.
    """

    def __init__(self) -> None:
        self.active: list[Any] = []
        self._is_first = True

    @contextlib.contextmanager
    def call(self, model_options: dict) -> Iterator[None]:
        """A context around a call with these options: the functions in them are watched."""
        options = model_options.get("transformer_options", {})
        unet, wrappers = model_options.get(UNET_FUNCTION), options.get("wrappers", {})
        watched = {kind: self._watched(wrappers[kind]) for kind in MODEL_WRAPPERS if kind in wrappers}
        if unet is not None and not needs_no_guard(unet):
            model_options[UNET_FUNCTION] = self.watched(unet)
        if watched:
            options["wrappers"] = {**wrappers, **watched}
        try:
            yield
        finally:
            if unet is not None:
                model_options[UNET_FUNCTION] = unet
            if watched:
                options["wrappers"] = wrappers
        self._is_first = False

    def _watched(self, by_key):
        return {
            key: [one if key in COMPOSED or needs_no_guard(one) else self.watched(one) for one in functions]
            for key, functions in by_key.items()
        }

    def watched(self, function: Callable) -> Callable:
        """A function whose first argument is what it wraps, and that is noted if it changes anything."""

        def call(inner, *args, **kwargs):
            heard = Heard(inner, args, kwargs, look_inside=self._is_first)
            result = function(heard, *args, **kwargs)
            if function not in self.active and not heard.only_handed_on(result):
                self.active.append(function)
            return result

        return call


class Heard:
    """Stands for what is wrapped, in one call of the function around it; all else of it is as it was.

    Parameters
    ----------
    inner : callable
        What is wrapped.
    args, kwargs : tuple, dict
        What the function around it was given.
    look_inside : bool
        Whether to compare values too, for which a GPU has to be waited for; else a change in place goes unnoticed.
    """

    def __init__(self, inner: Callable, args: tuple, kwargs: dict, look_inside: bool):
        self.inner = inner
        self.given = list(leaves((args, kwargs)))
        self.options = patch_counts([*args, kwargs])
        self.look_inside = look_inside
        self.copies = [value.clone() for value in self.given if look_inside and torch.is_tensor(value)]
        self.calls = 0
        self.same = True
        self.output = self.copy = None

    def __call__(self, *args, **kwargs):
        self.calls += 1
        passed = list(leaves((args, kwargs)))
        known = {id(value) for value in self.given}
        self.same = (
            self.same
            and all(id(value) in known for value in passed if torch.is_tensor(value))
            and patch_counts([*args, kwargs]) == self.options
            and self._inputs_are_as_given()
        )
        self.output = self.inner(*args, **kwargs)
        self.copy = self.output.clone() if self.look_inside and torch.is_tensor(self.output) else None
        return self.output

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def _inputs_are_as_given(self):
        tensors = [value for value in self.given if torch.is_tensor(value)]
        return not self.look_inside or all(same(a, b) for a, b in zip(tensors, self.copies, strict=True))

    def only_handed_on(self, result: Any) -> bool:
        """Whether it was called once, with what was given, and what it returned came out."""
        if self.calls != 1 or not self.same or result is not self.output:
            return False
        return self.copy is None or same(result, self.copy)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors hold the same values, NaN included."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def leaves(value: Any) -> Iterator[Any]:
    """The values in nested tuples, lists and dicts, but for options."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "transformer_options":
                yield from leaves(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def patch_counts(value: Any) -> dict[str, int] | None:
    """How many patches of each kind the options hold that are somewhere in a call's arguments."""
    if isinstance(value, dict):
        if "uuids" in value:  # as the host's options have for each call
            patches = {**value.get("patches", {}), **value.get("patches_replace", {})}
            return {kind: len(held) for kind, held in patches.items()}
        value = [value.get("transformer_options"), value.get("c")]
    found = (patch_counts(item) for item in value) if isinstance(value, (tuple, list)) else ()
    return next((counts for counts in found if counts is not None), None)
