"""A small set, its plans, and a tiny model for runs with shared steps on the host in this process."""

import importlib
import types

import torch

from hierdiff_core import build_plan, linear_thresholds, ward_linkage

N, K, SEED = 6, 8, 7
ENDS = [0, N - 1]
PROMPTS = [f"prompt {i}" for i in range(N)]
HOST = ("comfy.samplers", "comfy.sample", "comfy.hooks", "comfy.conds", "comfy.model_patcher", "node_helpers")
OURS = {
    "sharing": "host.share_steps",
    "run": "host.sharing_run",
    "clusters": "host.clusters",
    "noise": "host.sampler_noise",
    "rows": "host.cond_rows",
    "partial": "host.partial_entries",
    "per_prompt": "host.per_prompt",
    "calls": "host.model_calls",
    "pictures": "host.same_pictures",
    "host_samplers": "host.samplers",
    "guider": "guider",
    "node": "share_steps",
}


def modules_of(pack):
    """The host's modules and ours, once the host can be imported."""
    found = {name.rsplit(".", 1)[-1]: importlib.import_module(name) for name in HOST}
    found |= {name: importlib.import_module(f"{pack.__name__}.nodes.{place}") for name, place in OURS.items()}
    return types.SimpleNamespace(**found, native_models=importlib.import_module("native_models"))


def vectors_of_prompts():
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(3, 16, generator=generator)
    return torch.stack([centres[i % 3] for i in range(N)]) + 0.15 * torch.randn(N, 16, generator=generator)


def positive_of(vectors):
    return [[vectors[:, None, :] * torch.linspace(0.5, 1.5, 5)[None, :, None], {}]]


def one_negative():
    return [[torch.zeros(1, 5, 16), {}]]


def plans_of(vectors):
    """tau = 0, a tau at which clusters split in mid-run, and the first and the last prompt alone."""
    Z = ward_linkage(vectors)

    def plan(tau):
        return build_plan(Z, linear_thresholds(K, tau), range(100, 100 + N))

    shared = plan(float(Z[-1, 2]) * 2)
    assert len(set(shared.clusters_per_step)) > 2
    ends = build_plan(ward_linkage(vectors[ENDS]), linear_thresholds(K, 0.0), [100 + i for i in ENDS])
    return types.SimpleNamespace(none=plan(0.0), shared=shared, ends=ends)


def one_noise(host, rows=N):
    return host.sample.prepare_noise(torch.zeros(1, 4, 8, 8), SEED).repeat(rows, 1, 1, 1)


def sigmas_of(host, model, sampler, steps=K, denoise=1.0):
    return host.samplers.KSampler(model, steps, "cpu", sampler, "normal", denoise).sigmas


def shared_model(host, model, plan, **options):
    """A model behind Share Steps, and the reports of its runs; without a tree, which no page would show."""
    reports = []
    options = {"show_tree": False, **options}
    return host.sharing.share_steps(model, host.sharing.Sharing(plan, tell=reports.append, **options)), reports


def ksampler(host, model, positive, negative, sampler="euler", rows=1, **options):
    """What the host's KSampler node calls, with as many latents and rows of noise as `rows`."""
    noise, latents = options.pop("noise", None), options.pop("latents", torch.zeros(rows, 4, 8, 8))
    if noise is None:
        noise = host.sample.prepare_noise(latents, SEED)
    options = {"disable_pbar": True, "seed": SEED, **options}
    return host.sample.sample(model, noise, K, 4.0, sampler, "normal", positive, negative, latents, **options)


def rows_of(report):
    """Rows that the model evaluated, by a report."""
    line = next(line for line in report.splitlines() if line.startswith("model rows"))
    return int(line.split()[2])


def untimed(report):
    """A report without the seconds of its first line, which no two runs have in common."""
    first, *rest = report.splitlines()
    assert " in " in first
    assert " s" in first or " min" in first
    return [first.split(" in ")[0], *rest]
