"""Whether two plans are the same."""

from dataclasses import fields

import numpy as np

from hierdiff_core import Plan


def assert_same_plan(plan, other):
    """All that a plan holds, bit for bit."""
    for field in fields(Plan):
        if field.name == "vectors":  # by reference; files do not keep them
            continue
        own, theirs = getattr(plan, field.name), getattr(other, field.name)
        if field.name == "steps":
            for step, again in zip(own, theirs, strict=True):
                for name in ("labels", "first", "counts", "parents"):
                    np.testing.assert_array_equal(getattr(step, name), getattr(again, name))
        elif field.name == "frozen" and own is not None:
            assert_same_history(own, theirs)
        elif isinstance(own, np.ndarray):
            np.testing.assert_array_equal(own, theirs, err_msg=field.name)
        else:
            assert own == theirs, field.name


def assert_same_history(frozen, other):
    """All that a frozen tree holds, but for the errors of its merges."""
    np.testing.assert_array_equal(frozen.generations, other.generations)
    np.testing.assert_array_equal(frozen.present, other.present)
    np.testing.assert_array_equal(frozen.tree.Z, other.tree.Z)
    for name in ("metric", "prompts", "keys", "seeds"):
        assert getattr(frozen.tree, name) == getattr(other.tree, name), name
