"""Measure the sensitivity of the bundled model and keep it beside the decoder, where Load Sensitivity finds it.

python benchmarks/calibrate.py [--small] [--resolution R] [--out FILE]
"""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from emoji_sets import CALIBRATION

from hierdiff_core import calibrate, embed_prompts, load_decoder, load_prior, write_sensitivity
from hierdiff_core.kandinsky.model_folder import BUNDLED
from hierdiff_core.prompts.prompt_set import parse_prompts

SETTINGS = {"num_steps": 40, "seed": 0, "guidance": 3.0, "scheduler": "DDPM", "width": 128, "height": 128}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few prompts, for a CPU")
    parser.add_argument("--resolution", type=int, default=40, help="numbers of shared steps that are tried (40: all)")
    parser.add_argument("--out", type=Path, default=BUNDLED / "decoder" / "sensitivity.json")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = False  # changes down to a billionth of the largest are measured
    embeddings = embed_prompts(load_prior(device=device), parse_prompts(CALIBRATION), guidance=4.0)
    probe = {"samples": 2, "resolution": 4} if options.small else {"samples": 100, "resolution": options.resolution}
    began = time.monotonic()
    sensitivity = calibrate(
        load_decoder(device=device),
        embeddings,
        **SETTINGS,
        **probe,
        micro_batch=512,
        on_step=lambda k, x0: print(f"step {k + 1}, {len(x0)} rows, {time.monotonic() - began:.0f} s", flush=True),
    )
    sensitivity.settings.update({"model": "emoji-kandinsky (bundled)", "width": 128, "height": 128})
    write_sensitivity(sensitivity, options.out)
    print(f"{sensitivity.settings['rows']} UNet rows in {time.monotonic() - began:.0f} s; saved as {options.out}")


if __name__ == "__main__":
    main()
