"""How long a set takes with a model of ComfyUI's own under Hierarchical KSampler's guider, against the host's sampling.

    python benchmarks/speed_native.py [--only PART ...] [--small]

On a CUDA device a UNet of SDXL's published size with random weights: float16, 1024 x 1024 pixels, 20 steps of euler,
guidance 7. --small is a narrow one on a CPU: it shows that all parts work. COMFYUI_DIR names a ComfyUI, if not the one
of `make setup`.

run       32 prompts against the host's sampling
few       8 prompts whose steps have few clusters, with and without CUDA graphs; SDXL and a part of Flux
failing   a recording that fails on purpose: what the report says, and that noise is drawn after it as ever
compiled  a block of Flux that the host's own function compiles for each size: how often, and how long the runs take
"""

import argparse
import contextlib
import importlib
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from comfyui_host import import_pack
from timing import seconds, share_outside

from hierdiff_core import Budget, Profile, PromptTree, plan_for

SDXL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "context_dim": 2048,
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "use_temporal_attention": False,
    "legacy": False,
}
NARROW = {"model_channels": 32, "num_head_channels": 32, "transformer_depth_middle": 1}
NARROW |= {"transformer_depth": [0, 0, 1, 1, 1, 1], "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1]}


def random_sdxl(small, dtype=None):
    """The host's ModelPatcher around its own SDXL, with random weights; in float16 unless small, or as `dtype` says."""
    import comfy.model_base
    import comfy.model_management
    import comfy.supported_models

    dtype = dtype or (torch.float32 if small else torch.float16)
    config = comfy.supported_models.SDXL({**SDXL, **(NARROW if small else {}), "dtype": dtype})
    device = comfy.model_management.get_torch_device()
    return patcher_of(comfy.model_base.SDXL(config, device=device), device, dtype)


def patcher_of(model, device, dtype):
    """The host's ModelPatcher around a model, which gets random weights."""
    import comfy.model_patcher

    model.eval().requires_grad_(False)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02) if parameter.ndim > 1 else torch.nn.init.ones_(parameter)
    return comfy.model_patcher.ModelPatcher(model.to(dtype), device, torch.device("cpu"))


FLUX = {"image_model": "flux", "patch_size": 2, "in_channels": 16, "out_channels": 16, "theta": 10000}
FLUX |= {"vec_in_dim": 1280, "context_in_dim": 2048, "mlp_ratio": 4.0, "qkv_bias": True, "guidance_embed": False}
# A quarter of Flux's blocks, at their own width.
FLUX_PART = {"hidden_size": 3072, "num_heads": 24, "depth": 4, "depth_single_blocks": 9, "axes_dim": [16, 56, 56]}
FLUX_NARROW = {"hidden_size": 64, "num_heads": 4, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6]}


def random_flux(small, shape=None):
    """The host's ModelPatcher around its own Flux with some of the blocks, with random weights, in bfloat16."""
    import comfy.model_base
    import comfy.model_management
    import comfy.supported_models

    dtype = torch.float32 if small else torch.bfloat16
    shape = shape or (FLUX_NARROW if small else FLUX_PART)
    config = comfy.supported_models.Flux({**FLUX, **shape, "dtype": dtype})
    device = comfy.model_management.get_torch_device()
    return patcher_of(comfy.model_base.Flux(config, device=device), device, dtype)


PARTS = ("run", "few", "failing", "compiled")
# As each size was compiled before calls were padded, as it is now, and code that torch makes for any size.
COMPILED = ("each size", "few sizes", "any size")


class Runs:
    """Runs of one set: by the host alone, and with shared steps; with a `spread` it splits at many steps.

    `texts` are the prompts, which a plan has to know that is drawn in groups.
    """

    def __init__(self, patcher, prompts, steps, side, saving=0.6, cfg=7.0, spread=0.0, texts=None):
        import comfy.samplers

        self.patcher, self.prompts, self.cfg, self.reports = patcher, prompts, cfg, []
        channels = patcher.model.latent_format.latent_channels
        generator = torch.Generator().manual_seed(0)
        centres = torch.randn(max(prompts // 6, 2), 1, 2048, generator=generator)
        rows = centres[torch.arange(prompts) % len(centres)] + 0.5 * torch.randn(prompts, 77, 2048, generator=generator)
        if spread:
            further = spread * torch.linspace(0, 1, prompts)[:, None, None]
            rows += further * torch.randn(prompts, 1, 2048, generator=generator)
        self.positive = [[rows, {"pooled_output": torch.randn(prompts, 1280, generator=generator)}]]
        self.negative = [[torch.randn(1, 77, 2048, generator=generator), {"pooled_output": torch.zeros(1, 1280)}]]
        self.noise = torch.randn(1, channels, side, side, generator=generator).repeat(prompts, 1, 1, 1)
        self.sampler = comfy.samplers.sampler_object("euler")
        self.sigmas = comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "normal", steps)
        tree, profile = PromptTree.of(rows.mean(dim=1), "cosine", texts), Profile(steps)
        self.plan, self.whole = (plan_for(tree, Budget(*how), profile) for how in (("saving", saving), ("tau", 0.0)))

    def host(self):
        import comfy.samplers

        guider = comfy.samplers.CFGGuider(self.patcher)
        guider.set_conds(self.positive, self.negative)
        guider.set_cfg(self.cfg)
        return guider.sample(
            self.noise, torch.zeros_like(self.noise), self.sampler, self.sigmas, disable_pbar=True, seed=0
        )

    def shared(self, plan, micro_batch=0):
        from hierdiff_pack.nodes.guider import make_guider

        sides, tell = (self.positive, self.negative), self.reports.append
        guider = make_guider(self.patcher, *sides, self.cfg, plan, micro_batch, show_tree=False, tell=tell)
        return guider.sample(
            self.noise, torch.zeros_like(self.noise), self.sampler, self.sigmas, disable_pbar=True, seed=0
        )

    def outside_model(self):
        """Share of the time of a shared run in which no call of the UNet is on the device."""
        device = self.patcher.load_device
        return share_outside(self.patcher.model.diffusion_model, "forward", lambda: self.shared(self.plan), device)


@torch.no_grad()
def best_of_curve(patcher, side, sizes):
    """Prints the time of a guidance pair in calls of several sizes; returns the best."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([patcher])
    network, device, best = patcher.model.diffusion_model, patcher.load_device, float("inf")
    dtype = next(network.parameters()).dtype
    print("\n| rows a call | ms a row (a guidance pair) |\n|---|---|")
    for rows in sizes:
        x, y = torch.randn(2 * rows, 4, side, side), torch.randn(2 * rows, 2816)
        x, y, context = (v.to(device, dtype) for v in (x, y, torch.randn(2 * rows, 77, 2048)))
        t = torch.full((2 * rows,), 500.0, device=device)
        took = seconds(lambda: network(x, t, context=context, y=y), device, 5, warm=2) / rows  # noqa: B023
        best = min(best, took)
        print(f"| {rows} | {1000 * took:.2f} |", flush=True)
    return best


def compare_with_host(patcher, side, prompts, steps, sizes):
    """Prints the times of one set with all rows and with shared steps."""
    best = best_of_curve(patcher, side, sizes)
    runs = Runs(patcher, prompts, steps, side)
    plan, whole = runs.plan, runs.whole
    ratio, saved = whole.nfe / plan.nfe, f"{plan.saved:.0%} saved"
    device = patcher.load_device
    host, alone = (seconds(run, device, 1, warm=1) for run in (runs.host, lambda: runs.shared(whole)))
    print("\n| | rows | s | host's s / it | of the rows' ratio | time / (rows x best) |\n|---|---|---|---|---|---|")
    for name, rows, took in (
        ("the host's own sampling, all rows", whole.nfe, host),
        ("Hierarchical KSampler's guider, tau = 0", whole.nfe, alone),
        (f"the same, {saved}", plan.nfe, seconds(lambda: runs.shared(plan), device, 2, warm=1)),
        (f"the same, {saved}, micro_batch 8", plan.nfe, seconds(lambda: runs.shared(plan, 8), device, 2, warm=1)),
    ):
        share = f"{alone / took / ratio:.3f}" if rows == plan.nfe else ""
        print(
            f"| {name} | {rows} | {took:.2f} | {host / took:.2f} | {share} | {took / (rows * best):.3f} |", flush=True
        )
    print(f"\noutside the UNet, {saved}: {runs.outside_model():.2%}")


@contextlib.contextmanager
def without(module, name):
    """A context: a function of one of the pack's modules that asks about a device says no."""
    module = importlib.import_module(f"hierdiff_pack.nodes.host.{module}")
    before = getattr(module, name)
    setattr(module, name, lambda device: False)
    try:
        yield
    finally:
        setattr(module, name, before)


def few_clusters(name, patcher, side, cfg, steps):
    """Prints the time of a set of eight prompts that share nearly all steps, with and without CUDA graphs."""
    runs = Runs(patcher, 8, steps, side, saving=0.8 if steps > 8 else 0.7, cfg=cfg)
    device, clusters, times, latents = patcher.load_device, runs.plan.clusters_per_step, [], []
    often = {"repeats": 2, "warm": 1} if device.type == "cuda" else {}
    for context in (without("graphed_calls", "may_be_recorded"), contextlib.nullcontext()):
        with context:
            made = []
            times.append(seconds(lambda: made.append(runs.shared(runs.plan)), device, **often))  # noqa: B023
            latents.append(made[-1])
    lines = [line for line in runs.reports[-1].splitlines() if "CUDA graphs" in line]
    same = "the same" if torch.equal(*latents) else f"{float((latents[0] - latents[1]).abs().max()):.2e} apart"
    print(
        f"| {name} | {8 * side} | {int((clusters <= 2).sum())} of {steps} | {times[0]:.3f} | {times[1]:.3f} | "
        f"{times[1] / times[0]:.3f} | {same} | {'; '.join(lines)} |",
        flush=True,
    )


def compare_graphs(small, sdxl, models):
    """Prints what CUDA graphs give where steps have few clusters."""
    print("\n| model | pixels | steps of 1 or 2 clusters | s | s, graphs | ratio | latents | report |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    steps = 6 if small else 16
    for side in ((8,) if small else (128, 64)) if "sdxl" in models else ():
        few_clusters("SDXL", sdxl, side, 7.0, steps)
    flux = random_flux(small) if "flux" in models else None
    for side in ((16,) if small else (128, 64)) if flux else ():
        few_clusters("a quarter of Flux", flux, side, 1.0, steps)


def forget_recorded():
    """As in a new process: what was recorded of a network is kept from run to run."""
    graphed_calls = importlib.import_module("hierdiff_pack.nodes.host.graphed_calls")
    for kept in (graphed_calls._KEPT, graphed_calls._LOOKED_AT, graphed_calls._FAILED):
        kept.clear()


def fail_to_record(patcher, side, steps):
    """Prints what a run says whose network waits for the device, which cannot be recorded, and draws noise after it."""
    runs, device = Runs(patcher, 8, steps, side, saving=0.8 if steps > 8 else 0.7), patcher.load_device

    def drawn():
        """Noise of the device's own generator, in this thread and in another."""
        torch.manual_seed(0)
        with ThreadPoolExecutor(1) as thread:
            return torch.randn(1000, device=device), thread.submit(torch.randn, 1000, device=device).result()

    before, expected = drawn(), runs.shared(runs.plan)
    forget_recorded()
    layer = patcher.model.diffusion_model.time_embed[0]
    waiting = layer.register_forward_pre_hook(lambda module, args: args[0].sum().item() and None)
    try:
        latents = runs.shared(runs.plan)
    finally:
        waiting.remove()
    said = [line for line in runs.reports[-1].splitlines() if "CUDA graphs" in line]
    noise = all(torch.equal(*pair) for pair in zip(before, drawn(), strict=True))
    print(f"\nA recording that fails: {said or 'nothing was recorded'}", flush=True)
    print(f"noise after it is as before: {noise}; latents are the same: {torch.equal(latents, expected)}", flush=True)


class CompiledRuns:
    """Runs of a plan that splits often, with a block of Flux that the host's own function has compiled."""

    def __init__(self, small, dynamic):
        import comfy.model_base
        from comfy_api.torch_helpers import set_torch_compile_wrapper

        shape = {**FLUX_NARROW, **({} if small else {"hidden_size": 512, "axes_dim": [16, 56, 56]})}
        patcher = random_flux(small, shape)
        how = {"backend": "eager" if small else "inductor", "dynamic": dynamic}
        set_torch_compile_wrapper(patcher, **how, keys=["diffusion_model.single_blocks.0"])
        self.runs = Runs(patcher, 12, 12, 16 if small else 32, saving=0.5, cfg=4.0, spread=2.0)
        self.batches, apply_model = [], comfy.model_base.BaseModel._apply_model

        def noted(model, x, *args, **kwargs):
            self.batches.append(len(x))
            return apply_model(model, x, *args, **kwargs)

        comfy.model_base.BaseModel._apply_model = noted

    def run(self):
        """Seconds, compiled graphs and sizes of calls of one run."""
        from torch._dynamo.utils import counters

        before, self.batches[:] = counters["stats"]["unique_graphs"], []
        took = seconds(lambda: self.runs.shared(self.runs.plan), self.runs.patcher.load_device)
        return took, counters["stats"]["unique_graphs"] - before, sorted(set(self.batches))


def count_compilations(small, way):
    """Prints how often a block is compiled in two runs of a plan, as it was and as it is."""
    compiled = CompiledRuns(small, None if way == "any size" else False)
    with without("padded_rows", "pads_on") if way == "each size" else contextlib.nullcontext():
        for name in ("first run", "second run"):
            took, graphs, sizes = compiled.run()
            print(f"| {way}, {name} | {took:.1f} s | {graphs} graphs | batches {sizes} |", flush=True)
    lines = [line for line in compiled.runs.reports[-1].splitlines() if "compiled" in line]
    print(f"clusters {compiled.runs.plan.clusters_per_step.tolist()}; {lines}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a narrow model on a CPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--compiled", nargs="+", choices=COMPILED, default=COMPILED)
    parser.add_argument("--models", nargs="+", choices=("sdxl", "flux"), default=("sdxl", "flux"), help="of few")
    options = parser.parse_args()
    import_pack(Path(tempfile.mkdtemp()), cpu=options.small)
    print("CPU" if options.small else torch.cuda.get_device_name(), f"torch {torch.__version__}", end=", ")
    print("" if options.small else torch.cuda.get_allocator_backend(), flush=True)
    sdxl = random_sdxl(options.small) if {"run", "few", "failing"} & {*options.only} else None
    if sdxl is not None:
        print(f"UNet {sum(p.numel() for p in sdxl.model.diffusion_model.parameters()) / 1e6:.0f} M parameters")
    if {"few", "failing"} & {*options.only}:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            if "few" in options.only:
                compare_graphs(options.small, sdxl, options.models)
            if "failing" in options.only:
                fail_to_record(sdxl, *((8, 6) if options.small else (64, 16)))
        said = sorted({str(one.message).splitlines()[0] for one in warned})
        print(f"\n{len(warned)} warnings: {said}", flush=True)
    if "run" in options.only:
        compare_with_host(sdxl, *((16, 6, 4, (1, 2)) if options.small else (128, 32, 20, (1, 2, 4, 8, 16, 24))))
    for way in options.compiled if "compiled" in options.only else ():
        count_compilations(options.small, way)


if __name__ == "__main__":
    main()
