"""How long a set takes with a model of ComfyUI's own under Hierarchical KSampler's guider, against the host's sampling.

    python benchmarks/speed_native.py [--small]

On a CUDA device a UNet of SDXL's published size with random weights: float16, 1024 x 1024 pixels, 20 steps of euler,
guidance 7. --small is a narrow one on a CPU: it shows that all parts work. COMFYUI_DIR names a ComfyUI, if not the one
of `make setup`.
"""

import argparse
import sys
import tempfile
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
    import comfy.model_patcher
    import comfy.supported_models

    dtype = dtype or (torch.float32 if small else torch.float16)
    config = comfy.supported_models.SDXL({**SDXL, **(NARROW if small else {}), "dtype": dtype})
    device = comfy.model_management.get_torch_device()
    model = comfy.model_base.SDXL(config, device=device).eval().requires_grad_(False)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02) if parameter.ndim > 1 else torch.nn.init.ones_(parameter)
    return comfy.model_patcher.ModelPatcher(model.to(dtype), device, torch.device("cpu"))


class Runs:
    """Runs of one set: by the host alone, and with shared steps."""

    def __init__(self, patcher, prompts, steps, side):
        import comfy.samplers

        self.patcher, self.prompts = patcher, prompts
        generator = torch.Generator().manual_seed(0)
        centres = torch.randn(max(prompts // 6, 2), 1, 2048, generator=generator)
        rows = centres[torch.arange(prompts) % len(centres)] + 0.5 * torch.randn(prompts, 77, 2048, generator=generator)
        self.positive = [[rows, {"pooled_output": torch.randn(prompts, 1280, generator=generator)}]]
        self.negative = [[torch.randn(1, 77, 2048, generator=generator), {"pooled_output": torch.zeros(1, 1280)}]]
        self.noise = torch.randn(1, 4, side, side, generator=generator).repeat(prompts, 1, 1, 1)
        self.sampler = comfy.samplers.sampler_object("euler")
        self.sigmas = comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "normal", steps)
        tree, profile = PromptTree.of(rows.mean(dim=1), "cosine"), Profile(steps)
        self.plan, self.whole = (plan_for(tree, Budget(*how), profile) for how in (("saving", 0.6), ("tau", 0.0)))

    def host(self):
        import comfy.samplers

        guider = comfy.samplers.CFGGuider(self.patcher)
        guider.set_conds(self.positive, self.negative)
        guider.set_cfg(7.0)
        return guider.sample(
            self.noise, torch.zeros_like(self.noise), self.sampler, self.sigmas, disable_pbar=True, seed=0
        )

    def shared(self, plan, micro_batch=0):
        from hierdiff_pack.nodes.guider import make_guider

        guider = make_guider(self.patcher, self.positive, self.negative, 7.0, plan, micro_batch, show_tree=False)
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a narrow model on a CPU")
    options = parser.parse_args()
    import_pack(Path(tempfile.mkdtemp()), cpu=options.small)
    patcher = random_sdxl(options.small)
    side, prompts, steps = (16, 6, 4) if options.small else (128, 32, 20)
    card = "CPU" if options.small else torch.cuda.get_device_name()
    size = sum(p.numel() for p in patcher.model.diffusion_model.parameters()) / 1e6
    print(f"{card}, torch {torch.__version__}, UNet {size:.0f} M parameters, {8 * side} pixels, {prompts} prompts")
    best = best_of_curve(patcher, side, (1, 2) if options.small else (1, 2, 4, 8, 16, 24))
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


if __name__ == "__main__":
    main()
