"""Noise is a function of (seed, branch, step) and of nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierdiff_core.plan.keys import branch_keys, negative_key, text_key
from hierdiff_core.sampling.noise import FIRST_LATENT, common_noise, keyed_generator, keyed_noise


def draw(generator):
    return torch.randn(8, generator=generator).tolist()


def test_draws_depend_on_no_earlier_draw_and_no_other_branch():
    together = [draw(generator) for generator in keyed_noise(5)(3, [10, 20, 30])]
    fresh = keyed_noise(5)
    fresh(0, [99])
    torch.manual_seed(1)
    assert [draw(*fresh(3, [branch])) for branch in (30, 20, 10)] == together[::-1]


def test_seed_branch_and_step_each_change_the_noise():
    keys = [(seed, branch, k) for seed in (0, 1, 2**64 - 1) for branch in (0, 1, 2**62) for k in (FIRST_LATENT, 0, 1)]
    draws = {tuple(draw(keyed_generator(*key))) for key in keys}
    assert len(draws) == len(keys)


def test_parts_of_the_key_do_not_run_together():
    assert draw(keyed_generator(1, 23, 4)) != draw(keyed_generator(12, 3, 4))
    assert draw(keyed_generator(1, 2, 34)) != draw(keyed_generator(1, 23, 4))


def test_noise_is_standard_normal_and_branches_are_uncorrelated():
    a, b = (torch.randn(40_000, generator=generator) for generator in keyed_noise(0)(0, [1, 2]))
    assert abs(a.mean()) < 0.02
    assert abs(a.std() - 1) < 0.02
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.02


def test_generators_stay_on_the_cpu_and_leave_the_global_one_alone():
    state = torch.random.get_rng_state()
    assert {generator.device.type for generator in keyed_noise(7)(0, [1, 2])} == {"cpu"}
    assert torch.equal(torch.random.get_rng_state(), state)


def test_common_noise_is_one_draw_for_all_branches_and_another_at_each_step_and_seed():
    draws = {}
    for seed, k in ((0, FIRST_LATENT), (0, 0), (0, 1), (1, 0), (2**64 - 1, 0)):
        branches = [draw(generator) for generator in common_noise(seed)(k, [10, 20, 30])]
        assert branches == [branches[0]] * 3
        assert branches[0] == draw(*common_noise(seed)(k, [99]))
        draws[seed, k] = tuple(branches[0])
    assert len(set(draws.values())) == len(draws)


@pytest.mark.parametrize("source", [keyed_noise, common_noise])
@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (1.0, "seed must be a whole number; got 1.0"),
        ("1", "seed must be a whole number; got '1'"),
        (None, "seed must be a whole number; got None"),
        (-1, "seed must be from 0 to 2\\*\\*64 - 1; got -1"),
        (2**64, "seed must be from 0 to 2\\*\\*64 - 1; got 18446744073709551616"),
    ],
)
def test_seed_that_is_no_whole_number_in_range_is_refused(source, seed, message):
    with pytest.raises(ValueError, match=message):
        source(seed)


@pytest.mark.parametrize("source", [keyed_noise, common_noise])
@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor, bool])
def test_equal_seeds_of_any_kind_are_one_seed(source, kind):
    assert draw(*source(kind(1))(0, [7])) == draw(*source(1)(0, [7]))


@pytest.mark.parametrize(
    ("text", "key"),
    [("", 6510301506637419378), ("tiger face, noto style", 4561134574532523730), ("größer 虎", 8665974518115355445)],
)
def test_keys_of_texts_stay_what_they_are_so_that_pictures_do(text, key):
    assert text_key(text) == key


@pytest.mark.parametrize(
    ("spellings", "key"),
    [
        (["café au lait", "cafe\u0301 au lait", "  café\tau\u3000\n lait "], 2322215801431770864),
        (["tiger face, noto style", "tiger  face,\u00a0noto\r\nstyle"], 4561134574532523730),
        (["cat \U0001f600", "cat \ud83d\ude00"], 7241691607260749989),
        (["cat \ufffd", "cat \ud83d", "cat \ude00"], 1385951768900053805),
    ],
)
def test_spellings_of_a_text_have_the_key_that_it_has_in_normal_form(spellings, key):
    assert {text_key(text) for text in spellings} == {key}


def test_white_space_of_a_negative_counts_as_in_saved_workflows():
    assert negative_key("blurry,\n ugly") == 1480947274879289527
    assert negative_key("blurry, ugly") == text_key("blurry, ugly") == text_key("blurry,\n ugly")
    assert negative_key("cafe\u0301 \ud83d") == negative_key("café \ufffd")


def test_accents_without_end_are_not_put_in_order_which_would_take_forever():
    assert text_key("a" + "\u0301\u0316" * 100_000) != text_key("a")


@given(st.text(st.characters(exclude_categories=[])))
def test_key_of_any_text_is_a_number_of_63_bits(text):
    assert 0 <= text_key(text) < 2**63


def test_branch_is_known_by_the_smallest_key_of_its_prompts():
    assert branch_keys(np.array([1, 0, 1, 2]), [50, 40, 30, 20]) == [40, 30, 20]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2**63 - 1)), min_size=1), st.randoms(use_true_random=False))
def test_branch_keys_do_not_depend_on_the_order_of_the_prompts(pairs, random):
    numbers = sorted({label for label, _ in pairs})
    pairs = [(numbers.index(label), key) for label, key in pairs]
    shuffled = random.sample(pairs, len(pairs))
    assert branch_keys(*zip(*pairs, strict=True)) == branch_keys(*zip(*shuffled, strict=True))


def test_noise_of_a_branch_goes_on_in_one_of_its_children():
    prompt_keys = [70, 10, 90, 40]
    (parent,) = branch_keys([0, 0, 0, 0], prompt_keys)
    children = branch_keys([0, 1, 0, 1], prompt_keys)
    assert children.count(parent) == 1
    assert len(set(children)) == 2
