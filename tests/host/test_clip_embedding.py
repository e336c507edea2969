"""CLIP Embedding: real text encoders of ComfyUI, made small and random, and the joining of conditionings."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from graphs import PROMPTS
from small_clips import SMALL, random_clip

from hierdiff_core import build_plan, linear_thresholds, ward_linkage
from hierdiff_core.prompts.rows import PromptRow, PromptRows

SHORT = ["a red apple", "a green apple, watercolor", "a cat", "a red apple"]
LONG = ", ".join(["a very detailed painting of a harbour at dawn"] * 12)  # two chunks of 77 tokens
LONGER = ", ".join(["a very detailed painting of a harbour at dawn"] * 20)  # three


@pytest.fixture(scope="module")
def node(pack):
    return pack.nodes.ClipEmbedding


@pytest.fixture(scope="module")
def joining(pack):
    return pack.nodes.host.encode_set


@pytest.fixture(scope="module")
def sd1(pack):
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer

    return random_clip(SD1ClipModel, SD1Tokenizer)


@pytest.fixture(scope="module")
def sdxl(pack):
    from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer

    return random_clip(SDXLClipModel, SDXLTokenizer)


@pytest.fixture(scope="module")
def flux(pack):
    from comfy.text_encoders.flux import FluxClipModel, FluxTokenizer

    t5 = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 2}
    return random_clip(FluxClipModel, FluxTokenizer, t5xxl_model_config=t5)


@pytest.fixture(scope="module")
def z_image(pack):
    from comfy.text_encoders.z_image import ZImageTEModel, ZImageTokenizer

    qwen3 = {**SMALL, "num_key_value_heads": 2}
    return random_clip(ZImageTEModel, ZImageTokenizer, qwen3_4b_model_config=qwen3)


@pytest.fixture(params=["sd1", "sdxl"])
def clip(request):
    return request.getfixturevalue(request.param)


def run(node, clip, prompts, pooling="auto"):
    """The only entry, the embeddings and the text of a run."""
    out = node.execute(clip, tuple(prompts), pooling)
    (entry,), embeddings, _ = out.args
    return entry, embeddings, out.ui["text"][0]


def encoded_by_the_host(clip, prompt):
    import nodes

    ((entry,),) = nodes.CLIPTextEncode().encode(clip, prompt)
    return entry


def attention(queries, tokens):
    return torch.nn.functional.scaled_dot_product_attention(queries, tokens, tokens)


# --- Real encoders ---------------------------------------------------------------------------------------------------


def test_rows_are_each_prompt_encoded_alone(node, clip):
    (cond, values), embeddings, text = run(node, clip, SHORT)
    for i, prompt in enumerate(SHORT):
        alone, alone_values = encoded_by_the_host(clip, prompt)
        assert torch.equal(cond[i : i + 1], alone)
        assert torch.equal(values["pooled_output"][i : i + 1], alone_values["pooled_output"])
    assert values.keys() == alone_values.keys() | {"hierdiff_prompts"}
    assert values["hierdiff_prompts"] == tuple(SHORT)
    assert embeddings.prompts == tuple(SHORT)
    assert torch.equal(embeddings.positive, values["pooled_output"].float())
    assert not embeddings.negative.any()
    assert text.startswith("4 prompts (3 distinct)\nembeddings: pooled, 64 numbers each\ntokens: 77 (4 prompts)")
    assert "⚠" not in text


def test_equal_prompts_are_encoded_once(node, sd1, monkeypatch):
    calls = []
    encode = sd1.encode_from_tokens_scheduled
    monkeypatch.setattr(sd1, "encode_from_tokens_scheduled", lambda tokens: calls.append(tokens) or encode(tokens))
    (cond, values), embeddings, _ = run(node, sd1, SHORT)
    assert len(calls) == 4  # three prompts, and the negative of all
    for rows in (cond, values["pooled_output"], embeddings.positive):
        assert torch.equal(rows[0], rows[3])
        assert not torch.equal(rows[0], rows[1])


def test_embeddings_make_a_tree(node, clip):
    _, embeddings, _ = run(node, clip, SHORT)
    Z = ward_linkage(embeddings.positive)
    assert Z.shape == (3, 4)
    assert Z[0, 2] == 0  # the equal prompts
    assert set(Z[0, :2]) == {0, 3}


def test_one_prompt_is_enough(node, sd1):
    (cond, _), embeddings, text = run(node, sd1, ["a cat"])
    assert cond.shape == (1, 77, 64)
    assert len(embeddings) == 1
    assert text.startswith("1 prompt (1 distinct)\nembeddings: pooled")


@pytest.mark.parametrize(
    ("prompts", "tokens"), [(["a cat", LONG], 154), ([LONG, "a cat", LONGER], 462)], ids=["two chunks", "three chunks"]
)
def test_long_prompts_stand_beside_short_ones(node, clip, prompts, tokens):
    (cond, _), _, text = run(node, clip, prompts)
    assert cond.shape[:2] == (len(prompts), tokens)
    assert f"repeated to {tokens} tokens" in text
    queries = torch.randn(1, 16, cond.shape[2], generator=torch.Generator().manual_seed(0))
    for row, prompt in zip(cond, prompts, strict=True):
        alone, _ = encoded_by_the_host(clip, prompt)
        copies = row.reshape(-1, *alone.shape[1:])
        assert all(torch.equal(copy, alone[0]) for copy in copies)
        torch.testing.assert_close(attention(queries, row[None]), attention(queries, alone))


def test_t5_takes_long_prompts_with_the_hosts_tokenizer_options(node, flux):
    from comfy_extras.nodes_cond import T5TokenizerOptions

    prompts = ["a cat", "a red apple", ", ".join([LONGER] * 2)]
    (cond, values), _, _ = run(node, flux, prompts[:2])
    assert cond.shape == (2, 256, 64)
    assert torch.equal(cond[1:], encoded_by_the_host(flux, prompts[1])[0])
    assert values["pooled_output"].shape == (2, 64)
    (cond, values), _, text = run(node, flux, prompts)
    longest = cond.shape[1]
    assert f"tokens: 256 (2 prompts), {longest} (1 prompt)" in text
    assert values["hierdiff_lengths"] == ((256, 256, longest), (False,) * 3, longest, False)
    assert "attention_mask" not in values
    assert "⚠ only for Share Steps and the Hierarchical samplers" in text
    assert f"T5TokenizerOptions with min_length {longest} between" in text
    for row, prompt in zip(cond, prompts, strict=True):
        alone = encoded_by_the_host(flux, prompt)[0]
        assert torch.equal(row[None, : alone.shape[1]], alone)
        assert not row[alone.shape[1] :].any()
    (padded,) = T5TokenizerOptions.execute(flux, min_padding=0, min_length=512).args
    (cond, _), _, text = run(node, padded, prompts)
    assert cond.shape == (3, 512, 64)
    assert "tokens: 512 (3 prompts)" in text


def test_language_model_pads_and_masks(node, z_image):
    prompts = ["a cat", "a red apple on a table", "a red apple"]
    (cond, values), _, text = run(node, z_image, prompts)
    mask = values["attention_mask"].bool()
    for row, kept, prompt in zip(cond, mask, prompts, strict=True):
        alone, alone_values = encoded_by_the_host(z_image, prompt)
        assert torch.equal(row[kept][None], alone)
        assert not row[~kept].any()
        assert alone_values["attention_mask"].all()
    assert kept.tolist() == sorted(kept.tolist(), reverse=True)
    assert values["hierdiff_lengths"][0] == tuple(mask.sum(dim=1).tolist())
    assert values["hierdiff_lengths"][1] == (True,) * 3
    assert "embeddings: token mean" in text
    assert (
        f"shorter prompts were padded to {cond.shape[1]} tokens; samplers with shared steps leave the padding" in text
    )
    assert "⚠" not in text


def test_embedding_of_a_prompt_does_not_depend_on_longer_ones(node, clip):
    for pooling in ("pooled", "token mean"):
        _, alone, _ = run(node, clip, ["a cat"], pooling)
        _, beside, _ = run(node, clip, ["a cat", LONG], pooling)
        assert torch.equal(alone.positive[0], beside.positive[0])


def test_joined_batch_is_what_the_host_would_concatenate(node, clip):
    from comfy.conds import CONDCrossAttn

    (cond, _), _, _ = run(node, clip, ["a cat", LONG])
    a, b = (CONDCrossAttn(encoded_by_the_host(clip, prompt)[0]) for prompt in ("a cat", LONG))
    assert a.can_concat(b)
    assert torch.equal(a.concat([b]), cond)


def test_weights_in_prompts_and_clip_skip_are_kept(node, sd1):
    skipping = sd1.clone()
    skipping.clip_layer(-2)
    prompts = ["a (red:1.4) apple", "a red apple"]
    (cond, _), _, _ = run(node, skipping, prompts)
    assert not torch.equal(cond[0], cond[1])
    assert torch.equal(cond[:1], encoded_by_the_host(skipping, prompts[0])[0])


def test_token_mean(node, sd1):
    (cond, _), embeddings, text = run(node, sd1, SHORT, "token mean")
    assert torch.equal(embeddings.positive, torch.cat([row[None].mean(dim=1) for row in cond]))
    assert "embeddings: token mean, 64 numbers each" in text


def test_user_can_stop_between_prompts(node, sd1, monkeypatch):
    import comfy.model_management as management

    calls = []
    encode = sd1.encode_from_tokens_scheduled

    def encode_and_cancel(tokens):
        calls.append(tokens)
        management.interrupt_current_processing()
        return encode(tokens)

    monkeypatch.setattr(sd1, "encode_from_tokens_scheduled", encode_and_cancel)
    with pytest.raises(management.InterruptProcessingException):
        run(node, sd1, SHORT)
    assert len(calls) == 1


def test_progress_counts_distinct_prompts(node, sd1, monkeypatch):
    import comfy.utils

    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0, raising=False)  # newer hosts leave some out
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: seen.append((value, total)))
    try:
        run(node, sd1, SHORT)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_schedule_of_hooks_is_refused(node, sd1):
    import comfy.hooks

    hooked = sd1.clone()
    hook = comfy.hooks.WeightHook(strength_clip=1.0)
    hook.weights = hook.weights_clip = {}
    keyframes = comfy.hooks.HookKeyframeGroup()
    keyframes.add(comfy.hooks.HookKeyframe(strength=1.0, start_percent=0.0))
    keyframes.add(comfy.hooks.HookKeyframe(strength=0.5, start_percent=0.5))
    hook.hook_keyframe = keyframes
    group = comfy.hooks.HookGroup()
    group.add(hook)
    hooked.patcher.forced_hooks = group
    hooked.use_clip_schedule = True
    with pytest.raises(ValueError, match=r'"a cat" has 2 conditionings.*schedule_clip'):
        run(node, hooked, ["a cat", "a dog"])


def test_missing_clip_is_named(node):
    with pytest.raises(ValueError, match="holds no text encoder"):
        run(node, None, ["a cat"])


# --- Encoders that only say what they would give ---------------------------------------------------------------------


def fake_clip(encodings, masks=False, pad_left=False, name="llm"):
    """`encodings` are {prompt: (cond, values)}; the tokens are as many as the conditioning has."""
    encoder = torch.nn.Module()
    encoder.return_attention_masks = masks

    def tokenize(prompt):
        return {name: [[(1, 1.0)] * encodings[prompt][0].shape[1]], "prompt": [prompt]}

    return SimpleNamespace(
        cond_stage_model=encoder,
        tokenizer=SimpleNamespace(tokens=SimpleNamespace(pad_left=pad_left)),
        tokenize=tokenize,
        encode_from_tokens_scheduled=lambda tokens: [
            [encodings[tokens["prompt"][0]][0], dict(encodings[tokens["prompt"][0]][1])]
        ],
    )


def tokens_of(length, seed, width=8):
    return torch.randn(1, length, width, generator=torch.Generator().manual_seed(seed))


def pooled_of(seed):
    return {"pooled_output": tokens_of(1, seed)[0]}


def test_masked_encoder_pads_with_zeros_on_the_right(node):
    a, b = tokens_of(5, 1), tokens_of(3, 2)
    clip = fake_clip({"a": (a, {"pooled_output": None}), "b": (b, {"pooled_output": None})}, masks=True)
    (cond, values), embeddings, text = run(node, clip, ["a", "b"])
    assert torch.equal(cond, torch.cat([a, torch.nn.functional.pad(b, (0, 0, 0, 2))]))
    assert values["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert not values["attention_mask"].is_floating_point()  # models would take it for an additive mask
    assert values["pooled_output"] is None
    assert torch.equal(embeddings.positive, torch.cat([a.mean(dim=1), b.mean(dim=1)]))
    assert "embeddings: token mean" in text
    assert "shorter prompts were padded to 5 tokens; samplers with shared steps leave the padding out" in text
    assert values["hierdiff_lengths"] == ((5, 3), (False, False), 5, False)


def test_encoder_that_pads_left_is_padded_left(node, monkeypatch):
    from comfy.model_base import Flux2

    monkeypatch.setattr(Flux2, "concat_cond", lambda self, **_: None)
    a, b = tokens_of(5, 1), tokens_of(3, 2)
    clip = fake_clip({"a": (a, {}), "b": (b, {})}, masks=True, pad_left=True)
    (cond, values), _, _ = run(node, clip, ["a", "b"])
    assert values["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    flux2 = Flux2.__new__(Flux2)  # without its network: only what it makes of a conditioning
    flux2.concat_keys = ()
    given = {"noise": torch.zeros(2, 4, 8, 8), "device": "cpu", "pooled_output": None}
    together, alone = (flux2.extra_conds(**given, cross_attn=c)["c_crossattn"].cond for c in (cond, b))
    assert alone.shape[1] == 512
    assert torch.equal(together[1:], alone)


def test_masks_of_the_encoder_are_stacked_row_by_row(joining):
    mask = torch.tensor([[1, 1, 0]])
    entries = [(tokens_of(3, 1), {"attention_mask": mask}), (tokens_of(3, 2), {})]
    _, values = joining.merge(entries, ["a", "b"])
    assert values["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    _, values = joining.merge([(tokens_of(2, 1), {}), *entries], ["a", "b", "c"], joining.REPEAT)
    assert values["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]


def test_token_mean_leaves_masked_tokens_out(pack):
    cond = tokens_of(4, 1)
    mean = pack.nodes.host.prompt_vectors.token_mean(cond, {"attention_mask": torch.tensor([[1, 1, 0, 0]])})
    torch.testing.assert_close(mean, cond[:, :2].mean(dim=1))


@pytest.mark.parametrize("pooled", [[None, None], [0.0, 0.0], [1.0, 1.0]], ids=["none", "zero", "constant"])
def test_auto_takes_the_tokens_where_pooled_tells_nothing(node, pooled):
    values = [{"pooled_output": p if p is None else torch.full((1, 4), p)} for p in pooled]
    clip = fake_clip({"a": (tokens_of(3, 1), values[0]), "b": (tokens_of(3, 2), values[1])})
    (_, merged), embeddings, text = run(node, clip, ["a", "b"])
    assert "embeddings: token mean, 8 numbers each" in text
    assert embeddings.width == 8
    assert merged["pooled_output"] is None or merged["pooled_output"].shape == (2, 4)


def test_embeddings_are_float32_on_the_cpu(node):
    clip = fake_clip({"a": (tokens_of(3, 1).half(), {k: v.half() for k, v in pooled_of(2).items()})})
    (cond, _), embeddings, _ = run(node, clip, ["a"])
    assert cond.dtype == torch.float16
    assert embeddings.positive.dtype == torch.float32


# --- Different conditioning, equal vectors ----------------------------------------------------------------------------

LONG_ENDS = [f"{LONG}, {end}" for end in ("in snow", "at night")]
WEIGHTS = ["a (red:1.4) apple", "a (red:0.6) apple"]


@pytest.mark.parametrize("pair", [WEIGHTS, LONG_ENDS], ids=["weights", "end"])
@pytest.mark.parametrize("pooling", ["auto", "pooled", "token mean"])
def test_prompts_stay_apart_where_only_the_tokens_tell(node, clip, pair, pooling):
    prompts = [*pair, "a cat", pair[0]]
    (cond, _), embeddings, text = run(node, clip, prompts, pooling)
    assert not torch.equal(cond[0], cond[1])
    rows = embeddings.positive
    assert torch.equal(rows[0], rows[3])
    assert not torch.equal(rows[0], rows[1])
    for metric in ("cosine", "chord"):
        Z = ward_linkage(rows, metric)
        plan = build_plan(Z, linear_thresholds(4, 2 * float(Z[-1, 2])))
        assert [step.num_clusters for step in plan.steps][::3] == [1, 3]
        alone = build_plan(Z, linear_thresholds(4, 0.0))
        assert [step.num_clusters for step in alone.steps] == [3] * 4
    both = f'prompt 0 ("{prompts[0][:60]}") and prompt 1 ("{prompts[1][:60]}")'
    warned = [line for line in text.splitlines() if line.startswith("⚠") and both in line]
    assert len(warned) == (pooling != "token mean")
    assert ("embeddings: pooled" in text) == (pooling == "pooled")


def test_set_that_pooled_tells_apart_keeps_it(node, clip):
    _, _, text = run(node, clip, [LONG_ENDS[0], "a cat", WEIGHTS[0]])
    assert "embeddings: pooled" in text
    assert "differs" not in text


def test_prompts_that_only_the_second_encoder_tells_apart_stay_apart(node, sdxl, monkeypatch):
    """As with a textual inversion that is made for one encoder alone."""
    tokenize = sdxl.tokenize

    def deaf_in_one_ear(text, **options):
        tokens = tokenize(text, **options)
        return {**tokens, "g": tokenize("a cat", **options)["g"]}

    monkeypatch.setattr(sdxl, "tokenize", deaf_in_one_ear)
    (cond, values), embeddings, text = run(node, sdxl, ["a cat", "a dog"])
    assert torch.equal(*values["pooled_output"])  # it is the second encoder's
    assert not torch.equal(*cond)
    assert not torch.equal(*embeddings.positive)
    assert "⚠ the pooled output is the same for" in text


def values_of(seed):
    return {"conditioning_llama3": torch.randn(1, 2, 6, 4, generator=torch.Generator().manual_seed(seed))}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((tokens_of(3, 1), values_of(1)), (tokens_of(3, 1), values_of(2))),
        ((tokens_of(3, 1), {"attention_mask": torch.tensor([[1, 1, 1]])}), (tokens_of(3, 1), {})),
        ((tokens_of(4, 1), {}), (tokens_of(4, 1).flip(1), {})),
    ],
    ids=["another tensor", "mask", "order of the tokens"],
)
def test_no_difference_in_the_conditioning_is_lost(node, first, second):
    """Vectors that no summary tells apart differ by a rounding."""
    encodings = {"a": first, "b": second, "c": (tokens_of(first[0].shape[1], 7), first[1])}
    (cond, values), embeddings, _ = run(node, fake_clip(encodings, masks=True), list("abca"))
    rows = embeddings.positive
    assert torch.equal(rows[0], rows[3])
    assert len({row.numpy().tobytes() for row in rows}) == 3
    assert (rows - torch.cat([cond[i : i + 1].mean(dim=1) for i in range(4)])).abs().max() < 1e-6
    assert values["hierdiff_prompts"] == tuple("abca")


def test_many_equal_vectors_are_set_apart_whatever_the_order_of_the_prompts(pack):
    vectors = pack.nodes.host.prompt_vectors
    names = [f"prompt {i}" for i in range(40)]
    made = {name: (tokens_of(3, 1), values_of(i)) for i, name in enumerate(names)}
    made["near"] = (tokens_of(3, 1), values_of(0))

    def rows(prompts):
        found, _, notes = vectors.prompt_vectors([made[name] for name in prompts], prompts, "token mean")
        assert "and 36 more" in "".join(notes)
        return dict(zip(prompts, (row.numpy().tobytes() for row in found), strict=True))

    forward, backward = rows(names), rows(names[::-1])
    assert forward == backward
    assert len(set(forward.values())) == 40


def test_one_conditioning_of_different_prompts_is_pointed_out(node):
    clip = fake_clip({"a": (tokens_of(3, 1), {}), "b": (tokens_of(3, 1), {}), "c": (tokens_of(3, 2), {})})
    _, embeddings, text = run(node, clip, ["c", "a", "b", "a"])
    assert '⚠ prompt 1 ("a") and prompt 2 ("b") have the same conditioning' in text
    assert torch.equal(embeddings.positive[1], embeddings.positive[2])


# --- Long prompts, in our words --------------------------------------------------------------------------------------


def test_tokens_of_long_prompts_are_counted(node, clip):
    _, _, text = run(node, clip, ["a cat", LONG, "a cat"])
    count = len(clip.tokenizer.clip_l.tokenizer(LONG)["input_ids"]) - 2
    line = next(line for line in text.splitlines() if line.startswith("⚠ longer than the 75 tokens"))
    assert f'prompt 1 ("{LONG[:60]}") with {count} tokens, read in 2 chunks; pooled compares the first' in line


def test_tokens_that_an_encoder_does_not_know_are_counted(pack, flux):
    notes = pack.nodes.host.token_counts.reading_notes
    prompts = ["a cat", "猫と犬"]
    tokens = [flux.tokenize(prompt) for prompt in prompts]
    (line,) = notes(flux, tokens, prompts, True)
    assert line.startswith("⚠ this encoder does not know")
    assert 'of prompt 1 ("猫と犬")' in line
    assert notes(flux, tokens[:1], prompts[:1], True) == []


def test_words_that_clip_spells_are_pointed_out(node, clip):
    _, _, text = run(node, clip, ["a cat", "日本語の猫", "(red:1.4) café, très joli", "🍎 apple"])
    (line,) = [line for line in text.splitlines() if "does not know" in line]
    assert line.startswith('⚠ this encoder does not know the words of prompt 1 ("日本語の猫"), and spells them out')
    assert "prompt 2" not in line
    assert "prompt 3" not in line


def test_chunks_in_any_mixture_stand_in_one_set(node, clip):
    prompts = [LONG, LONGER, ", ".join([LONGER, LONG])]  # 2, 3 and 5 chunks
    (cond, _), _, text = run(node, clip, prompts)
    assert cond.shape[1] == 30 * 77
    assert "⚠ prompts were repeated to 2310 tokens" in text
    for row, prompt in zip(cond, prompts, strict=True):
        alone, _ = encoded_by_the_host(clip, prompt)
        assert torch.equal(row[None], alone.repeat(1, 30 * 77 // alone.shape[1], 1))


def test_repetition_that_does_not_fit_in_memory_is_refused(node, sd1, monkeypatch):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: 10**5)
    with pytest.raises(ValueError, match=r"154 \(1 prompt\), 231 \(1 prompt\).*too much time or memory"):
        run(node, sd1, [LONG, LONGER])
    run(node, sd1, ["a cat", "a dog"])


# --- Refusals --------------------------------------------------------------------------------------------------------

ERRORS = {
    "no pooled": ("pooled", [(3, {}), (3, {})], r'gives no pooled output for "a"; set pooling to "token mean"'),
    "zero pooled": (
        "pooled",
        [(3, pooled_of(1)), (3, {"pooled_output": torch.zeros(1, 8)})],
        r'a pooled output of zeros for "b"; set pooling to "token mean"',
    ),
    "some pooled": (
        "token mean",
        [(3, pooled_of(1)), (3, {"pooled_output": None})],
        r"prompt 1 \(\"b\"\) has no 'pooled",
    ),
    "NaN": (
        "auto",
        [(3, pooled_of(1)), (3, {"pooled_output": torch.full((1, 8), math.nan)})],
        'the embedding of "b" holds NaN or infinity; start ComfyUI with --fp32-text-enc',
    ),
    "other tensors": (
        "auto",
        [(3, {"conditioning_llama3": torch.ones(1, 2, 6, 4)}), (3, {"conditioning_llama3": torch.ones(1, 2, 7, 4)})],
        r"'conditioning_llama3' of prompt 1 .* has shape \(1, 2, 7, 4\), that of prompt 0 .* \(1, 2, 6, 4\)",
    ),
    "only some": (
        "auto",
        [(3, {}), (3, {"conditioning_byt5small": torch.ones(1, 2, 4)})],
        r"prompt 0 \(\"a\"\) has no 'conditioning_byt5small' but others",
    ),
    "other values": ("auto", [(3, {"strength": 1.0}), (3, {"strength": 0.5})], "'strength' of prompt 1 .* differs"),
    "lists": (
        "auto",
        [(3, {"latents": [torch.ones(1, 4)]}), (3, {"latents": [torch.zeros(1, 4)]})],
        "'latents' of prompt 1 .* differs",
    ),
}


@pytest.mark.parametrize(("pooling", "encodings", "message"), ERRORS.values(), ids=ERRORS)
def test_what_cannot_be_joined_is_refused_by_name(node, pooling, encodings, message):
    made = [(tokens_of(length, i), values) for i, (length, values) in enumerate(encodings)]
    with pytest.raises(ValueError, match=message):
        run(node, fake_clip(dict(zip("ab", made, strict=True))), ["a", "b"], pooling)


def test_nan_in_the_tokens_is_refused_even_where_pooled_is_finite(node):
    cond = tokens_of(3, 2)
    cond[0, 1, 2] = math.nan
    with pytest.raises(ValueError, match='the embedding of "b" holds NaN'):
        run(node, fake_clip({"a": (tokens_of(3, 1), pooled_of(1)), "b": (cond, pooled_of(2))}), ["a", "b"])


def test_zero_embedding_is_refused_by_the_prompts_name(node):
    clip = fake_clip({"a": (tokens_of(3, 1), {}), "b": (torch.zeros(1, 3, 8), {})})
    with pytest.raises(ValueError, match=r'prompt 1 \("b"\) is zero and has no direction'):
        run(node, clip, ["a", "b"])


def test_encoder_without_a_mask_pads_with_zeros_and_says_for_whom(node):
    a, b = tokens_of(256, 1), tokens_of(300, 2)
    clip = fake_clip({"a": (a, {}), "b": (b, {})}, name="t5xxl")
    (cond, values), embeddings, text = run(node, clip, ["a", "b"])
    assert torch.equal(cond, torch.cat([torch.nn.functional.pad(a, (0, 0, 0, 44)), b]))
    assert values["hierdiff_lengths"] == ((256, 300), (False, False), 300, False)
    assert torch.equal(embeddings.positive, torch.cat([a.mean(dim=1), b.mean(dim=1)]))
    assert "⚠ only for Share Steps and the Hierarchical samplers" in text
    assert "T5TokenizerOptions with min_length 300 between" in text
    _, _, text = run(node, fake_clip({"a": (a, {}), "b": (b, {})}), ["a", "b"])
    assert text.endswith("others draw the padded prompts like different prompts")


def test_lengths_that_nobody_can_join_are_refused(joining):
    with pytest.raises(ValueError, match=r"3 \(1 prompt\), 5 \(1 prompt\).*use prompts of equal length"):
        joining.merge([(tokens_of(3, 1), {}), (tokens_of(5, 2), {})], ["a", "b"])


def test_repetition_has_a_limit(joining):
    entries = [(tokens_of(77 * chunks, chunks), {}) for chunks in (7, 9, 10)]
    with pytest.raises(ValueError, match=r"539 \(1 prompt\), 693 \(1 prompt\), 770 \(1 prompt\)"):
        joining.merge(entries, ["a", "b", "c"], joining.REPEAT)


def test_sd3_is_not_repeated(pack):
    """77 tokens of CLIP and 77 of T5 follow each other: whole chunks by size, but joint attention."""
    how = pack.nodes.clip.how_to_lengthen
    chunk = [(1, 1.0)] * 77
    tokens = [{"l": [chunk], "g": [chunk], "t5xxl": [chunk]}, {"l": [chunk] * 2, "g": [chunk] * 2, "t5xxl": [chunk]}]
    assert how(fake_clip({}), tokens, [154, 231]) == pack.nodes.host.encode_set.NO_MASK


def test_equal_values_and_objects_pass(joining):
    hooks = object()
    values = {"strength": 1.0, "hooks": hooks, "latents": [torch.ones(1, 4)], "scalar": torch.tensor(2.0)}
    _, merged = joining.merge(
        [(tokens_of(3, i), {**values, "latents": [torch.ones(1, 4)]}) for i in (1, 2)], ["a", "b"]
    )
    assert merged["hooks"] is hooks
    assert merged["strength"] == 1.0
    assert merged["scalar"].ndim == 0
    assert merged["latents"][0].shape == (1, 4)


def test_what_the_encoder_gave_is_not_changed(joining):
    values = {"attention_mask": torch.tensor([[1, 1, 0]]), "pooled_output": torch.ones(1, 4)}
    entry = (tokens_of(3, 1), dict(values))
    cond, _ = joining.merge([entry, (tokens_of(4, 2), dict(values, attention_mask=torch.ones(1, 4)))], ["a", "b"])
    cond.zero_()
    assert entry[1].keys() == values.keys()
    assert entry[0].any()


# --- In a server -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_file(comfyui, pack):
    """A full-size CLIP-L with random weights among the server's models (250 MB)."""
    from comfy.clip_model import CLIPTextModel
    from comfy.ops import manual_cast
    from safetensors.torch import save_file

    config = json.loads((comfyui.comfyui_dir / "comfy" / "sd1_clip_config.json").read_text())
    model = CLIPTextModel(config, torch.float16, "cpu", manual_cast)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.data.normal_(1.0 if "norm" in name and "weight" in name else 0.0, 0.03, generator=generator)
    path = comfyui.base_dir / "models" / "text_encoders" / "random_clip_l.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: p.data.contiguous() for name, p in model.named_parameters()}, path)
    yield path.name
    path.unlink()


@pytest.mark.host
def test_server_encodes_a_set_and_plans_it(comfyui, clip_file):
    graph = {
        "set": {"class_type": "HierDiffPromptSet", "inputs": {"text": f"{PROMPTS}\n{LONG}"}},
        "load": {"class_type": "CLIPLoader", "inputs": {"clip_name": clip_file, "type": "stable_diffusion"}},
        "embed": {
            "class_type": "HierDiffClipEmbedding",
            "inputs": {"clip": ["load", 0], "prompts": ["set", 0], "pooling": "auto"},
        },
        "link": {"class_type": "HierDiffWardLinkage", "inputs": {"embeddings": ["embed", 1], "metric": "cosine"}},
        "plan": {
            "class_type": "HierDiffThresholdSchedule",
            "inputs": {"linkage": ["link", 0], "steps": 6, "mode": "saving", "value": 0.4, "private_steps": 1},
        },
        "plot": {"class_type": "PreviewImage", "inputs": {"images": ["plan", 1]}},
        "show": {"class_type": "PreviewAny", "inputs": {"source": ["embed", 0]}},
    }
    entry = comfyui.run(graph)
    text = entry["outputs"]["embed"]["text"][0]
    assert text.startswith("7 prompts (7 distinct)\nembeddings: pooled, 768 numbers each")
    assert "tokens: 77 (6 prompts), 154 (1 prompt)\nconditioning: 7 × 154 × 768" in text
    assert "saves 4" in entry["outputs"]["plan"]["text"][0]


def test_negatives_are_each_prompts_own_or_those_of_all(node, sd1):
    """Without any, one row for all: what the host encodes of an empty text."""
    prompts = PromptRows([PromptRow("a cat", "rain, dark"), PromptRow("a dog"), PromptRow("a bird", "rain, dark")])
    (((cond, values),),) = node.execute(sd1, prompts, "auto", "blurry").args[2:]
    for row, text in enumerate(("rain, dark", "blurry", "rain, dark")):
        expected, own = encoded_by_the_host(sd1, text)
        assert torch.equal(cond[row : row + 1], expected)
        assert torch.equal(values["pooled_output"][row : row + 1], own["pooled_output"])
    for given, text in (((), ""), (("blurry",), "blurry")):
        (((cond, _),),) = node.execute(sd1, ("a cat", "a dog"), "auto", *given).args[2:]
        assert torch.equal(cond, encoded_by_the_host(sd1, text)[0])
    positive = node.execute(sd1, prompts, "auto").args[0]
    assert positive[0][1]["hierdiff_prompts"].rows == prompts.rows  # seeds can be compared with the plan's
