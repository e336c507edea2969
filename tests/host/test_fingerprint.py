"""The fingerprint of a model: equal for the same one however it was treated, another for whatever changes pictures."""

import subprocess
import sys
import time

import pytest
import torch

pytestmark = pytest.mark.host
KEY = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.weight"
IN_A_PROCESS = """
import sys
sys.path[:0] = {paths!r}
import comfyui_host
from pathlib import Path
pack = comfyui_host.import_pack(Path({folder!r}))
import importlib
made = importlib.import_module("native_models").unet_model()
print("found", importlib.import_module(pack.__name__ + ".nodes.host.fingerprint").model_fingerprint(made))
"""


@pytest.fixture(scope="module")
def fingerprint(pack):
    import importlib

    return importlib.import_module(f"{pack.__name__}.nodes.host.fingerprint")


@pytest.fixture
def made(host):
    return host.native_models.unet_model()


def lora(seed=3, rank=2):
    """Weights of a LoRA as the host's loader leaves them in a patcher."""
    import comfy.weight_adapter

    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(64, rank, generator=generator), torch.randn(rank, 64, generator=generator)
    return {KEY: comfy.weight_adapter.LoRAAdapter({"x"}, (up, down, 1.0, None, None, None))}


def with_lora(model, strength=0.8, **options):
    patched = model.clone()
    assert patched.add_patches(lora(**options), strength) == [KEY]
    return patched


def test_same_model_made_again_or_cloned(fingerprint, made, host):
    found = fingerprint.model_fingerprint(made)
    assert len(found) == 16
    assert int(found, 16)
    assert fingerprint.model_fingerprint(made.clone()) == found
    assert fingerprint.model_fingerprint(host.native_models.unet_model()) == found


def test_loading_and_offloading_change_nothing(fingerprint, made, host):
    patched = with_lora(made)
    found = fingerprint.model_fingerprint(patched)
    before = made.model.state_dict()[KEY].clone()
    patched.patch_model()
    assert not torch.equal(made.model.state_dict()[KEY], before)  # the weights are others by now
    assert fingerprint.model_fingerprint(patched) == found
    patched.unpatch_model()
    assert fingerprint.model_fingerprint(patched) == found


def test_another_process_finds_the_same(fingerprint, made, repo_root, tmp_path):
    paths = [str(repo_root), str(repo_root / "scripts"), str(repo_root / "tests")]
    script = IN_A_PROCESS.format(paths=paths, folder=str(tmp_path))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    assert f"found {fingerprint.model_fingerprint(made)}" in run.stdout


def changed_weight(model):
    with torch.no_grad():
        model.model.diffusion_model.out[2].bias.add_(1e-3)
    return model


def rounded(model):
    model.model.diffusion_model.half()
    return model


def shifted(model, shift):
    import comfy.model_sampling

    class Sampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    patched = model.clone()
    sampling = Sampling(model.model.model_config)
    sampling.set_parameters(shift=shift)
    patched.add_object_patch("model_sampling", sampling)
    return patched


def with_post_cfg(model, scale):
    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * scale)
    return patched


def with_attention(model, scale):
    patched = model.clone()
    patched.set_model_attn1_patch(lambda q, k, v, extra: (q * scale, k, v))
    return patched


def with_rope(model, scale):
    patched = model.clone()
    patched.model_options["transformer_options"]["rope_options"] = {"scale_x": scale}
    return patched


def with_replaced_attention(model, scale):
    patched = model.clone()
    patched.set_model_attn1_replace(lambda q, k, v, extra: q * scale, "middle", 0)
    return patched


def with_wrapper(model, scale):
    import comfy.patcher_extension

    patched = model.clone()
    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    patched.add_wrapper_with_key(kind, "theirs", lambda executor, *args, **kwargs: executor(*args, **kwargs) * scale)
    return patched


OTHERS = {
    "a weight": changed_weight,
    "precision": rounded,
    "LoRA": with_lora,
    "its strength": lambda model: with_lora(model, 0.9),
    "another LoRA": lambda model: with_lora(model, seed=4),
    "LoRA twice": lambda model: with_lora(with_lora(model)),
    "shift 3": lambda model: shifted(model, 3.0),
    "shift 5": lambda model: shifted(model, 5.0),
    "after guidance": lambda model: with_post_cfg(model, 0.5),
    "its number": lambda model: with_post_cfg(model, 0.6),
    "attention": lambda model: with_attention(model, 0.5),
    "attention in one block": lambda model: with_replaced_attention(model, 0.5),
    "rotary embeddings": lambda model: with_rope(model, 2.0),
    "their scale": lambda model: with_rope(model, 3.0),
    "a wrapper": lambda model: with_wrapper(model, 0.5),
    "its scale": lambda model: with_wrapper(model, 0.6),
}


def test_whatever_changes_pictures_is_another_model(fingerprint, host, made):
    """Each differs from the plain model and from all the others."""
    found = {fingerprint.model_fingerprint(made): "plain"}
    for name, change in OTHERS.items():
        own = fingerprint.model_fingerprint(change(host.native_models.unet_model()))
        assert own not in found, f"{name} is taken for {found[own]}"
        found[own] = name


def test_what_only_saves_time_is_the_same_model(fingerprint, host, made, plans):
    from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

    found = fingerprint.model_fingerprint(made)
    for cache in (EasyCacheNode, LazyCacheNode):
        (cached,) = cache.execute(made, 0.2, 0.15, 0.95, False).args
        assert fingerprint.model_fingerprint(cached) == found
    assert fingerprint.model_fingerprint(host.sharing.share_steps(made, host.sharing.Sharing(plans.shared))) == found


def test_weights_that_cannot_be_read_are_known_by_name_and_shape(fingerprint, made):
    class Strange(torch.nn.Parameter):
        """As weights that a pack has quantized: values only it can read."""

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if getattr(function, "__name__", "") in ("reshape", "flatten"):
                raise NotImplementedError
            with torch._C.DisableTorchFunctionSubclass():
                return function(*args, **(kwargs or {}))

    before = fingerprint.model_fingerprint(made)
    made.model.diffusion_model.out[2].bias = Strange(torch.zeros(4), requires_grad=False)
    unknown = fingerprint.model_fingerprint(made)
    assert unknown != before
    made.model.diffusion_model.out[2].weight = torch.nn.Parameter(torch.empty(4, 32, 3, 3, device="meta"))
    assert fingerprint.model_fingerprint(made) not in (unknown, before)


def test_every_kind_of_number_can_be_read(fingerprint):
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16, torch.float64, torch.int8):
        tensor = torch.arange(100).to(torch.float32).to(dtype)
        assert torch.equal(fingerprint.values_of(tensor)[:4], torch.arange(4.0)), dtype
    rows = torch.arange(600.0).reshape(1, 3, 10, 20).to(memory_format=torch.channels_last)
    assert torch.equal(fingerprint.values_of(rows), fingerprint.values_of(rows.contiguous()))
    assert fingerprint.values_of(torch.empty(0)) is None
    assert fingerprint.values_of(torch.tensor(3.0)).tolist() == [3.0]


def test_large_model_takes_less_than_a_second(fingerprint, made):
    """As many tensors as SDXL's UNet has, and a gigabyte of them."""
    made.model.diffusion_model = torch.nn.ParameterList(
        torch.nn.Parameter(torch.zeros(1, 150_000)) for _ in range(1700)
    )
    begun = time.process_time()
    fingerprint.model_fingerprint(made)
    assert time.process_time() - begun < 1
