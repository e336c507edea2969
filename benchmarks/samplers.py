"""How much sharing changes the pictures of each of the host's samplers: KSampler behind Share Steps, the bundled model.

For every sampler and schedule: the pictures of a shared run against those of the same sampler without sharing (tau =
0), as the mean absolute difference of pixels in levels of 255, and beside it how far the unshared pictures are from
those of euler: a sampler that does not suit a schedule is far from it on its own.

    python benchmarks/samplers.py [--gpu] [--small] [--only SAMPLER ...] [--schedulers normal karras] [--savings 0.6]
                                  [--metric chord] [--shape power] [--power 4] [--out samplers.json]

Each row is saved as it comes; a second run with the same settings goes on where the first ended.
"""

import argparse
import io
import itertools
import json
import sys
import time
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


def graph(sampler, scheduler, mode, value, settings):
    profile = {key: settings[key] for key in ("steps", "shape", "power")}
    return {
        "set": node("HierDiffPromptSet", text=settings["prompts"]),
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
        "link": node("HierDiffWardLinkage", embeddings=["embed", 0], metric=settings["metric"]),
        "plan": node(
            "HierDiffThresholdSchedule", linkage=["link", 0], mode=mode, value=value, private_steps=1, **profile
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
            steps=settings["steps"],
            cfg=3.0,
            sampler_name=sampler,
            scheduler=scheduler,
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 1]),
        # a new name each time: the host leaves nodes that it finds in its cache out of the answer
        "save": node("SaveImage", images=["decode", 0], filename_prefix=f"run{next(RUNS)}"),
    }


def pictures(server, *args):
    refs = server.run(graph(*args))["outputs"]["save"]["images"]
    return np.stack([np.asarray(Image.open(io.BytesIO(server.view(ref))).convert("RGB")) for ref in refs]).astype(float)


def measured(server, sampler, scheduler, euler, settings):
    """A row of the table: distances, and seconds of all runs."""
    began = time.perf_counter()
    alone = pictures(server, sampler, scheduler, "tau", 0.0, settings)
    shared = [pictures(server, sampler, scheduler, "saving", saving, settings) for saving in settings["savings"]]
    return {
        "from euler": abs(alone - euler).mean(),
        "from unshared": [abs(picture - alone).mean() for picture in shared],
        "seconds": time.perf_counter() - began,
    }


def printed(rows, settings):
    """The rows as a table, with the columns of each schedule."""
    schedulers = settings["schedulers"]
    titles = [
        f"{scheduler}: {what}"
        for scheduler in schedulers
        for what in ("unshared, from euler", *(f"{saving:.0%} saved, from unshared" for saving in settings["savings"]))
    ]
    yield f"| sampler | {' | '.join(titles)} | seconds |"
    yield "|" + "---|" * (len(titles) + 2)
    for name in dict.fromkeys(key.split()[0] for key in rows):
        own = [rows.get(f"{name} {scheduler}") for scheduler in schedulers]
        cells = [f"{cell:.1f}" for row in own if row for cell in (row["from euler"], *row["from unshared"])]
        cells += [""] * (len(titles) - len(cells))
        yield f"| `{name}` | {' | '.join(cells)} | {sum(row['seconds'] for row in own if row):.0f} |"


def saved_rows(path, settings):
    """What an earlier run with the same settings has measured."""
    if not path.exists():
        return {}
    saved = json.loads(path.read_text(encoding="utf-8"))
    if saved["settings"] != settings:
        raise SystemExit(f"{path} holds rows of other settings: name another file with --out, or delete it")
    return saved["rows"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="let ComfyUI use the GPU")
    parser.add_argument("--small", action="store_true", help="two samplers, few prompts and steps")
    parser.add_argument("--only", nargs="+", metavar="SAMPLER", help="these samplers instead of all")
    parser.add_argument("--schedulers", nargs="+", default=["normal", "karras"])
    parser.add_argument("--savings", nargs="+", type=float, default=[0.6])
    parser.add_argument("--metric", default="chord")
    parser.add_argument("--shape", default="power")
    parser.add_argument("--power", type=float, default=4.0)
    parser.add_argument("--out", type=Path, default=Path("samplers.json"), help="rows, saved as they come")
    given = vars(parser.parse_args())
    gpu, small, only, out = (given.pop(name) for name in ("gpu", "small", "only", "out"))
    prompts, steps = ("{cat face|red apple}, {noto|flat} style", 8) if small else (PROMPTS, 40)
    settings = {**given, "prompts": prompts, "steps": steps, "gpu": gpu}
    rows = saved_rows(out, settings)
    with ComfyServer(device_args=() if gpu else CPU_ARGS) as server:
        names = server.object_info()["HierDiffKSampler"]["input"]["required"]["sampler_name"][1]["options"]
        names = ["euler", "dpmpp_2m"] if small else [name for name in names if name != "dpm_adaptive"]
        for scheduler in settings["schedulers"]:
            left = [name for name in only or names if f"{name} {scheduler}" not in rows]
            euler = left and pictures(server, "euler", scheduler, "tau", 0.0, settings)
            for name in left:
                rows[f"{name} {scheduler}"] = measured(server, name, scheduler, euler, settings)
                out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1), encoding="utf-8")
                print(name, scheduler, rows[f"{name} {scheduler}"], flush=True)
    print(*printed(rows, settings), sep="\n")


if __name__ == "__main__":
    main()
