"""How much sharing changes the pictures of each of the host's samplers: KSampler behind Share Steps, the bundled model.

For every sampler: the pictures of a shared run against those of the same sampler without sharing (tau = 0), as the mean
absolute difference of pixels in levels of 255, and beside it how far the unshared pictures are from those of euler.

    python benchmarks/samplers.py [--gpu] [--small] [--only SAMPLER ...]
"""

import argparse
import io
import itertools
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from comfyui_host import CPU_ARGS, ComfyServer

RUNS = itertools.count()
BUNDLED = "emoji-kandinsky (bundled)"
PROMPTS = "{cat face|tiger face|fox face|red apple|strawberry|fire engine}, {noto|twemoji|flat|3d} style"


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def graph(sampler, mode, value, prompts, steps):
    return {
        "set": node("HierDiffPromptSet", text=prompts),
        "load_prior": node("HierDiffPriorLoader", model=BUNDLED, precision="fp32"),
        "embed": node(
            "HierDiffPriorEmbedding",
            prior=["load_prior", 0],
            prompts=["set", 0],
            negative_prompt="",
            steps=25,
            guidance=4.0,
            seed=0,
            noise="per prompt",
        ),
        "link": node("HierDiffWardLinkage", embeddings=["embed", 0], metric="cosine"),
        "plan": node(
            "HierDiffThresholdSchedule", linkage=["link", 0], steps=steps, mode=mode, value=value, private_steps=1
        ),
        "load": node("HierDiffDecoderLoader", model=BUNDLED, precision="fp32"),
        "model": node("HierDiffKandinskyModel", decoder=["load", 0], embeddings=["embed", 0]),
        "empty": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "share": node("HierDiffShareSteps", model=["model", 0], plan=["plan", 0], micro_batch=0),
        "sample": node(
            "KSampler",
            model=["share", 0],
            positive=["model", 1],
            negative=["model", 2],
            latent_image=["empty", 0],
            seed=0,
            steps=steps,
            cfg=3.0,
            sampler_name=sampler,
            scheduler="normal",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 1]),
        # a new name each time: the host leaves nodes that it finds in its cache out of the answer
        "save": node("SaveImage", images=["decode", 0], filename_prefix=f"run{next(RUNS)}"),
    }


def pictures(server, *settings):
    refs = server.run(graph(*settings))["outputs"]["save"]["images"]
    return np.stack([np.asarray(Image.open(io.BytesIO(server.view(ref))).convert("RGB")) for ref in refs]).astype(float)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="let ComfyUI use the GPU")
    parser.add_argument("--small", action="store_true", help="two samplers, few prompts and steps")
    parser.add_argument("--only", nargs="+", metavar="SAMPLER", help="these samplers instead of all")
    options = parser.parse_args()
    prompts, steps = ("{cat face|red apple}, {noto|flat} style", 8) if options.small else (PROMPTS, 40)
    with ComfyServer(device_args=() if options.gpu else CPU_ARGS) as server:
        names = server.object_info()["HierDiffKSampler"]["input"]["required"]["sampler_name"][1]["options"]
        names = ["euler", "dpmpp_2m"] if options.small else [name for name in names if name != "dpm_adaptive"]
        names = options.only or names
        reference = pictures(server, "euler", "tau", 0.0, prompts, steps)
        print("| sampler | unshared, from euler | 30 % saved, from unshared | 60 % saved, from unshared |")
        print("|---|---|---|---|")
        for name in names:
            alone = pictures(server, name, "tau", 0.0, prompts, steps)
            shared = [pictures(server, name, "saving", saving, prompts, steps) for saving in (0.3, 0.6)]
            cells = [abs(alone - reference).mean(), *(abs(picture - alone).mean() for picture in shared)]
            print(f"| `{name}` | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
