"""By how much equal rows of a model differ by rounding: what the guard of nodes/host/guard.py must let pass.

In units of the model's own prediction (root mean square), between rows of one call, and between calls of other sizes.

    python benchmarks/guard_rounding.py [--small]
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from comfyui_host import import_pack
from speed_native import random_sdxl

SIGMAS = (14.6, 1.0, 0.03)


@torch.no_grad()
def predictions(patcher, rows, sigma, side):
    """(rows, ...) denoised latents of equal inputs, and the latent."""
    generator = torch.Generator().manual_seed(1)
    device = patcher.load_device
    x, text, pooled = (
        torch.randn(1, *shape, generator=generator).to(device) for shape in ((4, side, side), (77, 2048), (2816,))
    )
    x = x * sigma
    many = [tensor.expand(rows, *tensor.shape[1:]).contiguous() for tensor in (x, text, pooled)]
    made = patcher.model.apply_model(
        many[0], torch.full((rows,), sigma, device=device), c_crossattn=many[1], y=many[2], transformer_options={}
    )
    return made.float(), x.float()


def difference(a, b, x):
    """Of (R, ...) from (1, ...), the largest over the rows."""
    scale = (x - b).square().mean().sqrt()
    return float(((a - b).flatten(1).square().mean(dim=1).sqrt() / scale).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a narrow network on the CPU")
    options = parser.parse_args()
    import_pack(Path(tempfile.mkdtemp()), cpu=options.small)
    import comfy.model_management

    side, sizes = (16, (2, 3)) if options.small else (96, (2, 7, 16, 24))
    print("| dtype | sigma | in one call | between calls |\n|---|---|---|---|")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        patcher = random_sdxl(options.small, dtype)
        comfy.model_management.load_models_gpu([patcher])
        for sigma in SIGMAS:
            one, x = predictions(patcher, 1, sigma, side)
            made = [predictions(patcher, rows, sigma, side)[0] for rows in sizes]
            same = max(difference(rows, rows[:1], x) for rows in made)
            other = max(difference(rows, one, x) for rows in made)
            print(f"| {str(dtype).removeprefix('torch.')} | {sigma} | {same:.1e} | {other:.1e} |", flush=True)
        comfy.model_management.unload_all_models()
        del patcher


if __name__ == "__main__":
    main()
