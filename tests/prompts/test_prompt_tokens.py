"""What is said of prompts that a text encoder does not read to their end, or in words that it does not know."""

import logging
from types import SimpleNamespace

import pytest

from hierdiff_core import embed_prompts, load_prior
from hierdiff_core.prompts.tokens import MOST_WARNINGS, THEIR_WARNINGS, text_warnings, words_and_signs


@pytest.fixture(scope="module")
def prior():
    return load_prior()


@pytest.fixture(scope="module")
def clip():
    """CLIP's own tokenizer, which Kandinsky 2.2 has too, as the host ships it."""
    from comfyui_host import find_or_fetch_comfyui
    from transformers import CLIPTokenizer

    folder = find_or_fetch_comfyui() / "comfy" / "sd1_tokenizer"
    return SimpleNamespace(tokenizer=CLIPTokenizer.from_pretrained(str(folder), model_max_length=77))


def test_long_prompt_is_named_with_what_fits_and_what_is_lost(prior, clip):
    text = " ".join(["lion"] * 22 + ["tiger", "zebra"])
    assert text_warnings(prior, ["lion", text[: -len(" tiger zebra")]]) == []
    (line,) = text_warnings(prior, ["lion", text])
    tokens = len(prior.tokenizer(text).input_ids) - 2
    assert line == f"prompt 1 has {tokens} tokens; this text encoder reads 22, so its end is ignored: tiger zebra"
    (line,) = text_warnings(clip, "apple " * 94, "negative prompt")
    assert line.startswith(
        "the negative prompt has 94 tokens; this text encoder reads 75, so its end is ignored: apple"
    )


KNOWN = [
    "a photo of a lion wearing a hat, watercolor",
    "masterpiece, best quality, (red apple:1.4), 8k",
    "un león rojo, acuarela",
    "ein großer Löwe",
    "a lion 🦁 and an apple 🍎",
    "a cat in 東京 at night",
    "a b c",
    "A",
    "12, 34!",
]
UNKNOWN = [
    "赤いりんご",
    "帽子をかぶったライオン",
    "一只戴帽子的狮子",
    "猫",
    "красное яблоко",
    "أسد يرتدي قبعة",
    "สิงโต",
    "사자가 모자를",
    "λιοντάρι",
]


@pytest.mark.parametrize("tokenizer", ["prior", "clip"])
def test_languages_that_are_spelled_are_named_and_no_others(tokenizer, request):
    prior = request.getfixturevalue(tokenizer)
    assert [text for text in KNOWN if "does not know" in " ".join(text_warnings(prior, [text]))] == []
    for text in UNKNOWN:
        assert "uses words or characters that this text encoder does not know" in " ".join(
            text_warnings(prior, [text])
        ), text


def test_accents_and_emoji_are_judged_by_what_the_tokenizer_has_learned(prior, clip):
    for text in ("café", "🦁", "una niña con paraguas, año nuevo"):
        assert text_warnings(clip, [text]) == []
    assert "does not know" in text_warnings(prior, ["🦁🍎"])[0]  # four bytes each to the bundled model
    assert text_warnings(prior, ["cafe\u0301 on a table"]) == text_warnings(prior, ["caf\u00e9 on a table"]) == []


def test_mark_that_ends_a_text_is_named(prior):
    (line,) = text_warnings(prior, ["a lion <|endoftext|> a tiger"])
    assert line.startswith(
        "prompt 0 contains <|endoftext|>, which marks the end of the text for this text encoder: a lion"
    )


def test_equal_texts_are_named_once_and_many_are_counted(prior):
    long = "lion " * 60
    assert len(text_warnings(prior, [long, "lion", long])) == 1
    lines = text_warnings(prior, [long + str(i) for i in range(MOST_WARNINGS + 5)])
    assert len(lines) == MOST_WARNINGS + 1
    assert lines[-1] == "and 5 more of the prompts"


def test_words_are_runs_of_letters_and_signs_stand_alone():
    assert words_and_signs("a Café, 3 🦁🦁 — ё!") == ["a", "Café", "🦁", "🦁", "ё"]
    assert words_and_signs("") == []


@pytest.mark.parametrize("negative", ["", "blurry " * 40])
def test_log_holds_our_words_and_not_the_libraries(prior, caplog, monkeypatch, negative):
    prior.tokenizer.deprecation_warnings.clear()  # as in a new process: the tokenizer says it once
    for name in ("diffusers", "transformers"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    before = [list(logging.getLogger(name).filters) for name in THEIR_WARNINGS]
    with caplog.at_level(logging.WARNING):
        embed_prompts(prior, ["lion " * 60], negative_prompt=negative, num_steps=2)
    assert "HierDiff: prompt 0 has 60 tokens" in caplog.text
    assert ("the negative prompt has" in caplog.text) == bool(negative)
    assert "truncated" not in caplog.text
    assert "Token indices" not in caplog.text
    assert [logging.getLogger(name).filters for name in THEIR_WARNINGS] == before


def test_node_shows_them_as_warnings(pack, prior):
    patcher = SimpleNamespace(load_device="cpu")
    model = SimpleNamespace(
        pipeline=prior, patcher=patcher, load=lambda: None, load_image_encoder=lambda: None, name="model", suitable={}
    )
    execute = pack.nodes.PriorEmbedding.execute
    inputs = (model, ("lion", "赤いりんご"), "dog " * 40, 2, 4.0, 0, "per prompt")
    ui = execute(*([value] for value in inputs)).ui
    warnings = [line for line in ui["text"][0].splitlines() if line.startswith("⚠")]
    assert [line[:30] for line in warnings] == ["⚠ prompt 1 uses words or chara", "⚠ the negative prompt has 40 t"]


def test_steps_of_the_node_are_those_that_the_prior_can_take(pack):
    steps = next(i for i in pack.nodes.PriorEmbedding.define_schema().inputs if i.id == "steps")
    assert (steps.min, steps.max, steps.default) == (2, 1000, 25)
