"""Every value of a node lies in its schema: refused when it is queued, or when it arrives through a link.

ComfyUI 0.3.75 checks neither combos nor NaN, and no version checks what a link brings.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from comfy_api.latest import io

# Since 0.7, a little before the input that is looked for here: such a host's own message is the better one.
HOST_CHECKS_COMBOS = hasattr(io, "DynamicCombo")
LONGEST_VALUE = 80
MOST_OPTIONS = 20


def checked(node: Any) -> Any:
    """Make a node refuse values that its schema does not allow; the class itself, changed in place.

    Combos: one of the options, as they are at that moment. FLOAT and INT: numbers between min and max, never NaN or
    infinite. What a node's own `validate_inputs` refuses is refused when it arrives through a link, too. Combos take
    links from lists of choices.
    """
    own = node.__dict__["validate_inputs"].__func__ if "validate_inputs" in node.__dict__ else None
    check_when_queued(node, own)
    check_when_run(node, own)
    adapt_inputs(node)
    return node


def check_when_queued(node: Any, own: Callable[..., Any] | None) -> None:
    """Give a node a `validate_inputs` that names what the host does not check by itself, and the node's `own`.

    The host reads the names from the signature, and leaves out its own checks for each of them.
    """
    combos = [] if HOST_CHECKS_COMBOS else [entry.id for entry in node.define_schema().inputs if is_combo(entry)]
    names = list(dict.fromkeys([*names_of(own), *combos]))
    if not names:
        return

    def validate_inputs(cls, **values):
        given = {name: value for name, value in values.items() if value is not None and value != (None,)}
        return fault_of(cls, own, given) or True  # what is linked is not known yet

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("cls", kind), *(inspect.Parameter(name, kind, default=None) for name in names)]
    setattr(validate_inputs, "__signature__", inspect.Signature(parameters))  # noqa: B010  functions declare none
    node.validate_inputs = classmethod(validate_inputs)


def check_when_run(node: Any, own: Callable[..., Any] | None) -> None:
    """Let a node's `execute` begin with the checks, for what links have brought."""
    run = node.__dict__["execute"].__func__
    signature = inspect.signature(run)

    @functools.wraps(run)
    def execute(cls, *args, **kwargs):
        given = signature.bind(cls, *args, **kwargs)
        if fault := fault_of(cls, own, given.arguments):
            raise ValueError(fault)
        given.arguments.update(plain_numbers(cls.define_schema(), given.arguments))
        return run(*given.args, **given.kwargs)

    node.execute = classmethod(execute)


def adapt_inputs(node: Any) -> None:
    """Give the FLOATs of a node's schema bounds that the host lets no NaN pass, and its combos their `ChoiceType`."""
    define = node.__dict__["define_schema"].__func__

    @functools.wraps(define)
    def define_schema(cls):
        schema = define(cls)
        for entry in schema.inputs:
            if isinstance(entry, io.Float.Input) and entry.min is not None:
                entry.min = Least(entry.min)
            if is_combo(entry):
                entry.get_io_type = functools.partial(ChoiceType.of, entry)
        return schema

    node.define_schema = classmethod(define_schema)


class Least(float):
    """A lower bound that NaN lies below, by the host's comparison ``value < bound``."""

    def __gt__(self, value):
        return not value >= float(self)

    __hash__ = float.__hash__


class ChoiceType(type(io.Combo.io_type)):
    """A combo's type, "COMBO", that goes together with lists of choices too.

    Nodes with ``RETURN_TYPES = (comfy.samplers.KSampler.SAMPLERS,)`` have a list for a type, as the inputs of the
    host's samplers have. A schema says "COMBO", which ComfyUI 0.3.75 finds unlike any list. It asks
    ``received != wanted`` first, as newer ones do: a question that lists leave to the other side.

    Attributes
    ----------
    options : list
        Of the combo; an empty list, or one with any of them, goes together with it.
    """

    options: list[Any]

    @classmethod
    def of(cls, entry: Any) -> ChoiceType:
        made = cls(type(entry).get_io_type(entry))
        made.options = entry.options
        return made

    def __ne__(self, other: object) -> bool:
        if isinstance(other, (list, tuple)):
            return len(other) > 0 and not any(choice in self.options for choice in other)
        return super().__ne__(other)

    __hash__ = str.__hash__


def fault_of(cls: Any, own: Callable[..., Any] | None, values: Mapping[str, Any]) -> str | None:
    """Why a node cannot take these values, {name of the input: value}, or None.

    Where the node's `own` check names an input it decides which choices there are: it knows how to get a missing one.
    """
    schema, named = cls.define_schema(), names_of(own)
    for entry in schema.inputs:
        if entry.id in values:
            for value in values[entry.id] if schema.is_input_list else [values[entry.id]]:
                if fault := fault_of_value(entry, value, entry.id not in named):
                    return fault
    if own is not None and any(name in values for name in named):
        unknown = (None,) if schema.is_input_list else None  # as the host writes a link's value before it runs
        verdict = own(cls, **{name: values.get(name, unknown) for name in named})
        return None if verdict is True else str(verdict)
    return None


def fault_of_value(entry: Any, value: Any, options_decide: bool) -> str | None:
    if is_combo(entry):
        return fault_of_choice(entry, value, options_decide)
    if isinstance(entry, io.Float.Input):
        return fault_of_number(entry, value, float)
    if isinstance(entry, io.Int.Input):
        return fault_of_number(entry, value, operator.index)
    return None


def fault_of_choice(entry: Any, value: Any, options_decide: bool) -> str | None:
    if isinstance(value, str) and (value in entry.options or not options_decide):
        return None
    few = len(entry.options) <= MOST_OPTIONS
    choices = ", ".join(map(str, entry.options)) if few else f"the {len(entry.options)} choices of the list"
    return f"{entry.id} must be one of {choices}; got {shortened(value)}"


def fault_of_number(entry: Any, value: Any, convert: Callable[[Any], float]) -> str | None:
    """`convert` raises TypeError for what is no such number: text too, which `float` would read."""
    what = "a whole number" if convert is operator.index else "a number"
    try:
        number = convert(value) if not isinstance(value, (str, bytes)) else None
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last of tensors
        number = None
    if number is None:
        return f"{entry.id} must be {what}; got {shortened(value)}"
    low, high = -math.inf if entry.min is None else entry.min, math.inf if entry.max is None else entry.max
    if not low <= number <= high or number in (-math.inf, math.inf):
        return f"{entry.id} must lie between {low} and {high}; got {shortened(value)}"
    return None


def plain_numbers(schema: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Checked numbers as Python's own: numpy's and torch's can be written into no JSON."""
    converts = {io.Float.Input: float, io.Int.Input: operator.index}
    return {
        entry.id: [convert(value) for value in values[entry.id]] if schema.is_input_list else convert(values[entry.id])
        for entry in schema.inputs
        for kind, convert in converts.items()
        if isinstance(entry, kind) and entry.id in values
    }


def is_combo(entry: Any) -> bool:
    return isinstance(entry, io.Combo.Input)


def names_of(own: Callable[..., Any] | None) -> list[str]:
    """Inputs that a `validate_inputs` names."""
    return [] if own is None else list(inspect.signature(own).parameters)[1:]


def shortened(value: Any) -> str:
    """`repr` of a value for a message, without printing all of a long one."""
    try:
        text = repr(value[:LONGEST_VALUE] if isinstance(value, (str, bytes)) else value)
    except ValueError:  # an int of too many digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST_VALUE + 2 else f"{text[:LONGEST_VALUE]}…"
