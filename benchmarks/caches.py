"""Shared steps and the host's step caches together: Hierarchical KSampler on the bundled model.

For each cache and threshold, without sharing and with: rows that the model really evaluated, and how far the pictures
are from those without sharing and without a cache, as the mean absolute difference of pixels in levels of 255.

    python benchmarks/caches.py [--gpu] [--small] [--sampler NAME] [--only CACHE ...]
                                [--saving SHARE ...] [--end PERCENT]
"""

import argparse
import functools
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
THRESHOLDS = (0.1, 0.2, 0.4)


def graph_with(cache, threshold, end, sampler, mode, value, prompts, steps):
    """That of `samplers.py`, with a cache before Hierarchical KSampler, which hands out its report."""
    made = graph(sampler, mode, value, prompts, steps)
    del made["share"]
    inputs = {**made["sample"]["inputs"], "model": ["model", 0], "plan": ["plan", 0], "micro_batch": 0}
    if threshold:
        settings = {"reuse_threshold": threshold, "start_percent": 0.15, "end_percent": end, "verbose": False}
        made["cache"] = node(cache, model=["model", 0], **settings)
        inputs["model"] = ["cache", 0]
    made["sample"] = node("HierDiffKSampler", **inputs)
    return made


@functools.cache
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
    parser.add_argument("--small", action="store_true", help="few prompts and steps, one threshold")
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--only", nargs="+", default=["none", "EasyCache", "LazyCache"], metavar="CACHE")
    parser.add_argument("--end", type=float, default=0.95, metavar="PERCENT", help="where the caches stop, 0 to 1")
    parser.add_argument("--saving", nargs="+", type=float, default=[0.3, 0.6], metavar="SHARE", help="of the rows")
    options = parser.parse_args()
    prompts, steps = ("{cat face|red apple}, {noto|flat} style", 8) if options.small else (PROMPTS, 20)
    plans = [("tau", 0.0), *(("saving", saving) for saving in options.saving)]
    thresholds = THRESHOLDS[1:2] if options.small else THRESHOLDS
    caches = [(name, threshold) for name in options.only for threshold in (thresholds if name != "none" else (None,))]
    with ComfyServer(device_args=() if options.gpu else CPU_ARGS) as server:
        reference, _ = run(server, "none", None, options.end, options.sampler, *plans[0], prompts, steps)
        columns = ["not shared", *(f"{saving * 100:.0f} % saved" for saving in options.saving)]
        print("| cache | " + " | ".join(f"{column}: rows | difference" for column in columns) + " |")
        print("|---" * (1 + 2 * len(columns)) + "|")
        for cache, threshold in caches:
            cells = [f"{cache}, threshold {threshold}" if threshold else cache]
            for plan in plans:
                pictures, rows = run(server, cache, threshold, options.end, options.sampler, *plan, prompts, steps)
                cells += [str(rows), f"{abs(pictures - reference).mean():.1f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
