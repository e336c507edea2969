"""What nodes of other packs do to a MODEL or a SAMPLER, in a few lines of our own: rows of docs/compatibility.md."""

from __future__ import annotations

import importlib

import torch
from compat_host import generated
from compat_runs import Case, Feature

# --- Above the rows: what guides -------------------------------------------------------------------------------------


def post_cfg(function_of):
    """A change: a post-CFG function with a state of its own in each run of the node."""

    def change(case: Case) -> None:
        case.model = case.model.clone()
        case.model.set_model_sampler_post_cfg_function(function_of(), disable_cfg1_optimization=True)

    return change


def counting():
    """It counts its calls in transformer_options."""

    def count(args):
        options = args["model_options"]["transformer_options"]
        options["other_pack_calls"] = options.get("other_pack_calls", 0) + 1
        return args["denoised"] * (1 + 0.05 * options["other_pack_calls"])

    return count


def momentum():
    """It keeps an average of what guidance added."""
    running = None

    def guide(args):
        nonlocal running
        added = args["cond_denoised"] - args["uncond_denoised"]
        running = added if running is None else added + 0.5 * running
        return args["denoised"] + 0.1 * running

    return guide


def noisy():
    """It adds noise to every row."""

    def add(args):
        return args["denoised"] + 0.1 * torch.randn_like(args["denoised"])

    return add


def calling():
    """It evaluates the model again, on blurred latents."""
    samplers = importlib.import_module("comfy.samplers")

    def guide(args):
        blurred = torch.nn.functional.avg_pool2d(args["input"], 3, 1, 1)
        conds = [args["cond"]]
        (weak,) = samplers.calc_cond_batch(args["model"], conds, blurred, args["sigma"], args["model_options"])
        return args["denoised"] + 0.3 * (args["cond_denoised"] - weak)

    return guide


def over_the_batch():
    """It compares the rows of the batch."""

    def equalize(args):
        return args["denoised"] - 0.2 * args["denoised"].mean(dim=0, keepdim=True)

    return equalize


def momentum_of_the_cfg(case: Case) -> None:
    """The formula of guidance itself, with a momentum."""
    running = torch.zeros(1)

    def cfg(args):
        nonlocal running
        running = (args["cond"] - args["uncond"]) + 0.3 * running
        return args["uncond"] + args["cond_scale"] * running

    case.model = case.model.clone()
    case.model.set_model_sampler_cfg_function(cfg)


def less_guidance_later(case: Case) -> None:
    """It takes the negative's pass away in the later half (adaptive guidance)."""

    def skip(args):
        conds_out = args["conds_out"]
        return conds_out if float(args["sigma"][0]) > 2.0 else [conds_out[0], conds_out[0].clone()]

    case.model = case.model.clone()
    case.model.set_model_sampler_pre_cfg_function(skip)


def own_calc_cond_batch(case: Case) -> None:
    """It takes the place of the host's evaluation of all conditioning."""
    samplers = importlib.import_module("comfy.samplers")

    def calculate(args):
        conds, x, sigma = args["conds"], args["input"], args["sigma"]
        return samplers.calc_cond_batch(args["model"], conds, x * 0.99, sigma, args["model_options"])

    case.model = case.model.clone()
    case.model.set_model_sampler_calc_cond_batch_function(calculate)


def wrapped(kind: str, wrapper_of):
    """A change: a wrapper of one of the host's functions, with a state of its own in each run of the node."""

    def change(case: Case) -> None:
        kinds = importlib.import_module("comfy.patcher_extension").WrappersMP
        case.model = case.model.clone()
        case.model.add_wrapper_with_key(getattr(kinds, kind), "other_pack", wrapper_of())

    return change


def memory():
    """It answers every second call with what it knows."""
    known, calls = None, 0

    def answer(executor, x, timestep, *args, **kwargs):
        nonlocal known, calls
        calls += 1
        if calls == 2:
            return known
        known = executor(x, timestep, *args, **kwargs)
        return known

    return answer


def new_entries():
    """Conditioning entries are made anew for each call."""

    def copy(executor, model, conds, *args, **kwargs):
        fresh = [entries and [{**entry} for entry in entries] for entries in conds]
        return executor(model, fresh, *args, **kwargs)

    return copy


def more_contrast():
    def scale(executor, *args, **kwargs):
        return executor(*args, **kwargs) * 1.02

    return scale


# --- Among the rows: what sees the batch of a call -------------------------------------------------------------------


def model_function(wrapper_of):
    """A change: a wrapper of the model's function, with a state of its own in each run of the node."""

    def change(case: Case) -> None:
        case.model = case.model.clone()
        case.model.set_model_unet_function_wrapper(wrapper_of())

    return change


def stateless():
    def wrapper(apply_model, args):
        return apply_model(args["input"], args["timestep"], **args["c"]) * 1.02

    return wrapper


def with_last_output():
    """It mixes in what the model said last, if that fits."""
    last = None

    def mixing_wrapper(apply_model, args):
        nonlocal last
        out = apply_model(args["input"], args["timestep"], **args["c"])
        mixed = out if last is None or last.shape != out.shape else 0.8 * out + 0.2 * last
        last = out
        return mixed

    return mixing_wrapper


def with_last_of_each_side():
    """As caches do: a slot for the positive and one for the negative, broadcast if one row is left."""
    slots = {}

    def slot_wrapper(apply_model, args):
        out = apply_model(args["input"], args["timestep"], **args["c"])
        sides, parts = args["cond_or_uncond"], []
        for side, part in zip(sides, out.chunk(len(sides)), strict=True):
            parts.append(0.8 * part + 0.2 * slots.get(side, part))
            slots[side] = part
        return torch.cat(parts)

    return slot_wrapper


def residual():
    """A step cache: every second call has the change of the one before."""
    kept, calls = None, 0

    def residual_wrapper(apply_model, args):
        nonlocal kept, calls
        calls += 1
        if calls % 2 == 0:
            return args["input"] + kept
        out = apply_model(args["input"], args["timestep"], **args["c"])
        kept = out - args["input"]
        return out

    return residual_wrapper


def residual_of_the_network():
    """The same around the network itself."""
    kept, calls = None, 0

    def residual_wrapper(executor, x, *args, **kwargs):
        nonlocal kept, calls
        calls += 1
        if calls % 2 == 0:
            return x + kept
        out = executor(x, *args, **kwargs)
        kept = out - x
        return out

    return residual_wrapper


def random_each_call():
    def drawing_wrapper(apply_model, args):
        x = args["input"] + 0.02 * torch.randn_like(args["input"])
        return apply_model(x, args["timestep"], **args["c"])

    return drawing_wrapper


def one_draw_a_call():
    """One random number for the whole batch, as merging tokens takes."""

    def drawing_wrapper(apply_model, args):
        return apply_model(args["input"], args["timestep"], **args["c"]) * (1 + 0.1 * torch.rand(1))

    return drawing_wrapper


def pictures(case: Case, heeds: bool, each: bool = False) -> None:
    """Tokens of a picture for each row of the batch, taken by its index (an IP-Adapter)."""
    tokens = generated(6, 4, 64) if each else generated(3, 4, 64)
    mine = case.own(tokens) if each else case.rows(tokens)
    attention = importlib.import_module("comfy.ldm.modules.attention").optimized_attention

    def picture_attention(q, k, v, extra_options):
        sides = extra_options["cond_or_uncond"]
        count = len(q) // len(sides)
        rows = mine
        chosen = (extra_options.get("ad_params") or {}).get("sub_idxs")
        if heeds and chosen is not None:
            rows = rows[chosen]
        rows = rows[:count] if len(rows) >= count else rows.repeat(count // len(rows) + 1, 1, 1)[:count]
        both = torch.cat([rows if side == 0 else torch.zeros_like(rows) for side in sides])
        heads = extra_options["n_heads"]
        return attention(q, k, v, heads) + 0.7 * attention(q, both, both, heads)

    case.model = case.model.clone()
    case.model.set_model_attn2_replace(picture_attention, "middle", 0, 0)


def row_masks(case: Case) -> None:
    """A mask for each row of the batch on what an attention gives out."""
    masks = case.rows(generated(3, 16, 1, seed=5).sigmoid())

    def masked_output(out, extra_options):
        sides = len(extra_options["cond_or_uncond"])
        count = len(out) // sides
        rows = masks[:count] if len(masks) >= count else masks.repeat(count, 1, 1)[:count]
        return out * rows.repeat(sides, 1, 1) if out.shape[1] == 16 else out

    case.model = case.model.clone()
    case.model.set_model_attn2_output_patch(masked_output)


def recorder(case: Case) -> None:
    """An attention that is recorded, and read once the guidance is done (self-attention guidance)."""
    recorded = None
    attention = importlib.import_module("comfy.ldm.modules.attention").optimized_attention

    def recording_attention(q, k, v, extra_options):
        nonlocal recorded
        out = attention(q, k, v, extra_options["n_heads"])
        recorded = out
        return out

    def read_attention(args):
        sides = len(recorded) // len(args["denoised"]) or 1
        level = recorded.chunk(sides)[0].mean(dim=(1, 2))
        return args["denoised"] * (1 + 0.1 * level[:, None, None, None])

    case.model = case.model.clone()
    case.model.set_model_attn1_replace(recording_attention, "middle", 0, 0)
    case.model.set_model_sampler_post_cfg_function(read_attention)


def mean_of_the_batch(case: Case) -> None:
    """An attention patch that looks at the other rows (style aligned)."""

    def aligned(q, k, v, extra_options):
        return q, k + 0.5 * k.mean(dim=0, keepdim=True), v

    case.model = case.model.clone()
    case.model.set_model_attn1_patch(aligned)


# --- Samplers --------------------------------------------------------------------------------------------------------


def sampled(function, **options):
    """A change: a sampler function of another pack."""

    def change(case: Case) -> None:
        case.sampler = case.kit.samplers.KSAMPLER(function, dict(options))

    return change


def own_euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones(len(x)), **(extra_args or {}))
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = denoised + (x - denoised) * sigmas[i + 1] / sigmas[i]
    return x


def sample_drawing(model, x, sigmas, extra_args=None, callback=None, disable=None):
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones(len(x)), **(extra_args or {}))
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = denoised + torch.randn_like(x) * sigmas[i + 1]
    return x


def sample_asking(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """It asks what its denoiser is by the names that the host's has, and that others have."""
    sampling = model.model.model_sampling if hasattr(model, "model") else model.inner_model.inner_model.model_sampling
    near = 1 + 0.01 / float(sampling.sigma_max)
    return own_euler(model, x * near, sigmas, extra_args, callback, disable)


def sample_lying(model, x, sigmas, extra_args=None, callback=None, disable=None, inner=None):
    """It runs another sampler, and tells the model of less noise than there is."""

    def lying(x, sigma, **kwargs):
        return model(x, sigma * 0.98, **kwargs)

    for name in ("inner_model", "model_options"):
        if hasattr(model, name):
            setattr(lying, name, getattr(model, name))
    lying.sigmas = sigmas
    return inner.sampler_function(lying, x, sigmas, extra_args, callback, disable, **inner.extra_options)


def wrapping(inner: str):
    """A change: a sampler that wraps one of the host's (detail daemon, lying sigmas)."""

    def change(case: Case) -> None:
        sampler = case.kit.samplers.sampler_object(inner)
        case.sampler = case.kit.samplers.KSAMPLER(sample_lying, {"inner": sampler})

    return change


def of_its_own_class(case: Case) -> None:
    """A SAMPLER that is no k-diffusion sampler of the host."""

    class OtherSampler(case.kit.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *args, **kwargs):
            x = noise * sigmas[0] if latent_image is None else noise * sigmas[0] + latent_image
            extra_args["denoise_mask"] = None
            model = case.kit.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
            model.latent_image, model.noise = latent_image, noise
            return own_euler(model, x, sigmas, extra_args)

    case.sampler = OtherSampler()


ROWS = {"split": False}
BATCH = {"split": False, "batch": True}
NOISY = {**BATCH, "noisy": True}
FOREIGN = [
    Feature("A post-CFG function that counts in transformer_options", post_cfg(counting)),
    Feature("A post-CFG function with a momentum", post_cfg(momentum)),
    Feature("A post-CFG function that calls the model again", post_cfg(calling)),
    Feature("A post-CFG function that draws noise", post_cfg(noisy), **NOISY, refused="noisy|draws noise"),
    Feature(
        "A post-CFG function that compares the rows", post_cfg(over_the_batch), batch=True, refused="over_the_batch"
    ),
    Feature("A CFG function with a momentum", momentum_of_the_cfg),
    Feature("A pre-CFG function without the negative's pass", less_guidance_later),
    Feature("A function in place of calc_cond_batch", own_calc_cond_batch),
    Feature("PREDICT_NOISE wrapper that answers from memory", wrapped("PREDICT_NOISE", memory)),
    Feature("CALC_COND_BATCH wrapper with new entries each call", wrapped("CALC_COND_BATCH", new_entries), inert=True),
    Feature("APPLY_MODEL wrapper", wrapped("APPLY_MODEL", more_contrast)),
    Feature("DIFFUSION_MODEL wrapper", wrapped("DIFFUSION_MODEL", more_contrast)),
    Feature("Model function wrapper without a state", model_function(stateless)),
    Feature("Model function wrapper that keeps the last output", model_function(with_last_output), refused="with_last"),
    Feature(
        "Model function wrapper with a slot for each side", model_function(with_last_of_each_side), refused="with_last"
    ),
    Feature("Step cache in a model function wrapper", model_function(residual), refused="residual"),
    Feature(
        "Step cache around the network",
        wrapped("DIFFUSION_MODEL", residual_of_the_network),
        refused="residual|other_pack",
    ),
    Feature(
        "Model function wrapper that draws for each row",
        model_function(random_each_call),
        **NOISY,
        refused="random_each",
    ),
    Feature("Model function wrapper that draws once a call", model_function(one_draw_a_call), refused="one_draw"),
    Feature(
        "A picture for each prompt, by index", lambda case: pictures(case, False), **ROWS, refused="picture_attention"
    ),
    Feature(
        "A picture for each prompt, heeding ad_params",
        lambda case: pictures(case, True),
        **ROWS,
        refused="picture_attention",
    ),
    Feature(
        "Pictures that differ for equal prompts, heeding ad_params",
        lambda case: pictures(case, True, True),
        split=False,
        each=True,
        refused="picture_attention",
    ),
    Feature("A mask for each row in an attention", row_masks, **ROWS, refused="masked_output|row_masks"),
    Feature("A recorded attention read by a post-CFG function", recorder, refused="recorder|recording_attention"),
    Feature(
        "An attention patch that looks at other rows", mean_of_the_batch, **BATCH, refused="aligned|mean_of_the_batch"
    ),
    Feature("A sampler of another pack", sampled(own_euler), inert=True),
    Feature("A sampler that asks for the model's sampling", sampled(sample_asking)),
    Feature(
        "A sampler that draws with randn_like", sampled(sample_drawing), **NOISY, refused="sample_drawing|draws noise"
    ),
    Feature("A sampler that wraps euler", wrapping("euler")),
    Feature(
        "A sampler that wraps euler_ancestral", wrapping("euler_ancestral"), **NOISY, refused="sample_lying|draws noise"
    ),
    Feature("A SAMPLER of its own class", of_its_own_class, refused="OtherSampler"),
]
