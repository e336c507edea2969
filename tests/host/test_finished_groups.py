"""Any MODEL finishes and saves a few pictures at a time: they are those of one run, and no row is evaluated twice."""

import contextlib
import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from shared_runs import K, N, ksampler, modules_of, one_negative, positive_of, rows_of, untimed, vectors_of_prompts

from hierdiff_core import build_plan, linear_thresholds, ward_linkage
from hierdiff_core.plan.algebra import alone, attach, rerolled
from hierdiff_core.plan.rerolls import Reroll
from hierdiff_core.sampling.store import Store

pytestmark = pytest.mark.host

REFUSED = {"dpm_adaptive"}
# Other kinds of samplers: by one step, several calls a step, noise, a path of noise, memory, all of these.
KINDS = ("euler", "heun", "dpm_2_ancestral", "dpmpp_sde", "dpmpp_2m", "uni_pc", "dpm_fast", "seeds_2", "lcm")


@pytest.fixture(scope="module")
def host(pack):
    names = ("keeping", "group_runs", "finishing", "run_checks")
    ours = {name: importlib.import_module(f"{pack.__name__}.nodes.host.{name}") for name in names}
    return SimpleNamespace(**vars(modules_of(pack)), **ours)


@pytest.fixture(scope="module")
def plan():
    """Of two trees: the second splits where the first does not, which samplers that remember steps heed."""
    Z = ward_linkage(vectors_of_prompts())
    return build_plan(Z, linear_thresholds(K, float(Z[-1, 2]) * 0.95), range(100, 100 + N))


class Saved:
    """Hears of pictures that are finished."""

    def __init__(self):
        self.groups, self.latents, self.images = [], {}, {}

    def on_finished(self, prompts, latents):
        self.groups.append(prompts.tolist())
        self.latents |= dict(zip(prompts.tolist(), latents, strict=True))

    def lines(self):
        return [f"saved {len(self.latents)}"]


class Decoder:
    """Stands for a VAE."""

    device = torch.device("cpu")

    def __init__(self):
        self.decoded = 0

    def decode(self, latents):
        self.decoded += len(latents)
        return latents.movedim(1, -1)[..., :3].sigmoid()


def drawn(host, model, plan, saving=True, vectors=None, sampler="euler", **options):
    """Latents, the saver, and the report in lines."""
    saver, told = Saved(), []
    vae = host.finishing.DecodedOnce(Decoder())
    made = host.finishing.Saving(vae, lambda: contextlib.nullcontext(saver)) if saving else None
    known = {"show_tree": False, "vae": vae, "tell": lambda report, **data: told.append(report)}
    known |= {name: options.pop(name) for name in ("keeping", "per_prompt", "show_tree") if name in options}
    patched = host.sharing.share_steps(model, host.sharing.Sharing(plan, saving=made, **known))
    vectors = vectors_of_prompts() if vectors is None else vectors
    sides = options.pop("sides", None) or (positive_of(vectors), one_negative())
    samples = ksampler(host, patched, *sides, sampler, **options)
    return samples, saver, told[0]


def test_of_every_sampler_the_pictures_are_those_of_one_run(host, model, plan):
    for name in host.samplers.SAMPLER_NAMES:
        if name in REFUSED:
            continue
        one, _, report = drawn(host, model, plan, False, sampler=name)
        several, saver, other = drawn(host, model, plan, sampler=name)
        assert torch.equal(one, several), name
        assert len(saver.groups) > 1, name
        assert sorted(i for group in saver.groups for i in group) == list(range(N)), name
        assert all(torch.equal(latent, one[i]) for i, latent in saver.latents.items()), name
        assert rows_of(report) == rows_of(other), name
        print(name, untimed(report), untimed(other))
