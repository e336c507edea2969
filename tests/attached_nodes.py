"""What nodes of other packs attach to a model, in a few lines each, and runs to compare them by."""

import torch
from shared_runs import SEED, K, N, ksampler, one_negative, one_noise, positive_of, shared_model, vectors_of_prompts

from hierdiff_core import build_plan, linear_thresholds, ward_linkage

PAIRS = [0, 0, 1, 1, 2, 2]
SIDES = positive_of(vectors_of_prompts()), one_negative()
PAIRED = positive_of(vectors_of_prompts()[PAIRS]), one_negative()


def plan_of_pairs(tau=0.0):
    """Clusters of two to the end at tau 0; more of them together for a while beyond it."""
    Z = ward_linkage(vectors_of_prompts()[PAIRS])
    return build_plan(Z, linear_thresholds(K, tau * float(Z[-1, 2])), range(100, 100 + N))


def alone(host, model, prompt, sides=SIDES, sampler="euler"):
    """The host's own picture of one prompt."""
    own = [host.rows.rows_of(side, [prompt], N, "") for side in sides]
    return ksampler(host, model, *own, sampler)


def together(host, model, sides=SIDES, sampler="euler"):
    """The host's own batch of all prompts from one noise."""
    return ksampler(host, model, *sides, sampler, rows=N, noise=one_noise(host))


def shared(host, model, plan, sides=SIDES, sampler="euler", **options):
    """Samples and report behind Share Steps."""
    patched, reports = shared_model(host, model, plan, **options)
    return ksampler(host, patched, *sides, sampler), reports[0]


def pictures(rows=PAIRS):
    """What an image prompt adds: a picture for each prompt, equal in pairs."""
    made = torch.randn(len(rows), 4, 1, 1, generator=torch.Generator().manual_seed(SEED))
    return made[rows] * 0.3


def rows_by_place(count, options):
    """As most packs pick: the first so many."""
    return list(range(count))


def rows_by_window(count, options):
    """As packs pick that know AnimateDiff."""
    window = options.get("ad_params")
    return window["sub_idxs"] if window is not None and window["sub_idxs"] is not None else list(range(count))


def rows_by_contract(count, options):
    """As docs/for-other-packs.md says."""
    sharing = options.get("hierdiff")
    return sharing["rows"] if sharing else list(range(count))


def added(per_row, pick, options, count):
    """Data for each row of a call, for each of its sides."""
    sides = len(options["cond_or_uncond"])
    rows = per_row if len(per_row) == 1 else per_row[pick(count // sides, options)]
    return rows.expand(count // sides, *rows.shape[1:]).repeat(sides, 1, 1, 1)


def with_pictures(model, per_row, pick, begins=float("inf"), ends=0.0):
    """A model with a patch that adds a picture for each row between two sigmas."""

    def add_picture(h, options):
        if not ends <= float(options["sigmas"][0]) <= begins:
            return h
        return h + added(per_row, pick, options, len(h)).mean(dim=1, keepdim=True)

    patched = model.clone()
    patched.set_model_input_block_patch(add_picture)
    return patched


def with_unet_function(model, per_row, pick):
    """The same after the model, by a function around it."""

    def unet_function(apply_model, args):
        out = apply_model(args["input"], args["timestep"], **args["c"])
        return out + added(per_row, pick, args["c"]["transformer_options"], len(out))

    patched = model.clone()
    patched.set_model_unet_function_wrapper(unet_function)
    return patched
