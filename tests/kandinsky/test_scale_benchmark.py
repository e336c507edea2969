"""What benchmarks/scale.py says of a run: all pieces, rows and bytes of it; threads stand in for Ray."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hierdiff_core import load_decoder
from hierdiff_core.kandinsky.model_folder import BUNDLED
from hierdiff_core.sampling.executor import Threads


@pytest.fixture(scope="module")
def scale():
    before = list(sys.path)
    sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))
    yield importlib.import_module("scale")
    sys.path[:] = before


@pytest.fixture
def one_thread():
    """Two workers of one thread each do not wait for each other's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_its_figures_are_those_of_all_pieces(scale, capsys, one_thread):
    folder = BUNDLED / "decoder"
    setting = scale.Setting(folder, "cpu", scale.WIDTHS["small"], 64, 4, 3.0, "none")
    handed = []
    with Threads(2) as threads:
        metered = scale.Metered(threads, handed.append)
        found = scale.drawn(setting, load_decoder(folder), metered, 8)
    assert sum(piece.rows for piece in metered.pieces) == found["plan rows"] <= 8 * 4
    assert found["pieces"] == len(metered.pieces) == len(handed) > 1
    assert not metered.open
    assert {piece.lane for piece in metered.pieces} <= {0, 1}
    assert all(piece.began < piece.ended for piece in metered.pieces)
    assert 0 <= found["idle"] <= found["most idle"] < 1
    assert 0 <= found["trunk"] <= 1
    assert found["MB got"] * 1e6 >= 8 * 4 * 8 * 8 * 4  # a latent of each prompt
    scale.table([{**found, "workers": 1}, found])
    assert capsys.readouterr().out.count("| 8 |") == 2


def test_bytes_are_of_all_arrays_in_plain_data(scale):
    data = {"part": [np.zeros(3), (np.zeros(2, dtype=np.int8), "text")], "head": None}
    assert scale.size_of(data) == 26


def test_results_that_are_there_are_not_measured_again(scale, tmp_path, monkeypatch):
    measured = []

    def fake(setting, decoder, prompts, workers, usual=None):
        measured.append((prompts, workers, usual is not None))
        return {"prompts": prompts, "workers": workers, **({"killed": True} if usual else {})}

    monkeypatch.setattr(scale, "measured", fake)
    setting = scale.Setting(tmp_path, "cpu", 8, 64, 4, 3.0, "none")
    results = []
    for kill in (False, True, False, True):
        scale.one_more(results, tmp_path / "scale.json", setting, None, 16, 2, kill)
    assert measured == [(16, 2, False), (16, 2, True)]
    assert len(results) == 2
    assert (tmp_path / "scale.json").exists()
