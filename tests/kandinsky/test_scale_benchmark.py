"""What benchmarks/scale.py says of a run: all pieces, rows and bytes of it; threads stand in for Ray."""

import contextlib
import importlib
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from hierdiff_core import load_decoder
from hierdiff_core.kandinsky import shared, workers_process
from hierdiff_core.kandinsky.call_sizes import steady_sizes
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
        metered = scale.Metered(threads, lambda *piece: handed.append(piece))
        found = scale.drawn(setting, load_decoder(folder), metered, 8)
    assert sum(piece.rows for piece in metered.pieces) == found["plan rows"] == metered.told <= 8 * 4
    assert found["pieces"] == len(metered.pieces) == len(handed) > 1
    assert [count for count, _, _ in handed] == list(range(1, len(handed) + 1))
    assert not metered.open
    assert {piece.worker for piece in metered.pieces} <= {0, 1}
    assert all(piece.began < piece.ended for piece in metered.pieces)
    assert 0 <= found["idle"] <= found["most idle"] < 1
    assert 0 <= found["trunk"] <= 1
    assert found["MB got"] * 1e6 >= 8 * 4 * 8 * 8 * 4  # a latent of each prompt
    scale.table([{**found, "workers": 1}, found])
    assert [line[:9] for line in capsys.readouterr().out.splitlines()[-2:]] == ["| 8 | 1 |", "| 8 | 2 |"]


def test_calls_are_counted_as_workers_make_them(scale, monkeypatch):
    made = []

    class Network:
        acceleration, device, dtype = "none", torch.device("cpu"), torch.float32

        def __call__(self, x, t, embeds):
            made.append(len(x))
            return torch.cat([x, x], dim=1)

    for module in (shared, workers_process):
        monkeypatch.setattr(module, "shares_rows", lambda device: True)
    monkeypatch.setattr(workers_process, "unet_calls", lambda unet, acceleration: Network())
    monkeypatch.setattr(workers_process, "rows_per_call", lambda *_: 5)
    folder = BUNDLED / "decoder"
    setting = scale.Setting(folder, "cpu", scale.WIDTHS["small"], 64, 4, 3.0, "none")
    with Threads(2) as threads:
        metered = scale.Metered(threads)
        scale.drawn(setting, load_decoder(folder), metered, 24)
    card = scale.Card({1: 40.0, 5: 10.0}, sizes=steady_sizes(5))
    seconds, sizes = scale.calls_by_size(metered.pieces, metered.families, card)
    assert sizes == Counter(map(card.size, made))
    assert len(sizes) > 1
    assert seconds == pytest.approx(sum(card.call[size] for size in map(card.size, made)))


def test_bytes_are_of_all_arrays_in_plain_data(scale):
    data = {"part": [np.zeros(3), (np.zeros(2, dtype=np.int8), "text")], "head": None}
    assert scale_watch(scale).size_of(data) == 26


def scale_watch(scale):
    return sys.modules[scale.Metered.__module__]


def test_the_first_piece_of_a_process_is_compared_with_its_later_ones(scale):
    piece = scale_watch(scale).Piece
    pieces = [piece(0, 6, 10, 0, False, False), piece(6, 8, 10, 0, False, False), piece(0, 3, 30, 1, False, False)]
    assert scale.first_pieces(pieces, 2) == 4  # ten rows take two seconds; the other worker had one piece alone
    assert scale.first_pieces(pieces[1:], 2) is None


def test_sets_follow_each_other_on_the_same_workers_and_are_compared_with_their_like(
    scale, tmp_path, monkeypatch, capsys
):
    measured, entered = [], []

    class Executor(contextlib.nullcontext):
        def __init__(self, workers, *_):
            entered.append(workers.count)
            super().__init__(workers.count)

    def fake(setting, decoder, executor, prompts, usual=None):
        measured.append((prompts, executor, usual and usual["before"]))
        seconds = {1: 8.0, 2: 5.0}[executor] - len(measured) % 3 / 4
        return {"prompts": prompts, "workers": executor, "seconds": seconds, **({"killed": True} if usual else {})}

    monkeypatch.setattr(scale, "Watched", Executor)
    monkeypatch.setattr(scale, "measured", fake)
    setting, out = scale.Setting(tmp_path, "cpu", 8, 64, 4, 3.0, "none"), tmp_path / "scale.json"
    scale.one_after_the_other(out, setting, None, (16, 16), 1, False)
    scale.one_after_the_other(out, setting, None, (16, 16), 2, True)
    assert entered == [1, 2]
    assert measured == [(16, 1, None), (16, 1, None), (16, 2, None), (16, 2, None), (16, 2, "16")]
    capsys.readouterr()
    scale.table(json.loads(out.read_text()))
    rows = [line.split(" | ") for line in capsys.readouterr().out.strip().splitlines()]
    place = {name.strip("| "): i for i, name in enumerate(rows[0])}
    efficiency = [row[place["efficiency"]] for row in rows[2:]]
    assert [row[place["before"]] for row in rows[2:]] == ["cold", "16", "cold", "16", "16 16"]
    assert efficiency == ["1.000", "1.000", f"{7.75 / 2 / 5:.3f}", f"{7.5 / 2 / 4.75:.3f}", ""]
