"""What a prior is asked for: of an edited set the new prompts alone, and a black image once."""

import pytest
import torch

from hierdiff_core import PromptEmbeddings, embed_prompts, load_prior
from hierdiff_core.embeddings import IMAGE_EMBEDDINGS
from hierdiff_core.kandinsky.prior import black_image
from hierdiff_core.prompts.rows import PromptRow, PromptRows

PROMPTS = ("cat face, noto style", "red apple, flat style", "fire engine, 3d style", "tulip, paper style")
EDITED = (*PROMPTS[:2], "fire  engine, 3d style", "snowman, paper style")
FAST = {"num_steps": 2, "guidance": 4.0, "seed": 3}


@pytest.fixture(scope="module")
def prior():
    return load_prior()


@pytest.fixture
def asked(prior, monkeypatch):
    """Texts that were read, and pictures that were looked at."""
    texts, pictures, encode, look = [], [], prior._encode_prompt, prior.image_encoder.forward
    monkeypatch.setattr(prior, "_encode_prompt", lambda prompt, *args: texts.extend(prompt) or encode(prompt, *args))
    monkeypatch.setattr(prior.image_encoder, "forward", lambda *args, **more: pictures.append(1) or look(*args, **more))
    return texts, pictures


def test_of_an_edited_set_the_new_prompt_alone_is_embedded_bit_identically(prior, asked):
    first = embed_prompts(prior, PROMPTS, **FAST)
    assert asked == ([*PROMPTS], [1])
    whole = embed_prompts(prior, EDITED, **FAST)
    for texts in asked:
        texts.clear()
    edited = embed_prompts(prior, EDITED, known=first, **FAST)
    assert asked == (["snowman, paper style"], [1])
    assert torch.equal(edited.stacked(), whole.stacked())
    assert (edited.prompts, edited.kind) == (whole.prompts, whole.kind)
    assert torch.equal(embed_prompts(prior, PROMPTS[::-1], known=first, **FAST).positive, first.positive.flip(0))
    assert asked == (["snowman, paper style"], [1])


def test_another_negative_is_another_embedding(prior, asked):
    rows = PromptRows([PromptRow("red apple", negative="dull"), PromptRow("lion")])
    first = embed_prompts(prior, rows, negative_prompt="blurry", **FAST)
    for texts in asked:
        texts.clear()
    changed = PromptRows([PromptRow("red apple", negative="dull"), PromptRow("lion", negative="grey")])
    found = embed_prompts(prior, changed, negative_prompt="blurry", known=first, **FAST)
    assert asked == (["lion", "grey"], [])
    assert torch.equal(found.positive[0], first.positive[0])
    assert not torch.equal(found.negative[1], first.negative[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 7}, r"known must be image embeddings of a prior with \d+ numbers each; got .* with 7"),
        ({"kind": "a CLIP's"}, "known must be image embeddings of a prior .*; got a CLIP's with"),
        ({"negative_prompt": ["dull"] * 4}, "known needs one negative_prompt for all"),
    ],
)
def test_embeddings_of_others_are_refused(prior, changes, message):
    rows = torch.eye(4, changes.pop("width", prior.prior.config.embedding_dim))
    known = PromptEmbeddings(rows, torch.zeros_like(rows), PROMPTS, changes.pop("kind", IMAGE_EMBEDDINGS))
    with pytest.raises(ValueError, match=message):
        embed_prompts(prior, PROMPTS, known=known, **FAST, **changes)


def test_with_a_black_image_that_is_known_the_image_encoder_may_be_anywhere(prior, asked):
    whole, black = embed_prompts(prior, PROMPTS[:2], **FAST), black_image(prior)
    encoder = prior.image_encoder
    away = load_prior()
    away.image_encoder.to("meta")
    found = embed_prompts(away, PROMPTS[:2], black=black, **FAST)
    assert torch.equal(found.stacked(), whole.stacked())
    assert (away.image_encoder.device.type, prior.image_encoder) == ("meta", encoder)
    assert "get_zero_embed" not in vars(away)


def test_a_prior_that_fails_has_its_image_encoder_back(prior):
    encoder = prior.image_encoder

    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        embed_prompts(prior, PROMPTS[:1], on_step=stop, **FAST)
    assert prior.image_encoder is encoder
    assert "get_zero_embed" not in vars(prior)
