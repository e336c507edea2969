"""The host's nodes that change a MODEL, as rows of the table of docs/compatibility.md."""

from __future__ import annotations

import functools
import importlib

import torch
from compat_runs import Case, Feature


def generated(*shape: int, seed: int = 3) -> torch.Tensor:
    """The same random numbers at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def text(value: float) -> list:
    """A CONDITIONING of one row."""
    return [[torch.full((1, 5, 16), value), {}]]


def node(name: str, **inputs):
    """A change: one of the host's nodes between model and sampler."""
    return lambda case: case.patch(name, **inputs)


def lora_weights(kit) -> dict:
    """A LoRA of one layer of the tiny UNet."""
    name = "lora_unet_output_blocks_0_0_in_layers_2"
    weight = kit.unet.model.diffusion_model.output_blocks[0][0].in_layers[2].weight
    up, down = generated(len(weight), 2) * 0.3, generated(2, weight[0].numel(), seed=4) * 0.3
    return {f"{name}.lora_up.weight": up[:, :, None, None], f"{name}.lora_down.weight": down.view(2, *weight[0].shape)}


def lora(case: Case) -> None:
    """What LoraLoader does with a file."""
    loader = importlib.import_module("comfy.sd").load_lora_for_models
    case.model, _ = loader(case.model, None, lora_weights(case.kit), 1.0, 0.0)


def hypernetwork(case: Case) -> None:
    """What HypernetworkLoader does with a file."""

    def patch(q, k, v, extra_options):
        return q, k + 0.1 * torch.tanh(k), v * 1.1

    case.model = case.model.clone()
    case.model.set_model_attn1_patch(patch)
    case.model.set_model_attn2_patch(patch)


def sharpen(case: Case) -> None:
    operation = case.node("LatentOperationSharpen", sharpen_radius=2, sigma=1.0, alpha=0.3)
    case.patch("LatentApplyOperationCFG", operation=operation)


def tonemap(case: Case) -> None:
    case.patch("LatentApplyOperationCFG", operation=case.node("LatentOperationTonemapReinhard", multiplier=1.0))


def inpaint(case: Case) -> None:
    """A latent and a mask for all."""
    case.latents = generated(1, 4, 8, 8)
    case.mask = torch.linspace(0, 1, 8).expand(1, 1, 8, 8).clone()


def differential(case: Case) -> None:
    case.patch("DifferentialDiffusion")
    inpaint(case)


@functools.cache
def other_unet(kit):
    """A tiny UNet of other weights."""
    other = kit.native_models.unet_model()
    kit.native_models.fill(other.model.diffusion_model, seed=5)
    return other


def merged(case: Case) -> None:
    case.model = case.node("ModelMergeSimple", model1=case.model, model2=other_unet(case.kit), ratio=0.5)


def large(change):
    """A change, on latents large enough for it."""

    def on_large_latents(case: Case) -> None:
        case.latents = torch.zeros(1, 4, 16, 16)
        change(case)

    return on_large_latents


SKIP = {"scale": 3.0, "start_percent": 0.0, "end_percent": 0.9}
CACHE = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 0.95, "verbose": False}
CONTEXT = {"context_length": 2, "context_overlap": 1, "context_schedule": "standard_static", "context_stride": 1}
CONTEXT |= {"closed_loop": False, "fuse_method": "pyramid"}
MULTIPLY = {"q": 1.1, "k": 0.9, "v": 1.2, "out": 0.8}
SHRINK = {"block_number": 1, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.5}
SHRINK |= {"downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic"}
ROPE = {"scale_x": 1.1, "shift_x": 0.0, "scale_y": 1.1, "shift_y": 0.0, "scale_t": 1.0, "shift_t": 0.0}
EDM = {"sigma_max": 12.0, "sigma_min": 0.03}
FLUX = {"max_shift": 1.15, "base_shift": 0.5, "width": 512, "height": 512}

PATCHES = [
    Feature("LoraLoader, LoraLoaderModelOnly", lora),
    Feature("HypernetworkLoader", hypernetwork),
    Feature("ModelMergeSimple", merged),
    Feature("FreeU", node("FreeU", b1=1.1, b2=1.2, s1=0.9, s2=0.2), inert=True),
    Feature("FreeU_V2", node("FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2), inert=True),
    Feature("PerturbedAttentionGuidance", node("PerturbedAttentionGuidance", scale=3.0)),
    Feature("SelfAttentionGuidance", node("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0), refused="SelfAttention"),
    Feature("SkipLayerGuidanceSD3", node("SkipLayerGuidanceSD3", layers="0", **SKIP)),
    Feature("SkipLayerGuidanceDiT", node("SkipLayerGuidanceDiT", double_layers="0", single_layers="0", **SKIP)),
    Feature(
        "SkipLayerGuidanceDiTSimple",
        node("SkipLayerGuidanceDiTSimple", double_layers="0", start_percent=0.0, end_percent=0.9),
        inert=True,
    ),
    Feature("RescaleCFG", node("RescaleCFG", multiplier=0.7)),
    Feature("RenormCFG", node("RenormCFG", cfg_trunc=100.0, renorm_cfg=1.0), batch=True, refused="renorm_cfg"),
    Feature("CFGZeroStar", node("CFGZeroStar")),
    Feature("CFGNorm", node("CFGNorm", strength=1.0)),
    Feature("Mahiro", node("Mahiro"), batch=True, refused="mahiro"),
    Feature("TCFG", node("TCFG")),
    Feature("APG", node("APG", eta=1.0, norm_threshold=5.0, momentum=0.5)),
    Feature("FreSca", node("FreSca", scale_low=1.0, scale_high=1.25, freq_cutoff=2)),
    Feature("Epsilon Scaling", node("Epsilon Scaling", scaling_factor=1.05)),
    Feature(
        "TemporalScoreRescaling",
        node("TemporalScoreRescaling", tsr_k=0.9, tsr_sigma=1.0),
        batch=True,
        refused="temporal_score_rescaling",
    ),
    Feature("LatentApplyOperationCFG, sharpened", sharpen),
    Feature("LatentApplyOperationCFG, tone-mapped", tonemap),
    Feature(
        "PerpNeg",
        node("PerpNeg", empty_conditioning=text(0.2), neg_scale=1.0),
        batch=True,
        split=False,
        refused="PerpNeg",
    ),
    Feature("TomePatchModel", large(node("TomePatchModel", ratio=0.3))),
    Feature("HyperTile", large(node("HyperTile", tile_size=32, swap_size=4, max_depth=1, scale_depth=False))),
    Feature("PatchModelAddDownscale", node("PatchModelAddDownscale", **SHRINK)),
    Feature("DifferentialDiffusion", differential),
    Feature("UNetSelfAttentionMultiply", node("UNetSelfAttentionMultiply", **MULTIPLY)),
    Feature("UNetCrossAttentionMultiply", node("UNetCrossAttentionMultiply", **MULTIPLY)),
    Feature("ScaleROPE", node("ScaleROPE", **ROPE), inert=True),
    Feature("ModelSamplingDiscrete", node("ModelSamplingDiscrete", sampling="v_prediction", zsnr=True)),
    Feature("ModelSamplingContinuousEDM", node("ModelSamplingContinuousEDM", sampling="v_prediction", **EDM)),
    Feature("ModelSamplingContinuousV", node("ModelSamplingContinuousV", sampling="v_prediction", **EDM)),
    Feature("ModelSamplingSD3", node("ModelSamplingSD3", shift=3.0)),
    Feature("ModelSamplingAuraFlow", node("ModelSamplingAuraFlow", shift=1.73)),
    Feature("ModelSamplingFlux", node("ModelSamplingFlux", **FLUX)),
    Feature("ModelSamplingLTXV", node("ModelSamplingLTXV", max_shift=2.05, base_shift=0.95)),
    Feature("ModelComputeDtype", node("ModelComputeDtype", dtype="fp32"), inert=True),
    Feature(
        "ContextWindowsManual over the batch",
        node("ContextWindowsManual", dim=0, **CONTEXT),
        inert=True,
        batch=True,
        refused="context windows",
    ),
    Feature(
        "ContextWindowsManual over the height",
        node("ContextWindowsManual", dim=2, **{**CONTEXT, "context_length": 6, "context_overlap": 2}),
        batch=True,
        refused="ontext",
    ),
    Feature("EasyCache", node("EasyCache", **CACHE), split=False, refused="EasyCache"),
    Feature("LazyCache", node("LazyCache", **CACHE), split=False, refused="LazyCache"),
    Feature(
        "VideoLinearCFGGuidance",
        node("VideoLinearCFGGuidance", min_cfg=1.0),
        batch=True,
        refused="linear_cfg|LinearCFG",
    ),
    Feature(
        "VideoTriangleCFGGuidance",
        node("VideoTriangleCFGGuidance", min_cfg=1.0),
        batch=True,
        refused="linear_cfg|TriangleCFG",
    ),
]
