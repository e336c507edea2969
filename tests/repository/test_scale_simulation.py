"""The simulation of many workers: all is drawn, once, and pieces are cut as the real ones are."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hierdiff_core.kandinsky.call_sizes import steady_sizes
from hierdiff_core.plan.unconditional import unconditional_families

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def modules():
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    names = ("scale_model", "scale_simulation", "scale_costs", "scale_expected")
    yield {name: importlib.import_module(name) for name in names}
    sys.path[:] = before


@pytest.fixture(scope="module")
def model(modules):
    return modules["scale_model"]


def run(model, tree, design, world):
    simulation = model.Simulation(tree, design, world)
    return simulation.run(), simulation


@pytest.mark.parametrize("kind", ["DEEP", "FLAT"])
def test_a_tree_of_gaps_is_a_plan_with_these_clusters(modules, model, kind):
    tree = model.tree_of(400, getattr(model, kind))
    plan = modules["scale_costs"].plan_of(tree)
    assert tree.widths([0], [400]).tolist() == plan.clusters_per_step.tolist()
    assert plan.saved == pytest.approx(0.6, abs=0.01)
    first, last = tree.clusters(37, 251, 20)
    labels = plan.steps[20].labels[37:251]
    assert (last - first).tolist() == np.bincount(labels - labels[0]).tolist()


@pytest.mark.parametrize("kind", ["DEEP", "FLAT"])
def test_all_leaves_are_drawn_once_by_every_design(modules, model, kind):
    tree, world = model.tree_of(2000, getattr(model, kind)), model.World(24, slow=0.1)
    for design in (*modules["scale_simulation"].DESIGNS, *modules["scale_simulation"].TROUBLED):
        found, simulation = run(model, tree, design, world)
        assert simulation.drawn == 2000
        if not design.recompute and not design.copies:
            assert 1 <= found["rows"] < (1.0001 if design.drivers == 1 else 1.1)  # each driver has a trunk of its own
        assert 0 < found["efficiency"] <= 1.05
        assert run(model, tree, design, world)[0] == found


def test_a_worker_alone_takes_what_its_rows_take(modules, model):
    tree = model.tree_of(1000, model.DEEP)
    design = replace(modules["scale_simulation"].BASE, warm=True)
    assert run(model, tree, design, model.World(1, uneven=0.0))[0]["efficiency"] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("copies", [False, True])
def test_deaths_cost_time_and_no_picture(modules, model, copies):
    tree, design = model.tree_of(2000, model.DEEP), replace(modules["scale_simulation"].WARM, copies=copies)
    well, _ = run(model, tree, design, model.World(16))
    ill, simulation = run(model, tree, design, model.World(16, deaths=200.0))
    assert ill["deaths"] > 3
    assert simulation.drawn == 2000
    assert ill["seconds"] > well["seconds"]


def test_pieces_are_cut_about_as_the_real_ones(modules, model):
    tree = model.tree_of(3000, model.DEEP)
    design = replace(modules["scale_simulation"].WARM, batch=8)
    simulated = run(model, tree, design, model.World(30, uneven=0.0))[0]["pieces"]
    real, _, _ = modules["scale_costs"].cutting(modules["scale_costs"].plan_of(tree), 30, 8)
    assert 0.6 < simulated / real < 1.7


def test_its_command_prints_tables(modules, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scale_simulation.py", "--prompts", "600", "--workers", "300"])
    modules["scale_simulation"].main()
    said = capsys.readouterr().out
    assert said.count("**") == 20
    assert "nan" not in said


def test_what_is_expected_of_gpus_draws_all_with_and_without_a_death(modules, monkeypatch, capsys):
    expected = modules["scale_expected"]
    plan = expected.plan_of(64)
    families, curve = unconditional_families(plan), expected.ROW_MS["H200", "none"]
    cold, prepared = (expected.Card(curve, 0.5, steady_sizes(32), ready) for ready in (False, True))
    alone, usual, killed, ready = (
        expected.Expected(plan, workers, card, families)
        for workers, card in ((1, cold), (3, cold), (3, cold), (3, prepared))
    )
    seconds = usual.run()
    assert alone.run() / 3 < seconds < alone.now
    assert killed.run(-1.0, restart=5.0) > seconds
    assert ready.run() < seconds
    for run in (alone, usual, killed, ready):
        assert run.pieces.finished.all()
    assert sum(share.rows for share in usual.pieces.shares) == plan.nfe
    monkeypatch.setattr(sys, "argv", ["scale_expected.py", "--prompts", "40", "--workers", "2", "--kill"])
    expected.main()
    assert capsys.readouterr().out.count("| 40 | 2 |") == 1
