"""What full-size Kandinsky 2.2 is to do on cards of 8 to 80 GiB, and work that goes on beside a run."""

import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hierdiff_core import load_decoder
from hierdiff_core.devices import SideStream, weight_bytes
from hierdiff_core.kandinsky import call_memory
from hierdiff_core.kandinsky.call_memory import rows_per_call, unet_bytes
from hierdiff_core.kandinsky.decoding import movq_bytes_per_row, pictures_beside

GIB = 2**30
WEIGHTS = int(2.46 * GIB)  # of the UNet and MoVQ in float16
TAKEN = 0.75 * GIB
UNET = SimpleNamespace(config=SimpleNamespace(block_out_channels=(384,)), dtype=torch.float16)
MOVQ = SimpleNamespace(config=SimpleNamespace(block_out_channels=(128, 256, 256, 512)), dtype=torch.float16)
FULL = SimpleNamespace(unet=UNET, movq=MOVQ)
PLAIN = [(80, 512, 32, 8), (80, 1024, 32, 8), (24, 512, 32, 8), (24, 768, 32, 5), (24, 1024, 32, 0)]
PLAIN += [(16, 512, 32, 8), (16, 768, 32, 1), (12, 512, 32, 4), (12, 768, 24, 0), (8, 512, 24, 0), (8, 768, 12, 0)]
PLAIN += [(8, 1024, 6, 0), (6, 512, 16, 0), (4, 512, 3, 0)]
FUSED = [(80, 1024, 32, 8), (24, 768, 32, 6), (24, 1024, 32, 2), (16, 512, 32, 8), (16, 768, 32, 2), (16, 1024, 24, 0)]
FUSED += [(12, 512, 32, 5), (12, 768, 32, 0), (12, 1024, 16, 0), (8, 512, 32, 0), (8, 768, 16, 0), (8, 1024, 8, 0)]
FUSED += [(6, 512, 12, 0), (6, 1024, 3, 0), (4, 512, 2, 0), (4, 1024, 1, 0)]


@pytest.mark.parametrize(
    ("way", "gib", "pixels", "rows", "pictures"),
    [("none", *case) for case in PLAIN] + [("auto", *case) for case in FUSED],
)
def test_rows_of_a_call_and_pictures_beside_it_fit_the_card(monkeypatch, way, gib, pixels, rows, pictures):
    free, side = int(gib * GIB - TAKEN - WEIGHTS), pixels // 8
    monkeypatch.setattr(call_memory, "weight_bytes", lambda *networks: WEIGHTS)
    monkeypatch.setattr("hierdiff_core.sampling.microbatch.free_memory", lambda device: free)
    monkeypatch.setattr("hierdiff_core.sampling.microbatch.total_memory", lambda device: gib * GIB)
    first = SimpleNamespace(device=torch.device("cuda"), shape=(1, 4, side, side))
    assert rows_per_call(FULL, first, 0, way) == rows
    taken, picture = unet_bytes(UNET, 32, side, side, way), movq_bytes_per_row(MOVQ, side, side)
    assert rows == 1 or unet_bytes(UNET, rows, side, side, way) < 0.8 * free
    assert pictures_beside(free, taken, picture) == pictures
    assert not pictures or taken + pictures * picture < free


def test_rows_that_are_asked_for_are_taken_but_on_a_cpu():
    decoder, first = load_decoder(), torch.zeros(1, 4, 8, 8)
    assert rows_per_call(decoder, first, 7, "none") == 1
    on_card = SimpleNamespace(device=torch.device("cuda"), shape=first.shape)
    assert rows_per_call(decoder, on_card, 7, "none") == 7
    assert weight_bytes(decoder.movq) == sum(t.numel() * 4 for t in decoder.movq.state_dict().values())


@pytest.fixture
def ballast():
    sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    try:
        from small_card import ballast
    finally:
        sys.path.pop()
    return ballast


def test_ballast_leaves_what_a_small_card_would(ballast):
    free, reserved = 70 * GIB, 2 * GIB
    assert free - ballast(free, reserved, 8) + reserved == (8 - 0.75) * GIB
    with pytest.raises(ValueError, match=r"2\.0 GiB are taken already: they leave nothing of a card of 2 GiB"):
        ballast(free, reserved, 2)
    with pytest.raises(ValueError, match=r"the card has 70\.0 GiB free, less than a card of 80 GiB"):
        ballast(free, reserved, 80)


# --- beside a run


def test_work_beside_a_run_is_done_in_its_order_in_one_other_thread():
    side, done = SideStream(torch.device("cpu"), "beside"), []
    begin = threading.Event()

    def work(rows):
        begin.wait()
        done.append((int(rows[0]), threading.current_thread().name, torch.is_inference_mode_enabled()))
        return rows.sum()

    with torch.inference_mode():
        jobs = [side.run(work, torch.tensor([i, 1])) for i in range(3)]
    assert not done  # nobody waited
    begin.set()
    side.end()
    assert [job.result().item() for job in jobs] == [1, 2, 3]
    assert done == [(i, "beside_0", True) for i in range(3)]


def test_work_that_is_given_up_is_not_begun():
    side, begun, go_on, done = SideStream(torch.device("cpu"), "beside"), threading.Event(), threading.Event(), []

    def work(rows):
        begun.set()
        go_on.wait()
        done.append(int(rows[0]))

    jobs = [side.run(work, torch.tensor([i])) for i in range(3)]
    begun.wait()
    threading.Timer(0, go_on.set).start()
    side.end(give_up=True)
    assert done[0] == 0
    assert jobs[0].done()
    assert len(done) + sum(job.cancelled() for job in jobs) == 3
