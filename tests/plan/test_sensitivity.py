"""Sensitivity: what was measured, at any number of steps, and as a file."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff_core import Sensitivity, read_sensitivity, write_sensitivity

settings.register_profile("core", deadline=None, max_examples=60)
settings.load_profile("core")


@st.composite
def sensitivities(draw, rising=False):
    """Measured at some steps of a run, over many powers of ten; with noise in the measurement unless `rising`."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_steps = draw(st.integers(1, 60))
    before = rng.choice(num_steps - 1, size=draw(st.integers(0, num_steps - 1)), replace=False) + 1
    shared = np.append(np.sort(before), num_steps)
    change = 10 ** rng.uniform(-draw(st.sampled_from([0, 2, 8])), 3, size=len(shared))
    return Sensitivity(num_steps, shared, np.sort(change) if rising else change)


@given(sensitivities(rising=True))
def test_measured_changes_are_met_at_the_steps_where_they_were_measured(sensitivity):
    G = sensitivity.cumulative(sensitivity.num_steps)
    above_rounding = np.maximum(sensitivity.change, 1e-9 * sensitivity.change.max())
    np.testing.assert_allclose(G[sensitivity.shared_steps], above_rounding, rtol=1e-12)


@given(sensitivities(), st.integers(1, 150))
def test_change_grows_from_zero_with_every_shared_step(sensitivity, num_steps):
    G, weights = sensitivity.cumulative(num_steps), sensitivity.weights(num_steps)
    assert G.shape == (num_steps + 1,)
    assert weights.shape == (num_steps,)
    assert G[0] == 0
    assert (weights >= 0).all()
    assert G[-1] == pytest.approx(sensitivity.cumulative(sensitivity.num_steps)[-1], rel=1e-12)
    assert G[-1] <= sensitivity.change.max() * (1 + 1e-12)


@given(sensitivities())
def test_measured_changes_are_smoothed_to_the_nearest_that_do_not_fall(sensitivity):
    logs = np.log(np.maximum(sensitivity.change, 1e-9 * sensitivity.change.max()))
    n, sums = len(logs), np.append(0, np.cumsum(logs))

    def mean(i, j):
        return (sums[j + 1] - sums[i]) / (j + 1 - i)

    # isotonic least squares by its formula: the largest of the smallest means of stretches around a point
    nearest = [max(min(mean(i, j) for j in range(k, n)) for i in range(k + 1)) for k in range(n)]
    G = sensitivity.cumulative(sensitivity.num_steps)[sensitivity.shared_steps]
    np.testing.assert_allclose(np.log(G), nearest, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "smooth"),
    [
        ([1, 100, 10, 1000], [1, 1000**0.5, 1000**0.5, 1000]),
        ([8, 4, 2, 16], [4, 4, 4, 16]),
        ([1, 2, 8, 4], [1, 2, 32**0.5, 32**0.5]),
        ([8, 4, 2, 1], [8**0.5] * 4),
    ],
)
def test_measured_changes_that_fall_become_their_geometric_mean(change, smooth):
    G = Sensitivity(8, [2, 4, 6, 8], change).cumulative(8)
    np.testing.assert_allclose(G[[2, 4, 6, 8]], smooth, rtol=1e-12)


@given(sensitivities(), st.integers(1, 150))
def test_runs_of_any_length_are_the_same_where_as_many_steps_are_left(sensitivity, num_steps):
    own, other = sensitivity.cumulative(sensitivity.num_steps), sensitivity.cumulative(num_steps)
    measured = sensitivity.num_steps - sensitivity.shared_steps[0]  # steps left where the first measurement lies
    left = np.arange(min(measured, num_steps - 1) + 1)
    np.testing.assert_allclose(other[num_steps - left], own[sensitivity.num_steps - left], rtol=1e-12)
    if num_steps > measured:
        line = other[: num_steps - measured + 1]
        np.testing.assert_allclose(line, np.linspace(0, line[-1], len(line)), rtol=1e-9)


@pytest.mark.parametrize(
    ("num_steps", "powers"),
    [(3, [-1, -0.5, 0]), (4, [-1.5, -1, -0.5, 0]), (8, [-2, -1.5, -1, -0.5, 0]), (10, [-2, -1.5, -1, -0.5, 0])],
)
def test_steps_between_two_measured_ones_are_interpolated_in_powers(num_steps, powers):
    G = Sensitivity(8, [4, 8], [0.01, 1]).cumulative(num_steps)
    np.testing.assert_allclose(G[-len(powers) :], 10.0 ** np.array(powers))
    before = num_steps + 1 - len(powers)
    np.testing.assert_allclose(G[:before], G[before] * np.arange(before) / before)


def test_steps_that_changed_nothing_weigh_almost_nothing():
    weights = Sensitivity(4, [1, 2, 3, 4], [0, 0, 0, 5.0]).weights(4)
    assert weights[3] == pytest.approx(5)
    assert (weights[:3] < 1e-8).all()


@given(sensitivities())
def test_saved_and_loaded_it_is_the_same(tmp_path_factory, sensitivity):
    path = tmp_path_factory.mktemp("sensitivity") / "a.json"
    settings = {"model": "größer 虎", "guidance": 3.5, "prompts": 8}
    write_sensitivity(Sensitivity(sensitivity.num_steps, sensitivity.shared_steps, sensitivity.change, settings), path)
    loaded = read_sensitivity(path)
    assert loaded.num_steps == sensitivity.num_steps
    assert loaded.settings == settings
    np.testing.assert_array_equal(loaded.shared_steps, sensitivity.shared_steps)
    np.testing.assert_array_equal(loaded.change, sensitivity.change)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((4, [2, 4], [1]), "shared_steps and change must be lists of one length, at least 1; got 2 and 1"),
        ((4, [], []), "shared_steps and change must be lists of one length"),
        ((4, [[4]], [[1]]), r"shared_steps must be a list of whole numbers; got \[4\] at place 0"),
        ((4, [0, 4], [1, 2]), r"shared_steps must rise from 1 or more to num_steps; got \[0, 4\]"),
        ((4, [2, 3], [1, 2]), r"shared_steps must rise from 1 or more to num_steps; got \[2, 3\]"),
        ((4, [3, 2, 4], [1, 2, 3]), "shared_steps must rise"),
        ((4, [2, 2, 4], [1, 2, 3]), "shared_steps must rise"),
        ((4, [2, 4], [1, np.nan]), "change must be finite, not negative and not all 0"),
        ((4, [2, 4], [1, np.inf]), "change must be finite"),
        ((4, [2, 4], [-1, 1]), "change must be finite, not negative"),
        ((4, [2, 4], [0, 0]), "not all 0; sharing changed no latent"),
        ((4, [2, 4], [1e-200, 1e-250]), "change must have its largest value between 1e-30 and 1e"),
        ((4, [2, 4], [1, 1e200]), "change must have its largest value between"),
        ((10**9, [10**9], [1]), "num_steps must be an integer between 1 and 1000; got 1000000000"),
        ((0, [0], [1]), "num_steps must be an integer between 1 and 1000; got 0"),
        ((True, [1], [1]), "num_steps must be an integer between 1 and 1000; got True"),
        ((1, [True], [1]), "shared_steps must be a list of whole numbers; got True at place 0"),
        ((3, [2.5, 3], [1, 1]), r"shared_steps must be a list of whole numbers; got 2\.5 at place 0"),
        ((1, [1], [False]), "change must be a list of numbers; got False at place 0"),
        ((1, 1, 1), "shared_steps must be a list of at most 1000 numbers; got 1"),
        (
            (1000, list(range(1, 1002)), [1] * 1001),
            "shared_steps must be a list of at most 1000 numbers; got a list",
        ),
    ],
)
def test_values_that_cannot_be_measured_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Sensitivity(*values)


GOOD = {"format": "hierdiff-sensitivity-1", "settings": {}, "num_steps": 2, "shared_steps": [2], "change": [1.0]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[1, 2]", "its format is not"),
        ("{}", "its format is not hierdiff-sensitivity-1"),
        (json.dumps({**GOOD, "format": "other"}), "its format is not"),
        (json.dumps({"format": GOOD["format"]}), "it lacks change, num_steps, shared_steps"),
        (json.dumps({**GOOD, "num_steps": "many"}), "num_steps must be an integer between 1 and 1000; got 'many'"),
        (json.dumps({**GOOD, "change": "abc"}), "change must be a list of at most 1000 numbers"),
        (json.dumps({**GOOD, "change": [float("nan")]}), "change must be finite"),
        (json.dumps({**GOOD, "change": [None]}), "change must be a list of numbers; got None at place 0"),
        (json.dumps({**GOOD, "shared_steps": [10**30]}), "too large"),
        ("ÿ".encode("latin-1"), "decode"),
    ],
)
def test_error_names_the_file_that_holds_no_sensitivity(tmp_path, text, reason):
    path = tmp_path / "broken.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"broken\.json is not a sensitivity saved by Calibrate Schedule: .*{reason}"):
        read_sensitivity(path)


HOSTILE = [
    {"num_steps": 10**9, "shared_steps": [10**9]},
    {"num_steps": None},
    {"num_steps": 2.5},
    {"num_steps": [2]},
    {"num_steps": 10**400},
    {"shared_steps": None},
    {"shared_steps": "2"},
    {"shared_steps": {"0": 2}},
    {"shared_steps": [[2]]},
    {"shared_steps": [True]},
    {"shared_steps": ["2"]},
    {"shared_steps": [10**400]},
    {"shared_steps": [1e300]},
    {"shared_steps": [float("inf")]},
    {"shared_steps": list(range(5000)), "change": [1] * 5000},
    {"change": None},
    {"change": [[1.0]]},
    {"change": [{}]},
    {"change": [True]},
    {"change": ["1"]},
    {"change": [10**400]},
    {"change": [1e308]},
    {"change": [1e-308]},
    {"settings": None},
    {"settings": [1]},
    {"settings": "DDPM"},
    {"settings": {"model": None}},
    {"settings": {"model": ["a"]}},
    {"settings": {"model": {"a": 1}}},
    {"settings": {"model": True}},
    {"settings": {"guidance": float("nan")}},
    {"settings": {"guidance": 10**400}},
    {"settings": {"model": "x" * 1000}},
    {"settings": {"x" * 1000: 1}},
    {"settings": {"model": "\ud800"}},
    {"settings": {str(i): i for i in range(1000)}},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=lambda changes: json.dumps(changes)[:40])
def test_what_a_file_may_not_hold_is_refused_by_name(tmp_path, changes):
    path = tmp_path / "shared.json"
    path.write_text(json.dumps({**GOOD, **changes}))
    with pytest.raises(ValueError, match=r"shared\.json is not a sensitivity saved by Calibrate Schedule") as failure:
        read_sensitivity(path)
    reason = str(failure.value).removeprefix(str(path))
    assert any(name in reason for name in [*changes, "utf-8"])
    assert len(reason) < 400


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 40_000, "nested too deeply"),
        ('{"format": "hierdiff-sensitivity-1", "settings": ' + "[" * 50_000, "nested too deeply"),
        (" " * 300_000, "it has more than 256 kB"),
        ("1" * 5000, "integer string conversion"),
    ],
)
def test_large_and_deep_files_are_refused_quickly(tmp_path, text, reason):
    (tmp_path / "shared.json").write_text(text)
    with pytest.raises(ValueError, match=rf"shared\.json is not a sensitivity .*{reason}"):
        read_sensitivity(tmp_path / "shared.json")


def test_file_may_have_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert read_sensitivity(tmp_path / "a.json").num_steps == 2


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.json is not a sensitivity"):
        read_sensitivity(tmp_path / "nowhere.json")
