"""The tables and the figure of quality.py, from its results."""

from math import log10

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

NAMES = {
    "standard": "standard, fewer steps",
    "paper": "paper (cosine, linear)",
    "linear": "chord, linear",
    "cosine": "chord, cosine",
    "power 2": "chord, power 2",
    "power 4": "chord, power 4",
    "calibrated": "chord, calibrated",
    "calibrated, node's defaults": "chord, calibrated (8 prompts, 12 intervals)",
    "calibrated, cosine": "cosine, calibrated",
}
# curve -> colour and line of the figure; Okabe and Ito's colours
DRAWN = {
    "standard": ("#5f6b7a", "--"),
    "paper": ("#d55e00", "-"),
    "linear": ("#e69f00", "-"),
    "power 4": ("#56b4e9", "-"),
    "calibrated": ("#0072b2", "-"),
}


def tables(results):
    """Markdown of all tables."""
    runs = [run for run in results["runs"] if run["prior_noise"] == "per prompt" and not run["rescale"]]
    head = (
        f"{results['machine']}; {results['sets']} sets, {results['prompts']} prompts, {results['seeds']} seeds, "
        f"{results['steps']} steps"
    )
    parts = [
        head,
        table(runs, "Squared pixel error × 1000 to full sampling", "mse", lambda v: spread(v, 1000, 3)),
        table(runs, "PSNR of the mean error, dB", "mse", psnr),
        table(runs, "FLIP error to full sampling × 100", "flip", lambda v: spread(v, 100, 2)),
        table(runs, "Squared pixel error / the paper's", "mse / paper", lambda v: spread(v, 1, 2)),
        table(runs, "Squared pixel error / chord, linear", "mse / linear", lambda v: spread(v, 1, 2)),
        table(runs, "CLIP similarity to the prompt's text", "clip_text", lambda v: f"{v[0]:.4f}"),
        table(runs, "CLIP similarity to the prior's embedding", "clip_prior", lambda v: f"{v[0]:.4f}"),
        table(runs, "Expected change of the latent", "expected", lambda v: f"{v[0]:.2g}"),
        table(runs, "Measured change of the latent", "latent", lambda v: f"{v[0]:.2g}"),
        *questions(results["runs"]),
    ]
    return "\n\n".join(parts)


def table(runs, title, key, cell):
    savings = sorted({run["saving"] for run in runs})
    lines = [f"**{title}**", "", "| saved | " + " | ".join(f"{saving:.0%}" for saving in savings) + " |"]
    lines.append("|---|" + "---|" * len(savings))
    for curve, name in NAMES.items():
        row = {run["saving"]: run for run in runs if run["curve"] == curve and key in run}
        cells = [cell(row[saving][key]) if saving in row else "" for saving in savings]
        if row:
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def questions(runs):
    """A table for each of the questions that the paper leaves open: ratios of errors, differences of similarity."""
    asked = {
        "Prior noise shared / per prompt": (
            "noise per prompt",
            lambda run: run["prior_noise"] == "shared" and not run["rescale"],
        ),
        "Chord / cosine": ("cosine metric", lambda run: run["prior_noise"] == "per prompt" and not run["rescale"]),
        "Mean embedding rescaled / as it is": (
            "mean as it is",
            lambda run: run["prior_noise"] == "per prompt" and run["rescale"],
        ),
    }
    for title, (rival, wanted) in asked.items():
        lines = [
            f"**{title}**",
            "",
            "| curve | saved | squared error, ratio | CLIP text similarity, difference × 1000 |",
            "|---|---|---|---|",
        ]
        for run in runs:
            if wanted(run) and f"mse / {rival}" in run and run["saving"] in (0.5, 0.7, 0.85):
                ratio, gain = run[f"mse / {rival}"], run[f"clip_text - {rival}"]
                lines.append(
                    f"| {NAMES[run['curve']]} | {run['saving']:.0%} | {spread(ratio, 1, 2)} | {spread(gain, 1000, 2)} |"
                )
        yield "\n".join(lines)


def spread(values, factor, digits):
    value, low, high = (f"{factor * v:.{digits}f}" for v in values)
    return f"{value} ({low}–{high})"


def psnr(values):
    return f"{-10 * log10(values[0]):.1f}" if values[0] > 0 else "∞"


def draw(results):
    """Distance to full sampling, and similarity to the prompt, against rows per picture: a PIL picture."""
    runs = [run for run in results["runs"] if run["prior_noise"] == "per prompt" and not run["rescale"]]
    figure = Figure((10, 4.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for curve, (colour, style) in DRAWN.items():
        points = sorted((run["rows"][0], run["flip"], run["clip_text"]) for run in runs if run["curve"] == curve)
        rows = [point[0] for point in points]
        look = {"color": colour, "linestyle": style, "marker": "o", "markersize": 4, "label": NAMES[curve]}
        for axes, column in ((left, 1), (right, 2)):
            value, low, high = zip(*(point[column] for point in points), strict=True)
            axes.plot(rows, value, **look)
            if axes is left:
                axes.fill_between(rows, low, high, color=colour, alpha=0.15, linewidth=0)
    left.set(xlabel="UNet rows per picture", ylabel="FLIP error to the picture of all steps", ylim=(0, None))
    right.set(xlabel="UNet rows per picture", ylabel="CLIP similarity to the prompt")
    for axes in left, right:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=9)
    figure.suptitle(
        f"{results['prompts']} prompts in {results['sets']} sets, {results['seeds']} seeds, {results['steps']} steps",
        fontsize=11,
    )
    figure.canvas.draw()
    size = figure.canvas.get_width_height()
    return Image.frombytes("RGBA", size, bytes(figure.canvas.buffer_rgba())).convert("RGB")
