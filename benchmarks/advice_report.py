"""The tables and the figure of advice.py, from the lines of its file."""

from collections import defaultdict

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from quality import bootstrap_draws, interval

FULL, ADVISED = "full sampling", "advised"
LOSSLESS, BUDGET = "no visible loss", "rows per picture"
CACHES = "with step caches"
# what was to be reached: model, goal -> share of the passes at most
WANTED = {("emoji", ""): 0.25, ("scenes", ""): 0.55, ("scenes", CACHES): 0.40}
MOST_WRONG = 2
COLOURS = {
    ADVISED: ("#0072b2", "-"),
    "fewer steps": ("#5f6b7a", "--"),
    "guidance only at first": ("#009e73", ":"),
    "first steps shared by all": ("#e69f00", "-"),
    "shared steps, straight line": ("#d55e00", "-"),
    "shared steps, power 4": ("#cc79a7", "-"),
}


class Cells:
    """Lines of one model about unseen sets: (goal, way) -> arrays over sets and seeds.

    Parameters
    ----------
    rows : list of dict
    """

    def __init__(self, rows):
        found = defaultdict(dict)
        for row in rows:
            if row["kind"] == "unseen":
                found[row["goal"], row["way"]][row["set"], row["seed"]] = row
        full = found[FULL, FULL]
        # the seeds that are whole, so that all ways are of the same pictures; where none is, those that have begun
        seeds = {row["seed"] for row in rows if row["kind"] == "drawn"} or {seed for _, seed in full}
        full = {cell: row for cell, row in full.items() if cell[1] in seeds}
        found = {key: own for key, own in found.items() if full.keys() <= own.keys()}
        self.index = sorted(full)
        self.found = {key: [cells[cell] for cell in self.index] for key, cells in found.items()}
        self.draws = bootstrap_draws(self.index) if self.index else None

    @property
    def goals(self):
        return list(dict.fromkeys(goal for goal, _ in self.found if goal != FULL))

    def ways(self, goal):
        return [way for own, way in self.found if own == goal]

    def column(self, goal, way, key):
        return np.array([row[key] for row in self.found[goal, way]])

    def mean(self, goal, way, key):
        return float(self.column(goal, way, key).mean())

    def difference(self, key, one, other):
        """one - other, with its interval"""
        values = self.column(*one, key) - self.column(*other, key)
        return interval(values.mean(), values[self.draws].mean(axis=1))

    def lost(self, goal, way):
        """Share of full sampling's adherence that is lost, with its interval."""
        mine, full = self.column(goal, way, "adherence"), self.column(FULL, FULL, "adherence")
        ratios = 1 - mine[self.draws].mean(axis=1) / full[self.draws].mean(axis=1)
        return interval(1 - mine.mean() / full.mean(), ratios)


def models_of(rows):
    """name -> Cells, of the models with a whole seed."""
    unseen = [row for row in rows if row["kind"] in ("unseen", "drawn")]
    found = {
        name: Cells([row for row in unseen if row["model"] == name])
        for name in ("emoji", "scenes")
        if any(row["model"] == name and row.get("way") == FULL for row in unseen)
    }
    return {name: cells for name, cells in found.items() if cells.index}


def report(rows):
    """Markdown."""
    models = models_of(rows)
    parts = [" / ".join(dict.fromkeys(row["machine"] for row in rows if row["kind"] == "machine"))]
    parts += [lossless_table(models), budgets_table(models), cases_table(rows), sentences(rows)]
    failed = [row for row in rows if row["kind"] == "failed"]
    parts += [f"failed: {row['task']}: {row['error']}" for row in failed]
    return "\n\n".join(part for part in parts if part)


def lossless_table(models):
    lines = [
        "**Advised, no visible loss, on sets that calibration never saw**",
        "",
        "| model | goal | sets × seeds | passes | of full | wanted | right, full | right, advised | difference | "
        "adherence lost | detail lost |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, cells in models.items():
        for goal in (goal for goal in cells.goals if goal.startswith(LOSSLESS)):
            passes, full = cells.mean(goal, ADVISED, "passes"), cells.mean(FULL, FULL, "passes")
            right = [cells.mean(FULL, FULL, "right"), cells.mean(goal, ADVISED, "right")]
            wanted = WANTED.get((name, CACHES if CACHES in goal else ""))
            lines.append(
                f"| {name} | {goal} | {len(cells.index)} | {passes:.1f} of {full:.0f} | {passes / full:.1%} | "
                f"≤ {wanted:.0%} | {right[0]:.3f} | {right[1]:.3f} | "
                f"{points(cells.difference('right', (goal, ADVISED), (FULL, FULL)))} | "
                f"{points(cells.lost(goal, ADVISED))} | {100 * cells.mean(goal, ADVISED, 'detail'):.1f} |"
            )
    return "\n".join(lines) if len(lines) > 4 else ""


def points(values):
    """Shares with their interval, in per cent."""
    value, low, high = (f"{100 * v:+.1f}" for v in values)
    return f"{value} ({low} … {high})"


def best_single(cells, goal, key):
    """The single means that is best at this budget."""
    ways = [way for way in cells.ways(goal) if way != ADVISED]
    return max(ways, key=lambda way: cells.mean(goal, way, key)) if ways else None


def against_best(cells, goal, key):
    """(best single means, difference of the advised way to it with its interval), by a figure."""
    best = best_single(cells, goal, key)
    return None if best is None else (best, cells.difference(key, (goal, ADVISED), (goal, best)))


def budgets_table(models):
    lines = [
        "**At equal passes, against the best single means**: differences in points; an interval that lies below 0 is a "
        "defeat",
        "",
        "| model | passes | right, advised | best single means by the judge | its right | difference | "
        "best by adherence | difference of adherence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, cells in models.items():
        verdicts = defaultdict(list)
        for goal in (goal for goal in cells.goals if goal.startswith(BUDGET)):
            judged, adhered = (against_best(cells, goal, key) for key in ("right", "adherence"))
            if judged is None:
                continue
            for key, found in (("judge", judged), ("adherence", adhered)):
                verdicts[key].append(found[1])
            lines.append(
                f"| {name} | {cells.mean(goal, ADVISED, 'passes'):.1f} | {cells.mean(goal, ADVISED, 'right'):.3f} | "
                f"{judged[0]} | {cells.mean(goal, judged[0], 'right'):.3f} | {points(judged[1])} | {adhered[0]} | "
                f"{points(adhered[1])} |"
            )
        for key, found in verdicts.items():
            below, above = sum(high < 0 for _, _, high in found), sum(low > 0 for _, low, _ in found)
            lines.append(f"| {name}, by {key} | above at {above} of {len(found)}, below at {below} | | | | | | |")
    return "\n".join(lines) if len(lines) > 4 else ""


def cases_table(rows):
    """Random cases: how many lost more than was promised."""
    cases = {row["number"]: row for row in rows if row["kind"] == "case"}.values()
    if not cases:
        return ""
    lines = [
        "**Random cases of a set, a sampler and a strength of guidance**",
        "",
        "| model | cases | advice that saves | passes of full, mean | promised, mean | lost, mean | lost more than "
        "promised | … by more than its standard error | judged loss, mean and largest |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["model"] for row in cases):
        own = [row for row in cases if row["model"] == name]
        lost = [max(row["losses"].values()) for row in own]
        wrong = [row for row, loss in zip(own, lost, strict=True) if loss > row["promised"]]
        surely = [
            row for row in wrong if any(row["losses"][k] - row["errors"][k] > row["promised"] for k in row["losses"])
        ]
        judged = [100 * (row["right"]["full"] - row["right"]["advised"]) for row in own]
        lines.append(
            f"| {name} | {len(own)} | {sum(row['met'] for row in own)} | {np.mean([r['passes'] for r in own]):.1%} | "
            f"{np.mean([row['promised'] for row in own]):.1f} | {np.mean(lost):.1f} | {len(wrong)} | {len(surely)} | "
            f"{np.mean(judged):.1f}, {max(judged):.1f} |"
        )
    wrong = [row for row in cases if max(row["losses"].values()) > row["promised"]]
    lines += ["", f"{len(wrong)} of {len(cases)} in all; {MOST_WRONG} of 40 were allowed."]
    lines += [f"- {told(row)}" for row in wrong]
    return "\n".join(lines)


def surely_lost(row):
    """The largest loss less its standard error."""
    return max(loss - row["errors"][name] for name, loss in row["losses"].items())


def told(row):
    """A case of wrong advice."""
    settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
    losses = ", ".join(f"{key} {value:.1f} ± {row['errors'][key]:.1f}" for key, value in row["losses"].items())
    right = f"right {row['right']['full']:.2f} → {row['right']['advised']:.2f}"
    return f"{row['model']}, {row['set']}, {settings}: promised {row['promised']:.1f}, lost {losses}; {right}"


def sentences(rows):
    """What the advice said."""
    advice = {(row["model"], row["goal"]): row for row in rows if row["kind"] == "advice"}
    lines = [
        f"- {model}, {goal} ({row['seconds']:.0f} s, promised {row['promised']:.1f} %, {row['verdict']}): "
        f"{' '.join(row['sentences'])}"
        for (model, goal), row in advice.items()
    ]
    return "\n".join(["**What it said**", "", *lines]) if lines else ""


def figure(rows):
    """Judged pictures and adherence against passes: advised, and each single means. A PIL picture."""
    models = models_of(rows)
    drawing = Figure((10, 4.6 * max(1, len(models))), dpi=100, layout="constrained")
    FigureCanvasAgg(drawing)
    grid = drawing.subplots(max(1, len(models)), 2, squeeze=False)
    for axes, (name, cells) in zip(grid, models.items(), strict=False):
        for side, (key, label) in zip(axes, (("right", "pictures all right"), ("adherence", "adherence")), strict=True):
            draw_ways(side, cells, key)
            side.axhline(cells.mean(FULL, FULL, key), color="#999999", linewidth=1)
            side.set(xlabel="passes per picture", ylabel=f"{name}: {label}")
            side.grid(alpha=0.3)
            side.spines[["top", "right"]].set_visible(False)
        axes[0].legend(frameon=False, fontsize=9)
    drawing.canvas.draw()
    size = drawing.canvas.get_width_height()
    return Image.frombytes("RGBA", size, bytes(drawing.canvas.buffer_rgba())).convert("RGB")


def draw_ways(axes, cells, key):
    """A curve for each way over the budgets."""
    goals = [goal for goal in cells.goals if goal.startswith(BUDGET)]
    for way, (colour, style) in COLOURS.items():
        points = sorted(
            (cells.mean(goal, way, "passes"), cells.mean(goal, way, key))
            for goal in goals
            if (goal, way) in cells.found
        )
        if points:
            width = 2.4 if way == ADVISED else 1.4
            axes.plot(
                *zip(*points, strict=True), color=colour, linestyle=style, marker="o", markersize=4, label=way, lw=width
            )
