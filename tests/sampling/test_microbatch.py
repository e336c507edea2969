"""Batches that fit the memory, and what is done when they do not."""

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierdiff_core.devices import is_out_of_memory
from hierdiff_core.sampling.microbatch import LARGEST_AUTO, MicroBatches, auto_micro_batch

DATA = torch.arange(20.0).reshape(10, 2)
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: not enough memory: you tried"),
]


class Memory:
    """Doubles rows, and fails on more than `capacity` of them; `sizes` are the sizes of all attempts."""

    def __init__(self, capacity, error=OUT_OF_MEMORY[0]):
        self.capacity = capacity
        self.error = error
        self.sizes = []

    def __call__(self, rows):
        self.sizes.append(rows.stop - rows.start)
        if self.sizes[-1] > self.capacity:
            raise self.error
        return 2 * DATA[rows]


@given(st.integers(1, 15), st.integers(1, 15))
def test_result_depends_on_neither_limit_nor_memory(limit, capacity):
    assert torch.equal(MicroBatches(limit).map(Memory(capacity), 10), 2 * DATA)


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 10), (4, [4, 4, 2]), (10, [10]), (32, [10])])
def test_rows_are_evaluated_once_in_batches_of_the_limit(limit, sizes):
    memory = Memory(capacity=100)
    MicroBatches(limit).map(memory, 10)
    assert memory.sizes == sizes


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:20])
def test_batch_halves_when_memory_runs_out(error):
    memory = Memory(capacity=3, error=error)
    batches = MicroBatches(8)
    assert torch.equal(batches.map(memory, 10), 2 * DATA)
    assert memory.sizes == [8, 4, 2, 2, 2, 2, 2]
    assert batches.limit == 2


def test_batch_stays_halved_for_later_calls():
    batches = MicroBatches(8)
    batches.map(Memory(capacity=4), 10)
    later = Memory(capacity=100)
    batches.map(later, 10)
    assert later.sizes == [4, 4, 2]


def test_half_of_what_was_tried_is_taken_where_the_limit_was_larger():
    memory = Memory(capacity=5)
    MicroBatches(1000).map(memory, 10)
    assert memory.sizes == [10, 5, 5]


def test_single_row_that_does_not_fit_is_an_error_that_says_what_to_do():
    memory = Memory(capacity=0, error=RuntimeError("MPS backend out of memory"))
    with pytest.raises(torch.OutOfMemoryError, match="a single latent does not fit in memory; lower width and height"):
        MicroBatches(4).map(memory, 10)
    assert memory.sizes == [4, 2, 1]


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), KeyError("x"), KeyboardInterrupt()])
def test_other_errors_are_passed_on_at_once(error):
    memory = Memory(capacity=0, error=error)
    with pytest.raises(type(error)) as caught:
        MicroBatches(4).map(memory, 10)
    assert caught.value is error
    assert memory.sizes == [4]


def test_before_call_runs_before_every_evaluation_repeated_ones_too():
    order = []
    memory = Memory(capacity=2)
    MicroBatches(4, before_call=lambda: order.append(len(memory.sizes))).map(memory, 6)
    assert memory.sizes == [4, 2, 2, 2]
    assert order == [0, 1, 2, 3]


def test_before_call_may_raise_to_stop():
    memory, calls = Memory(capacity=100), []

    def stop_at_the_third():
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        MicroBatches(2, before_call=stop_at_the_third).map(memory, 10)
    assert memory.sizes == [2, 2]


def test_tensors_of_a_failed_call_are_released_before_the_next():
    references = []

    def evaluate(rows):
        assert all(reference() is None for reference in references)
        big = torch.zeros(4)
        references.append(weakref.ref(big))
        if rows.stop - rows.start > 2:
            raise torch.OutOfMemoryError("out of memory")
        return DATA[rows]

    assert torch.equal(MicroBatches(8).map(evaluate, 10), DATA)


def test_only_memory_errors_count_as_such():
    assert all(is_out_of_memory(error) for error in OUT_OF_MEMORY)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    ("bytes_per_row", "rows"),
    [(1, LARGEST_AUTO), (100, 8), (801, 1), (10_000, 1)],
    ids=["tiny", "fits 8", "tight", "huge"],
)
def test_rows_per_call_come_from_free_memory(monkeypatch, bytes_per_row, rows):
    monkeypatch.setattr("hierdiff_core.sampling.microbatch.free_memory", lambda device: 1000)
    assert auto_micro_batch(torch.device("cuda"), bytes_per_row) == rows


@pytest.mark.parametrize(("fit", "rows"), [(0, 1), (1, 1), (5, 4), (7, 6), (13, 12), (23, 16), (31, 24), (500, 32)])
def test_few_sizes_are_chosen_so_that_little_else_on_a_card_changes_no_picture(monkeypatch, fit, rows):
    monkeypatch.setattr("hierdiff_core.sampling.microbatch.free_memory", lambda device: fit * 1250)
    assert auto_micro_batch(torch.device("cuda"), 1000) == rows


@pytest.mark.parametrize(("total", "rows"), [(24, 24), (8, 4), (3, 1), (None, 32)])
def test_rows_do_not_rely_on_memory_that_others_may_take(monkeypatch, total, rows):
    module, gib = "hierdiff_core.sampling.microbatch", 2**30
    monkeypatch.setattr(f"{module}.free_memory", lambda device: 100 * gib)
    monkeypatch.setattr(f"{module}.total_memory", lambda device: total and total * gib)
    row = 0.66 * gib
    assert auto_micro_batch(torch.device("cuda"), row, weights=3 * gib) == rows
    assert auto_micro_batch(torch.device("cuda"), row) == 32


def test_cpu_takes_one_row_at_a_time():
    assert auto_micro_batch(torch.device("cpu"), 1) == 1
