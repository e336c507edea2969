"""How long a set takes as advised, and in full: side by side in one process, by turns.

    python benchmarks/advice_seconds.py ADVICE_JSON --model scenes [--sets 10] [--size 24] [--repeats 3]

ADVICE_JSON is advice as advice.py keeps it, in the folder beside its results. Drawing and decoding are timed, after a
first drawing of each that is not; the least time counts.
"""

import argparse
import time
from pathlib import Path

import torch
from judged_models import JUDGES, SCENES, Emoji, Scenes, device_of, emoji_sets, scene_judge, scene_sets

from hierdiff_core.measure.advice import read_advice
from hierdiff_core.plan.algebra import alone


def seconds_of(model, plans, cache):
    """Of one drawing."""
    synchronize = torch.cuda.synchronize if device_of() == "cuda" else bool
    synchronize()
    began = time.perf_counter()
    model.draw(plans, cache)
    synchronize()
    return time.perf_counter() - began


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("advice", type=Path)
    parser.add_argument("--model", default="scenes", choices=["emoji", "scenes"])
    parser.add_argument("--scenes", type=Path, default=SCENES, help="folder of the scene model")
    parser.add_argument("--scene-judge", type=Path, default=JUDGES / "scenes" / "judges" / "judge-202.safetensors")
    parser.add_argument("--sets", type=int, default=10)
    parser.add_argument("--size", type=int, default=24, help="prompts of each set")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    advice = read_advice(options.advice)
    if options.model == "emoji":
        model = Emoji(emoji_sets(options.sets, options.size))
    else:
        names = scene_judge(options.scene_judge, "cpu").names
        model = Scenes(scene_sets(options.sets, options.size, len(names)), names, folder=options.scenes)
    model.start(1000)
    steps = advice.full.way.steps
    trees = list(model.trees.values())
    ways = {
        "full": ([alone(tree.num_prompts, steps, tree.keys) for tree in trees], ""),
        "advised": ([advice.plan_for(tree) for tree in trees], advice.chosen.way.cache),
    }
    least = dict.fromkeys(ways, float("inf"))
    for turn in range(options.repeats + 1):
        for name, (plans, cache) in ways.items():
            took = seconds_of(model, plans, cache)
            least[name] = min(least[name], took) if turn else least[name]
    machine = torch.cuda.get_device_name() if device_of() == "cuda" else "CPU"
    print(f"{machine}, torch {torch.__version__}: {options.model}, {len(model.texts)} pictures")
    for name, took in least.items():
        print(f"{name}: {took:.2f} s")


if __name__ == "__main__":
    main()
