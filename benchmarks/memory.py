"""Device memory of a UNet row and of decoding a latent, measured, beside the estimates that choose batch sizes.

python benchmarks/memory.py [--small]
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from full_size import random_decoder

from hierdiff_core.kandinsky.decoder import unet_bytes_per_row
from hierdiff_core.kandinsky.decoding import movq_bytes_per_row


def peak_of(call):
    """Bytes that `call` needs beyond what was allocated before."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before


@torch.no_grad()
def unet_row(unet, rows, side):
    """Bytes per branch of a guidance pair, at `side` latent pixels."""
    x = torch.randn(2 * rows, 4, side, side, device="cuda", dtype=unet.dtype)
    embeds = torch.randn(2 * rows, unet.config.encoder_hid_dim, device="cuda", dtype=unet.dtype)
    return peak_of(lambda: unet(x, 500, None, added_cond_kwargs={"image_embeds": embeds})) / rows


@torch.no_grad()
def movq_row(movq, rows, side):
    z = torch.randn(rows, 4, side, side, device="cuda", dtype=movq.dtype)
    return peak_of(lambda: movq.decode(z, force_not_quantize=True)) / rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one size, few rows")
    options = parser.parse_args()
    decoder = random_decoder("cuda")
    for name, network in (("UNet", decoder.unet), ("MoVQ", decoder.movq)):
        print(f"{name}: {sum(p.numel() for p in network.parameters()) / 1e6:.0f} M parameters")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, float16")
    print("network  pixels  rows  measured MiB/row  estimated MiB/row")
    for side in (64,) if options.small else (64, 96, 128):
        for rows in (1, 2) if options.small else (1, 4, 16):
            unet, movq = unet_row(decoder.unet, rows, side), movq_row(decoder.movq, rows, side)
            for name, measured, estimate in (
                ("UNet", unet, unet_bytes_per_row(decoder.unet, side, side)),
                ("MoVQ", movq, movq_bytes_per_row(decoder.movq, side, side)),
            ):
                print(f"{name:7} {side * 8:7} {rows:5} {measured / 2**20:17.1f} {estimate / 2**20:18.1f}")


if __name__ == "__main__":
    main()
