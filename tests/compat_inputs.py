"""Guiders, conditioning, latents and sampler nodes of the host, as rows of the table of docs/compatibility.md."""

from __future__ import annotations

import functools
import importlib
from types import SimpleNamespace

import torch
from compat_host import generated, inpaint, lora_weights, text
from compat_runs import CFG, SEED, STEPS, Case, Feature, cfg_guider

CPU = torch.device("cpu")


# --- Guiders and sampler nodes ---------------------------------------------------------------------------------------


def from_node(name: str, **inputs):
    """A change: a GUIDER of one of the host's nodes."""

    def change(case: Case) -> None:
        sides = {"positive": case.positive, "negative": case.negative}
        given = {key: sides.get(value, value) if isinstance(value, str) else value for key, value in inputs.items()}
        case.guider = lambda case: case.node(name, model=case.model, **given)

    return change


class NodeRun:
    """A sampler node in the place of a guider: it makes its own noise."""

    def __init__(self, sample):
        self.sample_rows = sample

    def sample(self, noise, *_):
        return self.sample_rows(noise)


def ksampler(case: Case) -> None:
    def sample(noise):
        settings = {"seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal"}
        sides = {"positive": case.positive, "negative": case.negative, "latent_image": {"samples": case.latents}}
        return case.node("KSampler", model=case.model, **settings, **sides, denoise=1.0)["samples"]

    case.guider = lambda _: NodeRun(sample)


def two_stages(case: Case) -> None:
    """KSampler (Advanced) twice: the first leaves noise, the second goes on."""

    def sample(noise):
        settings = {"noise_seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal"}
        settings |= {"model": case.model, "positive": case.positive, "negative": case.negative}
        half = {"add_noise": "enable", "start_at_step": 0, "end_at_step": 2, "return_with_leftover_noise": "enable"}
        rest = {"add_noise": "disable", "start_at_step": 2, "end_at_step": 9, "return_with_leftover_noise": "disable"}
        latent = case.node("KSamplerAdvanced", latent_image={"samples": case.latents}, **settings, **half)
        return case.node("KSamplerAdvanced", latent_image=latent, **settings, **rest)["samples"]

    case.guider = lambda _: NodeRun(sample)


def custom(case: Case) -> None:
    def sample(noise):
        given = {"positive": case.positive, "negative": case.negative, "sampler": case.sampler, "sigmas": case.sigmas}
        latent = {"samples": case.latents}
        settings = {"add_noise": True, "noise_seed": SEED, "cfg": CFG, "latent_image": latent}
        return case.node("SamplerCustom", model=case.model, **settings, **given)["samples"]

    case.guider = lambda _: NodeRun(sample)


def advanced(case: Case, second=None):
    """SamplerCustomAdvanced; a second pass may follow."""

    def sample(noise):
        def one_pass(latent, sigmas, noise):
            given = {"noise": noise, "guider": cfg_guider(case), "sampler": case.sampler, "sigmas": sigmas}
            return case.node("SamplerCustomAdvanced", latent_image=latent, **given)

        random = case.node("RandomNoise", noise_seed=SEED)
        if second is None:
            return one_pass({"samples": case.latents}, case.sigmas, random)["samples"]
        return second(case, one_pass, random)["samples"]

    case.guider = lambda _: NodeRun(sample)


def split_sigmas(case: Case, one_pass, noise):
    high, low = case.kit.node("SplitSigmas", sigmas=case.sigmas, step=2)
    none = case.node("DisableNoise")
    return one_pass(one_pass({"samples": case.latents}, high, noise), low, none)


def upscaled(case: Case, one_pass, noise):
    """A second pass over the larger latents, with noise of its own."""
    first = one_pass({"samples": case.latents}, case.sigmas, noise)
    resized = {"samples": first, "upscale_method": "bilinear", "width": 96, "height": 96, "crop": "disabled"}
    return one_pass(case.node("LatentUpscale", **resized), case.schedule(0.5), noise)


def flip_sigmas(case: Case) -> None:
    case.sigmas = case.node("FlipSigmas", sigmas=case.schedule()[:-1])


def sampler_node(name: str, **inputs):
    """A change: a SAMPLER of one of the host's nodes."""

    def change(case: Case) -> None:
        case.sampler = case.node(name, **inputs)

    return change


def churning(case: Case) -> None:
    case.sampler = case.kit.samplers.ksampler("euler", {"s_churn": 2.0, "s_tmax": 100.0, "s_noise": 1.0})


def upscaling_lcm(case: Case) -> None:
    case.sampler = case.node("SamplerLCMUpscale", scale_ratio=1.5, scale_steps=2, upscale_method="bilinear")


DRAWN = {"split": False, "drawn": True}
NOISE = {"eta": 1.0, "s_noise": 1.0}
GUIDERS = [
    Feature("KSampler", ksampler, inert=True),
    Feature("KSampler (Advanced), two stages", two_stages),
    Feature("SamplerCustom", custom, inert=True),
    Feature("SamplerCustomAdvanced", advanced, inert=True),
    Feature("SplitSigmas, two samplers", functools.partial(advanced, second=split_sigmas)),
    Feature("A second pass over larger latents", functools.partial(advanced, second=upscaled), refused="latent batch"),
    Feature("FlipSigmas", flip_sigmas, refused="sigmas must fall"),
    Feature("CFGGuider", from_node("CFGGuider", positive="positive", negative="negative", cfg=2.0)),
    Feature("BasicGuider", from_node("BasicGuider", conditioning="positive")),
    Feature(
        "DualCFGGuider",
        from_node(
            "DualCFGGuider",
            cond1="positive",
            cond2=text(0.2),
            negative="negative",
            cfg_conds=CFG,
            cfg_cond2_negative=2.0,
            style="regular",
        ),
    ),
    Feature(
        "PerpNegGuider",
        from_node(
            "PerpNegGuider",
            positive="positive",
            negative=text(-0.3),
            empty_conditioning="negative",
            cfg=CFG,
            neg_scale=1.0,
        ),
        batch=True,
        refused="PerpNeg",
    ),
]
SAMPLERS = [
    Feature("SamplerEulerAncestral", sampler_node("SamplerEulerAncestral", **NOISE), **DRAWN),
    Feature("SamplerEulerAncestralCFG++", sampler_node("SamplerEulerAncestralCFGPP", **NOISE), **DRAWN),
    Feature("SamplerEulerCFG++", sampler_node("SamplerEulerCFGpp", version="regular")),
    Feature("SamplerDPMPP_2S_Ancestral", sampler_node("SamplerDPMPP_2S_Ancestral", **NOISE), **DRAWN),
    Feature("SamplerDPMPP_SDE", sampler_node("SamplerDPMPP_SDE", **NOISE, r=0.5, noise_device="cpu"), **DRAWN),
    Feature(
        "SamplerDPMPP_2M_SDE",
        sampler_node("SamplerDPMPP_2M_SDE", **NOISE, solver_type="midpoint", noise_device="cpu"),
        **DRAWN,
    ),
    Feature("SamplerDPMPP_3M_SDE", sampler_node("SamplerDPMPP_3M_SDE", **NOISE, noise_device="cpu"), **DRAWN),
    Feature("SamplerER_SDE", sampler_node("SamplerER_SDE", solver_type="ER-SDE", max_stage=3, **NOISE), **DRAWN),
    # it begins anew where clusters split, and alone it does not
    Feature("SamplerLMS", sampler_node("SamplerLMS", order=4), split=False),
    Feature("SamplerLCMUpscale", upscaling_lcm, split=False, batch=True, noisy=True, refused="lcm_upscale|draws noise"),
    Feature("s_churn > 0", churning, split=False, batch=True, noisy=True, refused="s_churn"),
]


# --- Conditioning ----------------------------------------------------------------------------------------------------


def positive(name: str, **inputs):
    """A change: one of the host's nodes on the positive conditioning."""

    def change(case: Case) -> None:
        case.positive = case.node(name, conditioning=case.positive, **inputs)

    return change


def combined(case: Case) -> None:
    case.positive = case.node("ConditioningCombine", conditioning_1=case.positive, conditioning_2=text(0.2))


def averaged(case: Case) -> None:
    given = {"conditioning_to": case.positive, "conditioning_from": text(0.2), "conditioning_to_strength": 0.7}
    case.positive = case.node("ConditioningAverage", **given)


def concatenated(case: Case) -> None:
    rows = [[torch.full((len(case.prompts), 5, 16), 0.2), {}]]
    case.positive = case.node("ConditioningConcat", conditioning_to=case.positive, conditioning_from=rows)


def zeroed(case: Case) -> None:
    case.negative = case.node("ConditioningZeroOut", conditioning=case.positive)


def area(case: Case) -> None:
    """One text in a half, another everywhere."""
    part = case.node("ConditioningSetArea", conditioning=case.positive, width=32, height=64, x=0, y=0, strength=1.0)
    case.positive = case.node("ConditioningCombine", conditioning_1=part, conditioning_2=text(0.2))


def masked(case: Case, mask: torch.Tensor) -> None:
    given = {"conditioning": case.positive, "mask": mask, "strength": 1.0, "set_cond_area": "default"}
    case.positive = case.node("ConditioningSetMask", **given)
    case.positive = case.node("ConditioningCombine", conditioning_1=case.positive, conditioning_2=text(0.2))


HALF = torch.linspace(0, 1, 8).expand(1, 8, 8).contiguous()
OWN_MASKS = generated(3, 8, 8).sigmoid()
HINTS = generated(6, 64, 64, 3).sigmoid()
PICTURES = generated(6, 4, 8, 8, seed=9)


def controlled(case: Case, hints: torch.Tensor, control=None) -> None:
    """A ControlNet on both sides."""
    nets = {"control_net": control or tiny_control_net(case.kit), "image": hints, "strength": 1.0}
    sides = {"positive": case.positive, "negative": case.negative, "start_percent": 0.0, "end_percent": 1.0}
    case.positive, case.negative = case.kit.node("ControlNetApplyAdvanced", **nets, **sides)


@functools.cache
def tiny_control_net(kit):
    return kit.native_models.control_net()


def two_control_nets(case: Case) -> None:
    controlled(case, HINTS[:1])
    controlled(case, HINTS[1:2])


def control_of_one_side(case: Case) -> None:
    nets = {"control_net": tiny_control_net(case.kit), "image": HINTS[:1], "strength": 1.0}
    case.positive = case.node("ControlNetApply", conditioning=case.positive, **nets)


def adapted(case: Case) -> None:
    """A T2I adapter, whose features are made once for a hint."""

    class Adapter(torch.nn.Module):
        unshuffle_amount = 8

        def forward(self, hint):
            small = torch.nn.functional.interpolate(hint, size=(8, 8))
            return {"input": [None, None, small.mean(dim=1, keepdim=True).repeat(1, 32, 1, 1)]}

    controlnet = importlib.import_module("comfy.controlnet")
    adapter = controlnet.T2IAdapter(Adapter(), 3, 8, "nearest-exact", CPU)
    controlled(case, HINTS[:1], adapter)


def boxed(case: Case) -> None:
    """A GLIGEN model of the host, for the tiny UNet."""
    clip = SimpleNamespace(tokenize=str, encode_from_tokens=lambda *_, **__: (None, generated(1, 8)))
    box = {"text": "a cat", "width": 32, "height": 32, "x": 8, "y": 8}
    given = {"conditioning_to": case.positive, "clip": clip, "gligen_textbox_model": tiny_gligen(case.kit)}
    case.positive = case.node("GLIGENTextBoxApply", **given, **box)


@functools.cache
def tiny_gligen(kit):
    gligen = importlib.import_module("comfy.gligen")
    widths = (32, 64, 64, 64, 64, 32, 32)  # of the blocks with attention
    fusers = [kit.native_models.fill(gligen.GatedSelfAttentionDense(width, 8, 2, width // 2)) for width in widths]
    for fuser in fusers:
        fuser.alpha_attn.data.fill_(0.5)
    network = gligen.Gligen(fusers, kit.native_models.fill(gligen.PositionNet(8, 8)), 8)
    return importlib.import_module("comfy.model_patcher").ModelPatcher(network, CPU, CPU)


def unclip(case: Case) -> None:
    """The picture is for models of unCLIP; others pass it on."""
    vision = SimpleNamespace(image_embeds=generated(1, 8))
    given = {"clip_vision_output": vision, "strength": 1.0, "noise_augmentation": 0.1}
    case.positive = case.node("unCLIPConditioning", conditioning=case.positive, **given)


def inpaint_model(case: Case, pixels: torch.Tensor) -> None:
    """A model that sees a masked picture beside its latents."""
    vae = SimpleNamespace(encode=lambda pixels: pixels.permute(0, 3, 1, 2)[:, [0, 1, 2, 0], ::8, ::8])
    given = {"pixels": pixels, "vae": vae, "mask": torch.ones(len(pixels), 64, 64), "noise_mask": True}
    sides = {"positive": case.positive, "negative": case.negative}
    case.positive, case.negative, latent = case.kit.node("InpaintModelConditioning", **sides, **given)
    case.latents, case.mask = latent["samples"], None


@functools.cache
def inpaint_unet(kit):
    model = kit.native_models.unet_model(in_channels=9)
    model.model.set_inpaint()
    return model


def hooked(case: Case, keyframes: bool = False, default: bool = False) -> None:
    """A LoRA hook of a text, in parts of the schedule too."""
    hooks = importlib.import_module("comfy.hooks").create_hook_lora(lora_weights(case.kit), 1.0, 0.0)
    if keyframes:
        frame = {"strength_mult": 0.2, "start_percent": 0.5}
        hooks = case.node("SetHookKeyframes", hooks=hooks, hook_kf=case.node("CreateHookKeyframe", **frame))
    given = {"strength": 1.0, "set_cond_area": "default", "hooks": hooks}
    if default:
        given["mask"] = HALF
    case.positive = case.node("ConditioningSetProperties", cond_NEW=case.positive, **given)
    if default:
        other = {"cond": case.positive, "cond_DEFAULT": text(0.2), "hooks": hooks}
        case.positive = case.node("ConditioningSetDefaultCombine", **other)


def reference(case: Case) -> None:
    case.positive = case.node("ReferenceLatent", conditioning=case.positive, latent={"samples": PICTURES[:1]})


def pooled(case: Case) -> None:
    """A model that takes a pooled output, as SDXL does."""
    extra = {"pooled_output": case.rows(generated(3, 24)), "width": 512}
    case.positive = [[cond, {**values, **extra}] for cond, values in case.positive]
    case.negative = [[cond, {**values, "pooled_output": torch.zeros(1, 24)}] for cond, values in case.negative]


def guided(case: Case) -> None:
    """A model that takes a guidance number and a mask of the tokens, as Flux and Qwen-Image do."""
    masks = torch.tensor([[1.0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    case.positive = [[cond, {**values, "attention_mask": case.rows(masks)}] for cond, values in case.positive]
    case.negative = [[cond, {**values, "attention_mask": torch.ones(1, 5)}] for cond, values in case.negative]
    case.positive = case.node("FluxGuidance", conditioning=case.positive, guidance=2.0)


@functools.cache
def kind_of_unet(kit, kind: str):
    return kit.native_models.unet_model(getattr(kit.native_models, kind))


def own_latents(case: Case) -> None:
    case.latents = case.rows(PICTURES)


def other_latents(case: Case) -> None:
    case.latents = case.own(PICTURES)


def repeated(case: Case) -> None:
    latent = {"samples": PICTURES[:1], "noise_mask": HALF}
    latent = case.node("RepeatLatentBatch", samples=latent, amount=len(case.prompts))
    case.latents, case.mask = latent["samples"], latent["noise_mask"][:, None]


def image_to_image(case: Case) -> None:
    case.latents, case.sigmas = PICTURES[:1], case.schedule(0.6)


def own_noise_masks(case: Case) -> None:
    case.latents, case.mask = case.rows(PICTURES), case.rows(OWN_MASKS)[:, None]


EACH = {"split": False, "each": True}
CONTROL = {"ranged": True}
PER_PROMPT = {"split": False}
CONDITIONING = [
    Feature("ConditioningCombine", combined),
    Feature("ConditioningAverage", averaged),
    Feature("ConditioningConcat", concatenated),
    Feature("ConditioningZeroOut as negative", zeroed, inert=True),
    Feature("ConditioningSetTimestepRange", lambda case: None, ranged=True, inert=True),
    Feature("ConditioningSetArea", area),
    Feature("ConditioningSetAreaStrength", positive("ConditioningSetAreaStrength", strength=0.6), inert=True),
    Feature("ConditioningSetMask, one mask", functools.partial(masked, mask=HALF)),
    Feature(
        "ConditioningSetMask, a mask for each prompt", lambda case: masked(case, case.rows(OWN_MASKS)), **PER_PROMPT
    ),
    Feature("ControlNetApply", control_of_one_side, **CONTROL),
    Feature("ControlNetApplyAdvanced", lambda case: controlled(case, HINTS[:1]), **CONTROL),
    Feature("Two ControlNets in a row", two_control_nets, **CONTROL),
    Feature("ControlNet, a hint for each prompt", lambda case: controlled(case, case.rows(HINTS)), **PER_PROMPT),
    Feature("ControlNet, hints that differ for equal prompts", lambda case: controlled(case, case.own(HINTS)), **EACH),
    Feature("T2I adapter", adapted, **CONTROL),
    Feature("GLIGENTextBoxApply", boxed),
    Feature("unCLIPConditioning", unclip, inert=True),
    Feature(
        "InpaintModelConditioning, one picture",
        lambda case: inpaint_model(case, HINTS[:1]),
        ranged=True,
        model=inpaint_unet,
    ),
    Feature(
        "InpaintModelConditioning, a picture for each prompt",
        lambda case: inpaint_model(case, case.rows(HINTS)),
        **PER_PROMPT,
        model=inpaint_unet,
    ),
    Feature("Hook: LoRA", hooked),
    Feature("Hook: LoRA with keyframes", functools.partial(hooked, keyframes=True)),
    Feature("Hook: LoRA with a mask and a default text", functools.partial(hooked, default=True)),
    Feature("ReferenceLatent", reference, inert=True),
    Feature("Pooled output (SDXL)", pooled, **PER_PROMPT, model=lambda kit: kind_of_unet(kit, "PooledModel")),
    Feature(
        "FluxGuidance, mask of the tokens", guided, **PER_PROMPT, model=lambda kit: kind_of_unet(kit, "GuidedModel")
    ),
]
LATENTS = [
    Feature("Image to image, one picture", image_to_image, **PER_PROMPT),
    Feature("A latent for each prompt", own_latents, **PER_PROMPT),
    Feature("Latents that differ for equal prompts", other_latents, **EACH),
    Feature("RepeatLatentBatch, with a noise mask", repeated),
    Feature("SetLatentNoiseMask, one mask", inpaint),
    Feature("SetLatentNoiseMask, a mask for each prompt", own_noise_masks, **PER_PROMPT),
]
