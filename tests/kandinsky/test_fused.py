"""The UNet and MoVQ with fused normalisations: the same networks, and where they are used."""

import contextlib
import copy
import pickle

import pytest
import torch
from emulated_kernels import emulated

from hierdiff_core import PromptEmbeddings, load_decoder, sample
from hierdiff_core.kandinsky import acceleration, fused_kernels
from hierdiff_core.kandinsky.acceleration import FusedCalls, Kept, PlainCalls, call, movq_pixels, unet_calls
from hierdiff_core.kandinsky.fused_checks import has_kernels
from hierdiff_core.kandinsky.fused_kernels import FusedKernels, TorchKernels, chunk_of, enlarged, last
from hierdiff_core.kandinsky.fused_movq import FusedMovq, why_not_fused_movq
from hierdiff_core.kandinsky.fused_unet import FusedUNet, why_not_fused
from hierdiff_core.plan.algebra import alone


@pytest.fixture(scope="module")
def decoder():
    return load_decoder()


@pytest.fixture
def changed(decoder):
    """A copy to be changed."""
    return copy.deepcopy(decoder.unet)


@pytest.fixture
def no_card(monkeypatch):
    """What asks for a CUDA device gets along without one."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())


def inputs(rows, height=16, width=16):
    generator = torch.Generator().manual_seed(rows)
    latents, embeds = (torch.randn(rows, *shape, generator=generator) for shape in ((4, height, width), (128,)))
    return latents, torch.tensor(500), embeds


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 8, 12)])
def test_fused_unet_predicts_what_the_unet_does(decoder, shape):
    x = inputs(*shape)
    wanted, made = call(decoder.unet, *x), call(FusedUNet(decoder.unet, TorchKernels()), *x)
    assert wanted.abs().max() > 1
    assert (made - wanted).abs().max() < 1e-4


@torch.no_grad()
def test_fused_movq_draws_what_movq_does(decoder):
    z = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    wanted = movq_pixels(decoder.movq, z)
    assert torch.equal(wanted, decoder.movq.decode(z, force_not_quantize=True, return_dict=False)[0])  # on a CPU
    assert (FusedMovq(decoder.movq, TorchKernels())(z) - wanted).abs().max() < 1e-4


class OddLinear(torch.nn.Linear):
    """As a LoRA puts in a layer's place."""


def with_odd_layer(unet):
    unet.mid_block.attentions[0].to_q = OddLinear(160, 160)


def with_hook(unet):
    unet.conv_in.register_forward_hook(lambda *args: None)


def with_own_forward(unet):
    unet.conv_in.forward = lambda x: x  # as accelerate does, to bring weights to the device


def with_other_attention(unet):
    unet.mid_block.attentions[0].processor = object()


def with_parts_elsewhere(unet):
    unet.conv_in.to("meta")


def with_another_shape(unet):
    unet.register_to_config(resnet_skip_time_act=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_odd_layer, "it has a OddLinear"),
        (with_hook, "a hook is on one of its layers"),
        (with_own_forward, "a hook is on one of its layers"),
        (with_other_attention, "its attention is object"),
        (with_parts_elsewhere, "its weights are not all on one device in one precision"),
        (with_another_shape, "its resnet_skip_time_act is True"),
    ],
)
def test_a_unet_that_is_not_what_it_was_is_not_fused(changed, change, reason):
    assert why_not_fused(changed) is None
    change(changed)
    assert why_not_fused(changed) == reason


def test_movq_is_looked_at_too(decoder):
    assert why_not_fused_movq(decoder.movq) is None
    other = copy.deepcopy(decoder.movq)
    other.decoder.mid_block.attentions[0].to_q = OddLinear(64, 64)
    assert why_not_fused_movq(other) == "it has a OddLinear"


@pytest.mark.parametrize(
    ("card", "dtype", "capability", "hip", "fused"),
    [
        ("cuda", torch.float16, (9, 0), None, True),
        ("cuda", torch.float16, (7, 5), None, True),
        ("cuda", torch.float16, (6, 1), None, False),
        ("cuda", torch.bfloat16, (8, 0), None, True),
        ("cuda", torch.bfloat16, (7, 5), None, False),
        ("cuda", torch.float32, (9, 0), None, False),
        ("cuda", torch.float16, (9, 0), "6.2", False),
        ("cpu", torch.float16, (9, 0), None, False),
    ],
)
def test_auto_is_fused_in_half_precision_on_cards_that_have_it(monkeypatch, card, dtype, capability, hip, fused):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert has_kernels(torch.device(card), dtype) is fused


def test_nothing_is_done_to_a_unet_on_a_cpu(changed):
    assert type(unet_calls(changed, "auto")) is PlainCalls
    assert changed.conv_in.weight.is_contiguous()


def test_the_network_is_not_asked_in_each_step_what_it_is(decoder, monkeypatch):
    """It goes through all of its weights to say so, while the device waits for its next call."""
    asked, rows = [], torch.eye(3, 128)
    embeddings = PromptEmbeddings(rows, torch.zeros_like(rows), ["a cat", "a dog", "a fox"])
    for name in ("dtype", "device"):
        plain = getattr(type(decoder.unet), name)
        monkeypatch.setattr(
            type(decoder.unet), name, property(lambda unet, plain=plain: asked.append(1) or plain.fget(unet))
        )
    counts = []
    for steps in (1, 3):
        asked.clear()
        sample(decoder, embeddings, alone(3, steps), width=64, height=64)
        counts.append(len(asked))
    assert counts[0] == counts[1] > 0


@torch.no_grad()
def test_what_fails_is_said_once_and_done_plainly(changed, no_card, caplog):
    calls, x = FusedCalls(changed), inputs(1)

    def broken(*args, **kwargs):
        raise OSError("there is no libnvrtc.so.13")

    calls.network = broken
    for _ in range(2):
        assert torch.equal(calls.direct(*x), call(changed, *x))
    (said,) = [record.message for record in caplog.records]
    assert said == "HierDiff: the fused UNet is off, since it failed (OSError: there is no libnvrtc.so.13)"
    assert not calls.may_record()


@torch.no_grad()
def test_graphs_are_recorded_of_sizes_that_are_called_for_often(changed, no_card, monkeypatch):
    calls, recorded, sizes = FusedCalls(changed), [], []
    monkeypatch.setattr(calls, "record", lambda key, *inputs: recorded.append(key[0]))

    def network(latents, t, *, added_cond_kwargs, **_):
        sizes.append(len(latents))
        return (latents,)

    calls.network = network
    for rows in (1, 2, 3, 4, 4, 5, 5, 17, 17, 17):
        latents, t, embeds = inputs(rows)
        assert torch.equal(calls(latents, t, embeds), latents)  # without the rows that it was padded with
    assert sizes == [2, 2, 4, 4, 4, 6, 6, 17, 17, 17]
    assert recorded == [4]
    calls.close()
    calls(*inputs(4))
    assert recorded == [4]  # the next run begins to count


@torch.no_grad()
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_memory_that_runs_out_is_no_failure(changed, no_card, error):
    calls = FusedCalls(changed)

    def full(*args, **kwargs):
        raise error("out of memory")

    calls.network = full
    with pytest.raises(error):  # the batch is halved, and it is tried again
        calls.direct(*inputs(1))
    assert calls.works


def test_a_copy_of_a_network_begins_with_nothing(changed):
    changed.__dict__[acceleration._KEPT] = Kept(auto=object())
    assert copy.deepcopy(changed).__dict__[acceleration._KEPT] == {}
    assert pickle.loads(pickle.dumps(Kept(auto=1))) == {}


@pytest.mark.parametrize("positions", [1, 15, 64, 96, 1000, 4096, 9216, 2**18])
def test_chunks_are_few_and_hold_all_positions(positions):
    chunk = chunk_of(positions)
    assert (positions + chunk - 1) // chunk <= 256
    assert chunk >= min(positions, fused_kernels.LEAST_CHUNK)


def test_enlarged_repeats_each_number():
    x = torch.arange(24.0).view(1, 2, 3, 4)
    assert torch.equal(enlarged(x, 2), torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))


@torch.no_grad()
def test_the_cuda_source_does_what_torch_does(tmp_path, monkeypatch):
    """On a card, test_gpu.py compares both; here the source runs block after block."""
    kernels = emulated(tmp_path, width=4, bfloat16=0)
    monkeypatch.setattr(fused_kernels, "loaded", lambda index, dtype, width: kernels)
    monkeypatch.setattr(fused_kernels, "THREADS", 24)
    monkeypatch.setattr(fused_kernels, "BLOCKS_TO_ADD", 2)
    torch.manual_seed(0)
    x, other, factors, summands = (
        last(torch.randn(2, channels, *size).half() + 9)
        for channels, size in ((16, (6, 8)), (32, (6, 8)), (48, (3, 4)), (48, (3, 4)))
    )
    bias, modulation, norm = torch.randn(48).half(), torch.randn(2, 96).half(), torch.nn.GroupNorm(4, 48).half()
    norm.weight.normal_(), norm.bias.normal_()
    exact, fused, plain = copy.deepcopy(norm).float(), FusedKernels(4), TorchKernels()
    whole = last(torch.cat([x, other], dim=1))
    for name, first, arguments in (
        ("group_norm", x, (other, bias, modulation)),
        ("group_norm", whole, (None, None, None, False)),
        ("group_norm", x, (other, bias, modulation, True, 1)),
        ("group_norm", x, (other, bias, modulation, True, -1)),
        ("spatial_norm", whole, (factors, summands, bias)),
    ):
        made = getattr(fused, name)(norm, first, *arguments)
        exactly = (a.float() if isinstance(a, torch.Tensor) else a for a in arguments)
        wanted = getattr(plain, name)(exact, first.float(), *exactly)
        assert made.is_contiguous(memory_format=torch.channels_last)
        assert ((made - wanted).abs() / (1 + wanted.abs())).max() < 1e-3
    small, large = (last(torch.randn(2, 48, *size).half()) for size in ((3, 4), (12, 16)))
    for more, resize in ((None, 0), (whole, 0), (small, 1), (large, -1)):
        wanted = plain.add_bias(whole.float(), bias.float(), None if more is None else more.float(), resize).half()
        assert torch.equal(fused.add_bias(whole.clone(), bias, more, resize), wanted)
