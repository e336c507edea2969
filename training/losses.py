"""What a training took: a table of its stages, and a picture of their losses.

python training/losses.py [--out RUN] [--picture FILE]
"""

import argparse
import json
from pathlib import Path

from loop import LOG, is_finished
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from stage import RUN

# stage -> the figures that its table shows, and those of its curves
STAGES = {
    "clip_pair": (("contrast", "rebuilt", "style", "subcategory"), ("contrast", "rebuilt")),
    "movq": (("l1", "l2", "edges", "perceptual"), ("l1", "edges", "perceptual")),
    "prior": (("guided", "rollout", "unconditional"), ("guided", "rollout", "unconditional")),
    "unet": (("noise", "weighted", "divergence"), ("noise", "weighted", "divergence")),
}


def read_log(folder):
    """What a stage has logged: a list of dicts, with "step" and "seconds" in each."""
    return [json.loads(line) for line in (Path(folder) / LOG).read_text(encoding="utf-8").splitlines()]


def curve(rows, figure):
    """Seconds and values of a figure, where it was logged."""
    found = [row for row in rows if figure in row]
    return [row["seconds"] for row in found], [row[figure] for row in found]


def table(logs):
    """Markdown: seconds, steps and last losses of each stage.

    Parameters
    ----------
    logs : dict   stage -> rows of its log
    """
    lines = ["| stage | s | of these before the second step | steps | steps / s at the end | losses at the end |"]
    lines.append("|---|---|---|---|---|---|")
    for stage, rows in logs.items():
        last = [row for row in rows if "steps_per_second" in row][-1]
        losses = ", ".join(f"{name} {last[name]:.3g}" for name in STAGES[stage][0])
        first = rows[0]["seconds"] if rows[0]["step"] <= 2 else 0
        cells = f"{last['seconds']:.0f}", f"{first:.0f}", last["step"], f"{last['steps_per_second']:.0f}", losses
        lines.append(f"| {stage} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def picture(logs):
    """The losses of all stages over their seconds, logarithmic: a matplotlib Figure."""
    figure = Figure((10, 6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (stage, rows) in zip(figure.subplots(2, 2).flat, logs.items(), strict=True):
        for name in STAGES[stage][1]:
            axes.plot(*curve(rows, name), label=name, linewidth=1.5)
        axes.set(title=stage, yscale="log", xlabel="seconds")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RUN, help="folder of the run (.training/run)")
    parser.add_argument("--picture", type=Path, help="file for the curves (losses.webp in the run)")
    options = parser.parse_args()
    missing = [stage for stage in STAGES if not is_finished(options.out / stage)]
    if missing:
        parser.error(f"{options.out} has not finished {', '.join(missing)}; train first: python training/train.py")
    logs = {stage: read_log(options.out / stage) for stage in STAGES}
    picture(logs).savefig(options.picture or options.out / "losses.webp")
    print(table(logs))


if __name__ == "__main__":
    main()
