"""How well the measures without a judge follow a judge: adherence at each noise level, detail, squared distance.

On both bundled models, over ways of drawing of all kinds: fewer steps, trunks, shared steps, less guidance, more of it
after splits, and together. All sets are drawn at once.

    python benchmarks/adherence.py [--small] [--models emoji scenes] [--sets 10] [--size 24] [--seeds 2] [--minutes 3]
                                   [--emoji-judge FOLDER] [--scene-judge FILE] [--scenes FOLDER] [--out adherence.json]
    python benchmarks/adherence.py --report adherence.json

Results are saved as they come. The emoji's judge is made by training/judge.py, those of the scenes by
training/train_scenes.py; a model whose judge is missing is left out.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from judged_models import (
    JUDGES,
    SCENES,
    Emoji,
    Scenes,
    device_of,
    emoji_judge,
    emoji_sets,
    scene_judge,
    scene_sets,
    slices,
)

from hierdiff_core import Budget, GuidanceCourse, Profile, build_plan, plan_for
from hierdiff_core.files.whole_files import replace as replace_file
from hierdiff_core.measure.adherence import LEVELS
from hierdiff_core.measure.detail import detail_loss, fidelity_loss
from hierdiff_core.plan.algebra import alone

ASKED = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
POWER = 4.0
VISIBLE, ALLOWED = 0.02, 0.03  # of judged pictures that are lost; of a measure's loss that is none
FULL = "full sampling"
LEAST_WAYS = 3  # of which a correlation says anything


@dataclass(frozen=True)
class Way:
    """One way of drawing: a row of the tables. Numbers are shares of the model's own steps, or of a run's rows."""

    means: str
    steps: float = 1.0
    trunk: float = 0.0
    saving: float = 0.0
    power: float = POWER
    course: dict = field(default_factory=dict)

    @property
    def name(self):
        shared = f"{self.saving:.0%} saved, {'line' if self.power == 1 else f'power {self.power:g}'}"
        boost = f"guidance × {self.course.get('boost', 1):g} for {self.course.get('boost_share', 0):.0%} after a split"
        parts = [
            (self.steps < 1, f"{self.steps:.3g} of the steps"),
            (self.trunk > 0, f"trunk {self.trunk:.0%}"),
            (self.saving > 0, shared),
            ("end" in self.course, f"guidance in {self.course.get('end', 1):.0%}"),
            ("boost" in self.course, boost),
        ]
        return ", ".join(text for there, text in parts if there) or FULL

    def plan(self, tree, full_steps):
        """The plan of a set's tree."""
        steps = max(2, round(self.steps * full_steps))
        if self.saving:
            profile = Profile(steps, "power", power=self.power)
            plan = plan_for(tree, Budget("saving", self.saving, clamp=True), profile)
        elif self.trunk:
            shared = min(steps - 1, round(self.trunk * steps))
            plan = build_plan(tree.Z, [float(tree.Z[-1, 2])] * shared + [0.0] * (steps - shared), tree.keys)
        else:
            plan = alone(tree.num_prompts, steps, tree.keys)
        return replace(plan, guidance=self.guidance(steps))

    def guidance(self, steps):
        course = dict(self.course)
        if "boost_share" in course:
            course["boost_steps"] = max(1, round(course.pop("boost_share") * steps))
        return GuidanceCourse(**course)


def ways():
    """All of them; the first is full sampling."""
    boost = {"boost": 2.0, "boost_share": 0.15}
    return [
        Way(FULL),
        *(Way("fewer steps", steps=share) for share in (0.7, 0.5, 0.35, 0.25, 0.175, 0.125)),
        *(Way("trunk", trunk=share) for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)),
        *(Way("shared steps", saving=share, power=1.0) for share in (0.3, 0.5, 0.7)),
        *(Way("shared steps", saving=share) for share in (0.5, 0.7, 0.8, 0.87)),
        *(Way("less guidance", course={"end": end}) for end in (0.8, 0.6, 0.4, 0.2)),
        *(Way("more after splits", trunk=share, course=boost) for share in (0.3, 0.4)),
        Way("more after splits", saving=0.8, course=boost),
        Way("together", steps=0.5, trunk=0.2, course={"end": 0.6}),
        Way("together", steps=0.3, trunk=0.2, course={"end": 0.6}),
        Way("together", steps=0.5, saving=0.6, course={"end": 0.6}),
        Way("together", steps=0.7, saving=0.8, course={"end": 0.5}),
    ]


def small_ways():
    wanted = ("0.25 of the steps", "trunk 50%", "80% saved, power 4", "guidance in 40%")
    return [way for way in ways() if way.name in (FULL, *wanted)]


# --- measuring -------------------------------------------------------------------------------------------------------


def measured(model, way, full):
    """Rows of a way, one for each set; and what was drawn."""
    plans = [way.plan(tree, model.steps) for tree in model.trees.values()]
    drawn = model.draw(plans)
    shares = model.adherence(drawn.latents, ASKED)
    right, parts = model.right(drawn.pictures)
    full = full or drawn
    rows = []
    for name, here, plan in zip(model.trees, slices(model), plans, strict=True):
        rows.append(
            {
                "model": model.name,
                "way": way.name,
                "means": way.means,
                "set": name,
                "seed": model.seed,
                "passes": plan.guidance.passes(plan) / plan.num_prompts,
                "adherence": shares[:, here].mean(axis=1).tolist(),
                "detail": float(detail_loss(drawn.pictures[here], full.pictures[here]).mean()),
                "fidelity": float(fidelity_loss(drawn.latents[here], full.latents[here]).mean()),
                "right": float(right[here].mean()),
                "parts": float(parts[here].mean()),
                "pictures": int(here.stop - here.start),
            }
        )
    return rows, drawn


def models(options):
    """Those that can be judged."""
    if "emoji" in options.models and (judge := emoji_judge(options.emoji_judge, device_of())) is not None:
        yield Emoji(emoji_sets(options.sets, options.size), judge, same_noise=True)
    if "scenes" in options.models and (judge := scene_judge(options.scene_judge, device_of())) is not None:
        yield Scenes(scene_sets(options.sets, options.size, len(judge.names)), judge.names, judge, options.scenes)


def measure_all(options):
    """Yield all results after each way."""
    torch.backends.cudnn.allow_tf32 = False
    machine = torch.cuda.get_device_name() if device_of() == "cuda" else "CPU"
    results = {"machine": f"{machine}, torch {torch.__version__}", "levels": ASKED, "seconds": {}, "rows": []}
    for model in models(options):
        began = time.monotonic()
        for seed in range(options.seeds):
            model.start(1000 + seed)
            full = None
            for way in small_ways() if options.small else ways():
                if time.monotonic() - began > 60 * options.minutes:
                    break
                rows, drawn = measured(model, way, full)
                full = full or drawn
                results["rows"] += rows
                results["seconds"][model.name] = time.monotonic() - began
                right = np.mean([row["right"] for row in rows])
                print(f"{model.name}, seed {seed}: {way.name}: {right:.3f} right", file=sys.stderr, flush=True)
                yield results


# --- what they say ---------------------------------------------------------------------------------------------------


class Cells:
    """Results of one model: for each way arrays over (set, seed).

    Parameters
    ----------
    rows : list of dict
    levels : L float
    """

    def __init__(self, rows, levels):
        seeds = sorted({row["seed"] for row in rows})
        by_way = {}
        for row in rows:
            by_way.setdefault(row["way"], {})[row["set"], row["seed"]] = row
        # of the seeds, those with all ways
        index = {cell for cell in by_way[FULL] if all(cell in found for found in by_way.values())}
        if not index:
            index = set(by_way[FULL]) & {(s, seeds[0]) for s, _ in by_way[FULL]}
            by_way = {way: found for way, found in by_way.items() if index <= set(found)}
        self.index = sorted(index)
        self.ways = {way: [found[cell] for cell in self.index] for way, found in by_way.items()}
        self.levels = list(levels)
        self.default = [self.levels.index(level) for level in LEVELS]

    def column(self, way, key):
        return np.array([row[key] for row in self.ways[way]])

    def adherence(self, way, places):
        return self.column(way, "adherence")[:, places].mean(axis=1)

    def losses(self, measure, way, draws):
        """(D,) loss of a way by a measure, over cells that were drawn: (D, cells) indices."""
        if measure == "judge":
            return (self.column(FULL, "right") - self.column(way, "right"))[draws].mean(axis=-1)
        if measure in ("detail", "fidelity"):
            return self.column(way, measure)[draws].mean(axis=-1)
        if measure == "both":
            return np.maximum(self.losses("adherence", way, draws), self.losses("detail", way, draws))
        places = self.default if measure == "adherence" else [self.levels.index(float(measure.split()[-1]))]
        mine, theirs = self.adherence(way, places)[draws], self.adherence(FULL, places)[draws]
        return 1 - mine.mean(axis=-1) / theirs.mean(axis=-1)


def ranks(values):
    """(…, n) -> ranks, ties averaged."""
    from scipy.stats import rankdata

    return rankdata(values, axis=-1)


def correlation(a, b):
    """(D, n), (D, n) -> (D,)"""
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    return (a * b).sum(axis=-1) / np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1)).clip(1e-12)


def follow(cells):
    """How each measure follows the judge over all ways: measure -> {name of a figure: [value, low, high]}."""
    from quality import bootstrap_draws, interval

    others = [way for way in cells.ways if way != FULL]
    if len(others) < LEAST_WAYS:
        return {}
    draws = bootstrap_draws(cells.index)
    everything = np.arange(len(cells.index))[None]
    measures = ["adherence", *(f"level {level:g}" for level in cells.levels), "detail", "both", "fidelity"]

    def all_ways(measure, chosen):
        return np.stack([cells.losses(measure, way, chosen) for way in others], axis=-1)

    judged, drawn = all_ways("judge", everything), all_ways("judge", draws)
    found = {}
    for measure in measures:
        mine, mine_drawn = all_ways(measure, everything), all_ways(measure, draws)
        found[measure] = {
            "rank": interval(correlation(ranks(mine), ranks(judged))[0], correlation(ranks(mine_drawn), ranks(drawn))),
            "straight": interval(correlation(mine, judged)[0], correlation(mine_drawn, drawn)),
            "missed": int(((judged > VISIBLE) & (mine <= ALLOWED)).sum()),
            "false alarms": int(((judged <= VISIBLE) & (mine > ALLOWED)).sum()),
        }
    return found


def report(results):
    """Markdown: how each measure follows, and a row for each way."""
    parts = [results["machine"]]
    for name in dict.fromkeys(row["model"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["model"] == name]
        cells = Cells(rows, results["levels"])
        pictures = sum(row["pictures"] for row in cells.ways[FULL])
        parts += [
            f"**{name}**: {len(cells.index)} sets and seeds, {pictures} pictures of each way, "
            f"{len(cells.ways) - 1} ways, {results['seconds'][name]:.0f} s",
            following_table(follow(cells)),
            ways_table(cells),
        ]
    return "\n\n".join(parts)


def following_table(found):
    lines = [
        "| measure | rank correlation with the judge | straight | losses missed | false alarms |",
        "|---|---|---|---|---|",
    ]
    for measure, figures in found.items():
        rank, straight = (
            f"{v:.2f} ({low:.2f} … {high:.2f})" for v, low, high in (figures["rank"], figures["straight"])
        )
        lines.append(f"| {measure} | {rank} | {straight} | {figures['missed']} | {figures['false alarms']} |")
    return "\n".join(lines)


def ways_table(cells):
    lines = ["| way | passes | right | parts right | adherence | detail | fidelity |", "|---|---|---|---|---|---|---|"]
    everything = np.arange(len(cells.index))
    for way in cells.ways:
        losses = [f"{100 * cells.losses(m, way, everything):.1f}" for m in ("adherence", "detail", "fidelity")]
        means = [cells.column(way, key).mean() for key in ("passes", "right", "parts")]
        lines.append(f"| {way} | {means[0]:.1f} | {means[1]:.3f} | {means[2]:.3f} | " + " | ".join(losses) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="two sets of 6, five ways, one seed: for a CPU")
    parser.add_argument("--models", nargs="+", default=["emoji", "scenes"], choices=["emoji", "scenes"])
    parser.add_argument("--sets", type=int)
    parser.add_argument("--size", type=int, help="prompts of a set; 24 by default")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--minutes", type=float, default=3.0, help="for each model; what is done then is reported")
    parser.add_argument("--emoji-judge", type=Path, default=JUDGES / "run" / "judge")
    parser.add_argument("--scene-judge", type=Path, default=JUDGES / "scenes" / "judges" / "judge-202.safetensors")
    parser.add_argument("--scenes", type=Path, default=SCENES, help="folder of the scene model")
    parser.add_argument("--out", type=Path, default=Path("adherence.json"))
    parser.add_argument("--report", type=Path, metavar="JSON", help="only print the tables again")
    options = parser.parse_args()
    for name, usual, small in (("sets", 10, 2), ("size", 24, 6), ("seeds", 2, 1)):
        setattr(options, name, getattr(options, name) or (small if options.small else usual))
    if device_of() == "cpu":
        torch.set_num_threads(1)  # a row at a time, of small networks: more only wait for each other
    if options.report:
        print(report(json.loads(options.report.read_text(encoding="utf-8"))))
        return
    results = None
    for results in measure_all(options):
        replace_file(options.out, (json.dumps(results) + "\n").encode())
    if results is None:
        sys.exit("nothing was measured")
    print(report(results))


if __name__ == "__main__":
    main()
