"""Shared steps and the host's step caches together: Hierarchical KSampler on the bundled model.

For each cache and threshold, without sharing and with: rows that the model really evaluated, and how far the pictures
are from those without sharing and without a cache, as the mean absolute difference of pixels in levels of 255.

    python benchmarks/caches.py [--gpu] [--small] [--sampler NAME]
"""

import argparse
import io
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from samplers import graph, node

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from comfyui_host import CPU_ARGS, ComfyServer

PROMPTS = "{cat face|tiger face|fox face|red apple|strawberry|fire engine}, {noto|flat} style"
CACHES = [(None, 0.0), *((cache, threshold) for cache in ("EasyCache", "LazyCache") for threshold in (0.1, 0.2, 0.4))]


def graph_with(cache, threshold, sampler, mode, value, prompts, steps):
    """Of `samplers.py`, with a cache before Hierarchical KSampler, which hands out its report."""
    made = graph(sampler, mode, value, prompts, steps)
    del made["share"]
    inputs = {**made["sample"]["inputs"], "model": ["model", 0], "plan": ["plan", 0], "micro_batch": 0}
    if cache:
        settings = {"reuse_threshold": threshold, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
        made["cache"] = node(cache, model=["model", 0], **settings)
        inputs["model"] = ["cache", 0]
    made["sample"] = node("HierDiffKSampler", **inputs)
    return made


def run(server, *settings):
    """Pictures, and rows that the model evaluated."""
    outputs = server.run(graph_with(*settings))["outputs"]
    refs = outputs["save"]["images"]
    pictures = [np.asarray(Image.open(io.BytesIO(server.view(ref))).convert("RGB")) for ref in refs]
    report = outputs["sample"]["text"][0]
    return np.stack(pictures).astype(float), int(re.search(r"model rows: (\d+)", report)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="let ComfyUI use the GPU")
    parser.add_argument("--small", action="store_true", help="one cache, few prompts and steps")
    parser.add_argument("--sampler", default="euler")
    options = parser.parse_args()
    prompts, steps = ("{cat face|red apple}, {noto|flat} style", 8) if options.small else (PROMPTS, 20)
    plans = [("tau", 0.0), ("saving", 0.3), ("saving", 0.6)]
    with ComfyServer(device_args=() if options.gpu else CPU_ARGS) as server:
        reference = None
        print(
            "| cache | not shared: rows | from neither | 30 % saved: rows | from neither | 60 % saved: rows | from neither |"
        )
        print("|---|---|---|---|---|---|---|")
        for cache, threshold in CACHES[:2] if options.small else CACHES:
            cells = [f"{cache}, threshold {threshold}" if cache else "none"]
            for mode, value in plans:
                pictures, rows = run(server, cache, threshold, options.sampler, mode, value, prompts, steps)
                reference = pictures if reference is None else reference
                cells += [str(rows), f"{abs(pictures - reference).mean():.1f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
