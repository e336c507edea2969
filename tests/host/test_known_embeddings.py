"""Texts that were embedded before are not embedded again, unless anything that their embedding follows from changed."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from small_clips import random_clip

from hierdiff_core.prompts.rows import PromptRow, PromptRows

pytestmark = pytest.mark.host

FIRST = ("a red apple", "a (green:1.3) apple", "a cat")
EDITED = ("a red apple", "a (green:1.3) apple", "a dog")


@pytest.fixture(scope="module")
def modules(pack):
    return SimpleNamespace(
        **{name: importlib.import_module(f"{pack.__name__}.nodes.{name}") for name in ("clip", "prior")},
        known=importlib.import_module(f"{pack.__name__}.nodes.host.known_embeddings"),
        sums=importlib.import_module(f"{pack.__name__}.nodes.host.weights_sum"),
        nodes=pack.nodes,
    )


@pytest.fixture(autouse=True)
def nothing_known(modules, monkeypatch):
    for name in ("of_clips", "of_priors"):
        store = modules.known.Known()
        monkeypatch.setattr(modules.known, name, store)
        monkeypatch.setattr(modules.clip if name == "of_clips" else modules.prior, name, store)


@pytest.fixture
def clip(pack):
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer

    return random_clip(SD1ClipModel, SD1Tokenizer)


def encode(modules, clip, prompts, **inputs):
    """Conditioning, the report's line on what was known, and how many texts were encoded."""
    counted, plain = [], type(clip).encode_from_tokens_scheduled

    def count(self, tokens, *args, **kwargs):
        counted.append(tokens)
        return plain(self, tokens, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(clip), "encode_from_tokens_scheduled", count)
        out = modules.nodes.ClipEmbedding.execute(clip, tuple(prompts), "auto", **inputs)
    line = [line for line in out.ui["text"][0].split("\n") if line.startswith("embedded ")]
    return SimpleNamespace(out=out, cond=out.args[0][0], line=line, encoded=len(counted))


def assert_same(one, other):
    assert torch.equal(one[0], other[0])
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        assert torch.equal(value, other[1][name]) if torch.is_tensor(value) else value == other[1][name]


def lora(clip, strength=0.5):
    """The same CLIP with a difference added to one of its weights."""
    patched = clip.clone()
    key = next(key for key in clip.patcher.model_state_dict() if key.endswith("mlp.fc1.weight"))
    weight = clip.patcher.model_state_dict()[key]
    patched.add_patches({key: ("diff", (torch.ones_like(weight),))}, strength)
    return patched


def test_of_an_edited_set_the_new_text_alone_is_encoded_bit_identically(modules, clip):
    first = encode(modules, clip, FIRST)
    assert (first.encoded, first.line) == (len(FIRST) + 1, [])  # and the empty negative
    edited = encode(modules, clip, EDITED)
    assert (edited.encoded, edited.line) == (1, ["embedded 1 of 3 prompts, 2 were known"])
    modules.known.of_clips._values.clear()
    assert_same(edited.cond, encode(modules, clip, EDITED).cond)


def test_padded_sets_of_other_lengths_take_what_is_known_of_each_prompt(modules, pack):
    from comfy.text_encoders.flux import FluxClipModel, FluxTokenizer

    t5 = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 2}
    flux = random_clip(FluxClipModel, FluxTokenizer, t5xxl_model_config=t5)
    long = ", ".join(["a harbour at dawn"] * 80)
    encode(modules, flux, FIRST)
    edited = encode(modules, flux, (*FIRST, long))
    assert edited.encoded == 1
    modules.known.of_clips._values.clear()
    assert_same(edited.cond, encode(modules, flux, (*FIRST, long)).cond)


def test_a_lora_its_strength_and_clip_skip_are_other_encoders(modules, clip):
    encode(modules, clip, FIRST)
    skipping = clip.clone()
    skipping.clip_layer(-2)
    for other in (lora(clip), lora(clip, 0.25), skipping):
        changed = encode(modules, other, FIRST)
        assert (changed.encoded, changed.line) == (len(FIRST) + 1, [])
        assert encode(modules, other, FIRST).encoded == 0
    back = encode(modules, clip, FIRST)  # the LoRA is still in the weights until the encoder is loaded without
    assert (back.encoded, back.line) == (0, ["embedded 0 of 3 prompts, 3 were known"])


def test_one_number_of_one_weight_is_another_encoder(modules, clip):
    encode(modules, clip, FIRST)
    weight = next(p for p in clip.cond_stage_model.parameters() if p.numel() > 1000)
    weight.detach().view(-1)[777] += 1e-3
    changed = encode(modules, clip, FIRST)
    assert changed.encoded == len(FIRST) + 1


def test_an_option_of_the_encoder_is_another_encoder(modules, clip):
    before = modules.known.clip_digest(clip)
    clip.cond_stage_model.clip_l.layer_norm_hidden_state = not clip.cond_stage_model.clip_l.layer_norm_hidden_state
    assert modules.known.clip_digest(clip) != before
    options = clip.clone()
    options.set_tokenizer_option("min_length", 100)
    assert modules.known.clip_digest(options) != modules.known.clip_digest(clip)


def test_moving_or_encoding_changes_nothing(modules, clip):
    before = modules.known.clip_digest(clip)
    encode(modules, lora(clip), FIRST)
    assert modules.known.clip_digest(clip) == before == modules.known.clip_digest(clip.clone())


def test_a_textual_inversion_is_known_by_its_numbers(modules, clip):
    values = [torch.ones(1, 64), torch.ones(1, 64), torch.zeros(1, 64)]
    tokens = [{"l": [[(49406, 1.0), (value, 1.0), (7, 1.0)]]} for value in values]
    digests = [modules.known.value_digest(each) for each in tokens]
    assert digests[0] == digests[1] != digests[2]
    assert modules.known.value_digest([1]) != modules.known.value_digest([1.0]) != modules.known.value_digest(["1.0"])
    assert modules.known.value_digest([[1], [2]]) != modules.known.value_digest([[1, 2]])
    assert modules.known.value_digest([object()]) is None


@pytest.mark.parametrize("how", ["method", "hook", "class", "schedule", "wrapper"])
def test_encoders_that_others_have_changed_are_never_known(modules, clip, how):
    import comfy.sd

    if how == "method":
        model = clip.cond_stage_model
        plain = model.encode_token_weights
        model.encode_token_weights = lambda tokens: plain(tokens)
    elif how == "hook":
        clip.cond_stage_model.clip_l.register_forward_hook(lambda *_: None)
    elif how == "class":
        clip.__class__ = type("Other", (comfy.sd.CLIP,), {})
    elif how == "schedule":
        clip.use_clip_schedule = True
    else:
        clip.patcher.add_wrapper("some", lambda *_: None)
    assert modules.known.clip_digest(clip) is None
    for _ in range(2):
        assert encode(modules, clip, FIRST).encoded == len(FIRST) + 1


def test_negatives_are_known_too(modules, clip):
    encode(modules, clip, FIRST, negative_prompt="a cat")
    assert encode(modules, clip, FIRST, negative_prompt="blurry").encoded == 1
    assert encode(modules, clip, FIRST, negative_prompt="a red apple").encoded == 0


def test_what_is_known_is_bounded_and_the_oldest_goes_first(modules):
    row = torch.zeros(1024)
    known = modules.known.Known(3 * (row.nbytes + modules.known.VALUE_COSTS))
    for name in (b"1", b"2", b"3"):
        known.put(name, [row])
    assert known.get(b"1") is not None
    known.put(b"4", [row])
    assert [known.get(name) is None for name in (b"1", b"2", b"3", b"4")] == [False, True, False, False]
    assert known.held == known.budget
    known.put(b"5", [torch.zeros(10_000)])  # more than all
    assert known.get(b"5") is None
    known.put(None, [row])
    assert known.get(None) is None


# --- The prior


@pytest.fixture
def prior(modules):
    return modules.nodes.PriorLoader.execute("emoji-kandinsky (bundled)", "fp32").args[0]


def embed(modules, prior, prompts, **changes):
    inputs = {"negative_prompt": [""], "steps": [2], "guidance": [4.0], "seed": [1], "noise": ["per prompt"], **changes}
    made, plain = [], modules.prior.embed_prompts

    def count(pipeline, texts, **settings):
        made.extend(texts)
        return plain(pipeline, texts, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules.prior, "embed_prompts", count)
        out = modules.nodes.PriorEmbedding.execute([prior], [prompts], **inputs)
    (embeddings,) = out.args[0]
    return SimpleNamespace(embeddings=embeddings, made=made, text=out.ui["text"][0])


def test_the_prior_predicts_new_texts_alone_bit_identically(modules, prior):
    assert embed(modules, prior, ("cat face", "red apple", "cat face")).made == ["cat face", "red apple"]
    edited = embed(modules, prior, ("fox face", "red  apple", "cat face"))
    assert edited.made == ["fox face"]
    assert "embedded 1 of 3 prompts, 2 were known" in edited.text
    from hierdiff_core import embed_prompts

    whole = embed_prompts(prior.pipeline, ("fox face", "red apple", "cat face"), num_steps=2, guidance=4.0, seed=1)
    assert torch.equal(edited.embeddings.stacked(), whole.stacked())
    assert edited.embeddings.kind == whole.kind
    again = embed(
        modules, modules.nodes.PriorLoader.execute("emoji-kandinsky (bundled)", "fp32").args[0], ("cat face",)
    )
    assert again.made == []  # the same weights, loaded once more


def test_the_image_encoder_looks_at_one_black_image_for_all_sets_of_a_prior(modules, prior, monkeypatch):
    loaded, load = [], type(prior).load_image_encoder
    monkeypatch.setattr(type(prior), "load_image_encoder", lambda self: loaded.append(self) or load(self))
    embed(modules, prior, ("cat face",), negative_prompt=["dull"])
    assert loaded == []
    assert embed(modules, prior, ("cat face", "red apple")).made == ["cat face", "red apple"]
    assert embed(modules, prior, ("cat face", "fox face")).made == ["fox face"]
    assert loaded == [prior]
    weight = next(p for p in prior.pipeline.image_encoder.parameters() if p.numel() > 1000)
    weight.detach().view(-1)[777] += 1e-3
    embed(modules, prior, ("cat face",))
    assert loaded == [prior, prior]


def test_other_settings_negatives_or_weights_predict_anew(modules, prior):
    embed(modules, prior, ("cat face",))
    for changes in (
        {"steps": [3]},
        {"guidance": [4.5]},
        {"seed": [2]},
        {"noise": ["shared"]},
        {"negative_prompt": ["blurry"]},
    ):
        assert embed(modules, prior, ("cat face",), **changes).made == ["cat face"]
    weight = next(p for p in prior.pipeline.prior.parameters() if p.numel() > 1000)
    weight.detach().view(-1)[777] += 1e-3
    assert embed(modules, prior, ("cat face",)).made == ["cat face"]


@pytest.mark.parametrize("inference", [False, True])
def test_weights_are_added_up_once_while_they_stay_as_they_are(modules, monkeypatch, inference):
    added, plain = [], modules.sums.bits_of
    monkeypatch.setattr(modules.sums, "bits_of", lambda weight: added.append(weight) or plain(weight))
    with torch.inference_mode(inference):  # as the host runs nodes: there torch counts no changes
        prior = modules.nodes.PriorLoader.execute("emoji-kandinsky (bundled)", "fp32").args[0]
        first, count = modules.known.prior_digest(prior), len(added)
        assert count > 100
        prior.pipeline.prior.to(torch.float64).to(torch.float32)  # as a move would, it makes other tensors
        assert modules.known.prior_digest(prior) == first
        assert len(added) == count
        added.clear()
        assert modules.known.prior_digest(prior) == first
        assert not added
        weight = next(p for p in prior.pipeline.prior.parameters() if p.numel() > 1000)
        weight.data.mul_(1.001)  # all of a weight, as by training or a merge
        assert modules.known.prior_digest(prior) != first
        assert len(added) == len(prior.pipeline.prior.state_dict())  # of the network that was changed


def test_prompts_keep_what_is_their_own(modules, prior):
    prompts = PromptRows([PromptRow("cat face", seed=3), PromptRow("red apple", negative="dull")])
    found = [embed(modules, prior, prompts) for _ in range(2)]
    assert found[1].made == []
    for each in found:
        assert each.embeddings.prompts.rows == prompts.rows
