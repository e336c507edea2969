"""Embeddings are checked once, where they are made."""

import dataclasses

import numpy as np
import pytest
import torch

from hierdiff_core import PromptEmbeddings
from hierdiff_core.plan.keys import text_key

ROWS = torch.arange(1.0, 7.0).reshape(3, 2)


def test_rows_become_float32_on_the_cpu_and_keep_their_order():
    embeddings = PromptEmbeddings(ROWS.to(torch.float16).requires_grad_(), -ROWS.double(), ["a", "b", "c"])
    assert (len(embeddings), embeddings.width) == (3, 2)
    for rows in (embeddings.positive, embeddings.negative):
        assert (rows.dtype, rows.device.type, rows.requires_grad) == (torch.float32, "cpu", False)
    assert torch.equal(embeddings.stacked(), torch.stack([ROWS, -ROWS]))


def test_arrays_and_lists_are_accepted():
    embeddings = PromptEmbeddings(np.eye(2), [[1.0, 0.0], [0.0, 1.0]])
    assert torch.equal(embeddings.positive, torch.eye(2))
    assert torch.equal(embeddings.negative, torch.eye(2))


def test_keys_depend_on_the_texts_alone():
    keys = PromptEmbeddings(ROWS, ROWS, ["lion", "tiger", "lion"]).keys
    assert keys == [text_key("lion"), text_key("tiger"), text_key("lion")]


def test_prompts_without_texts_have_names_and_keys_of_their_own():
    embeddings = PromptEmbeddings(ROWS, ROWS)
    assert len(set(embeddings.prompts)) == len(set(embeddings.keys)) == 3


def test_negatives_may_be_zero_or_all_the_same():
    assert not PromptEmbeddings(ROWS, torch.zeros(3, 2)).negative.any()


def test_embeddings_cannot_be_changed_after_the_check():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PromptEmbeddings(ROWS, ROWS).positive = -ROWS


def with_row(row):
    return torch.tensor([[1.0, 2.0], row, [3.0, 4.0]])


@pytest.mark.parametrize(
    ("positive", "negative", "prompts", "message"),
    [
        (ROWS[0], ROWS[0], (), r"positive must have shape \(N, D\) with N >= 1; got \(2,\)"),
        (torch.zeros(0, 4), torch.zeros(0, 4), (), r"positive must have shape \(N, D\) with N >= 1; got \(0, 4\)"),
        (torch.zeros(3, 0), torch.zeros(3, 0), (), r"got \(3, 0\)"),
        (ROWS, ROWS[:2], (), r"negative must have the shape of positive, \(3, 2\); got \(2, 2\)"),
        (ROWS, ROWS, ["a", "b"], "prompts must name each embedding: 2 names, 3 embeddings"),
        (with_row([torch.nan, 1]), ROWS, "abc", r'the embedding of prompt 1 \("b"\) holds NaN or infinity'),
        (with_row([torch.inf, 1]), ROWS, "abc", r'the embedding of prompt 1 \("b"\) holds NaN or infinity'),
        (ROWS, with_row([1, -torch.inf]), "abc", r'prompt 1 \("b"\) has a negative with NaN or infinity'),
        (with_row([0, 0]), ROWS, "abc", r'the embedding of prompt 1 \("b"\) is zero .* reword or drop'),
    ],
)
def test_error_names_what_is_wrong_with_which_prompt(positive, negative, prompts, message):
    with pytest.raises(ValueError, match=message):
        PromptEmbeddings(positive, negative, prompts)
