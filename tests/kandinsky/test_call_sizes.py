"""Calls that are padded to few sizes: how many, by how much, and what comes out of them."""

import numpy as np
import pytest
import torch

from hierdiff_core.kandinsky.call_sizes import MOST_PADDING, PaddedCalls, call_counts, few_call_sizes, steady_sizes
from hierdiff_core.sampling.row_counts import padding_of


class Network:
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, embeds):
        assert len(x) == len(embeds)
        self.calls.append(len(x))
        return x * t + embeds.mean()


@pytest.mark.parametrize(("rows", "called"), [(9, 10), (10, 10), (7, 7), (8, 10), (11, 11), (60, 64)])
def test_calls_are_padded_to_a_near_size(rows, called):
    network, x = Network(), torch.randn(rows, 4, 2, 2)
    made = PaddedCalls(network, (10, 64))(x, torch.tensor(3.0), torch.ones(rows, 5))
    assert torch.equal(made, x * 3 + 1)
    assert network.calls == [called]


def test_counts_are_those_of_the_calls():
    clusters, passes = np.array([2, 3, 40, 40]), np.array([2.0, 5 / 3, 2.0, 1.0])
    assert call_counts(clusters, passes, 32) == [4, 5, 64, 16, 32, 8]
    assert call_counts(np.array([33]), np.array([34 / 33]), 16) == [18, 16]


def test_few_sizes_pad_little():
    counts = [18] * 10 + list(range(100, 128, 3)) + [128] * 8
    sizes = few_call_sizes(counts)
    assert 0 < len(sizes) < len(set(counts)) / 2
    assert padding_of(counts, sizes) <= MOST_PADDING * sum(counts)


def test_where_no_size_can_be_left_out_none_is_padded():
    assert few_call_sizes([2, 4, 8, 16]) == ()
    assert few_call_sizes([]) == ()


@pytest.mark.parametrize("pairs", [1, 2, 5, 8, 9, 12, 32, 50])
def test_steady_sizes_hold_all_calls_and_pad_none_by_more_than_half(pairs):
    sizes = steady_sizes(pairs)
    assert sizes == tuple(sorted(set(sizes)))
    assert sizes[-1] == 2 * pairs
    for rows in range(2, 2 * pairs + 1):
        network = Network()
        PaddedCalls(network, sizes, most=1.0)(torch.zeros(rows, 1), torch.tensor(0.0), torch.zeros(rows, 1))
        assert network.calls[0] in sizes
        assert network.calls[0] <= 1.5 * rows
