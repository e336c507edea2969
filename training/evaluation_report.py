"""What evaluate.py has found, as Markdown, JSON and sheets of pictures."""

import json
import platform

import torch
from emoji import STYLES
from PIL import Image, ImageDraw

from hierdiff_core.pictures.fonts import choose_font, wrap

COLUMNS = {
    "identity": ("emoji", "{:.3f}"),
    "style": ("style", "{:.3f}"),
    "both": ("both", "{:.3f}"),
    "sharpness": ("sharpness", "{:.3f}"),
    "psnr": ("PSNR, dB", "{:.1f}"),
    "coverage": ("coverage", "{:.3f}"),
    "rows": ("UNet rows", "{:.1f}"),
}
PRIOR_COLUMNS = {
    "cosine": "cosine",
    "nearest": "nearest",
    "cosine held out": "cosine, held out",
    "nearest held out": "nearest, held out",
}
SHEET_ROWS, SET_COLUMNS = 16, 16
LABEL, GAP, LETTERS = 200, 4, 15  # pixels


def write_report(out, results, device):
    """Write everything into the folder `out`.

    Parameters
    ----------
    out : Path
    results : list of (figures, pictures)   of each model, from `evaluate.evaluate`
    device : torch.device

    Returns
    -------
    text : str   the Markdown
    """
    figures = [figures for figures, _ in results]
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    text = markdown(figures, machine)
    (out / "evaluation.md").write_text(text + "\n", encoding="utf-8")
    document = {"machine": machine, "torch": torch.__version__, "models": figures}
    (out / "evaluation.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for number, (_, pictures) in enumerate(results):
        for name, sheet in sheets(pictures).items():
            sheet.save(out / f"{name}{'-against' if number else ''}.webp", quality=85, method=6)
    return text


def markdown(models, machine):
    """The tables; with two models each cell says both, the first one first."""
    names = " / ".join(f"**{model['model']}** ({model['size']:.1f} MiB)" for model in models)
    guidances = " / ".join(f"{model['prior guidance']:g}" for model in models)
    count = next(iter(models[0]["rows"].values()))["pictures"]
    return "\n".join(
        [
            f"{names}; {count} prompts; {machine}. Decoder guidance 4; sets are drawn with prior guidance {guidances}.",
            "",
            *rows_table(models),
            "",
            "| prior guidance | " + " | ".join(PRIOR_COLUMNS.values()) + " |",
            "|---|" + "---|" * len(PRIOR_COLUMNS),
            *[
                f"| {guidance} | {' | '.join(cells([m['prior'][guidance] for m in models], PRIOR_COLUMNS, '{:.3f}'))} |"
                for guidance in models[0]["prior"]
            ],
        ]
    )


def rows_table(models):
    lines = ["| pictures | " + " | ".join(title for title, _ in COLUMNS.values()) + " |"]
    lines.append("|---|" + "---|" * len(COLUMNS))
    for name in models[0]["rows"]:
        rows = [model["rows"][name] for model in models]
        found = [cells(rows, [key], form)[0] for key, (_, form) in COLUMNS.items()]
        lines.append(f"| {name} | {' | '.join(found)} |")
    return lines


def cells(rows, keys, form):
    """One text for each key: the values of all rows, once if they are the same."""
    found = []
    for key in keys:
        values = [row.get(key) for row in rows]
        texts = [form.format(value) if value is not None else "" for value in values]
        found.append(texts[0] if len(set(texts)) == 1 else " / ".join(texts))
    return found


def sheets(pictures):
    """Sheets of pictures by name: emoji that were sampled, emoji with a held-out style, and a set drawn in all ways."""
    found = {}
    sampled = next((name for name in pictures if "prior guidance 4" in name), None)
    if sampled:
        pairs, drawn = pictures[sampled]
        names = pairs.names.unique()
        held = pairs.names[pairs.held_out].unique()
        found["sheet"] = styles_sheet(pairs, drawn, evenly(names, SHEET_ROWS))
        if len(held):
            found["sheet-held-out"] = styles_sheet(pairs, drawn, evenly(held, SHEET_ROWS))
    sets = {name: value for name, value in pictures.items() if name.startswith("sets")}
    if sets:
        found["sheet-sets"] = ways_sheet(sets)
    return found


def evenly(items, count):
    """At most `count` of the items, as far apart as can be."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def styles_sheet(pairs, drawn, names):
    """A row for each name, and for each style the real picture beside the drawn one; held-out ones are framed."""
    place = {index: row for row, index in enumerate(pairs.index.tolist())}
    real, held, size = pairs.pictures, pairs.held_out, drawn.shape[-1]
    width = 2 * size + 2 * GAP
    sheet = Image.new("RGB", (LABEL + len(STYLES) * width, len(names) * (size + GAP)), "white")
    for r, name in enumerate(names):
        y = r * (size + GAP)
        write_label(sheet, pairs.emoji.names[name], y + size // 2)
        for s in range(len(STYLES)):
            row = place.get(int(name) * len(STYLES) + s)
            if row is None:
                continue
            x = LABEL + s * width
            for k, picture in enumerate((real[row], drawn[row])):
                sheet.paste(to_image(picture), (x + k * size, y))
            if held[row]:
                ImageDraw.Draw(sheet).rectangle((x, y, x + 2 * size - 1, y + size - 1), outline="#d55e00", width=3)
    return sheet


def ways_sheet(ways):
    """A row for each way of drawing, the real pictures first, and a column for each of some prompts."""
    pairs, first = next(iter(ways.values()))
    columns = evenly(torch.arange(len(pairs.index)), SET_COLUMNS)
    rows = {
        "real pictures": pairs.pictures,
        **{name.removeprefix("sets, "): drawn for name, (_, drawn) in ways.items()},
    }
    size = first.shape[-1]
    sheet = Image.new("RGB", (LABEL + len(columns) * (size + GAP), len(rows) * (size + GAP)), "white")
    for r, (name, pictures) in enumerate(rows.items()):
        write_label(sheet, name, r * (size + GAP) + size // 2)
        for c, column in enumerate(columns):
            sheet.paste(to_image(pictures[column]), (LABEL + c * (size + GAP), r * (size + GAP)))
    return sheet


def write_label(sheet, text, y):
    face, text = choose_font(text, LETTERS)
    lines = wrap(text, face, LABEL - 2 * GAP, 3)
    for i, line in enumerate(lines):
        face.draw(ImageDraw.Draw(sheet), GAP, y + (i - (len(lines) - 1) / 2) * 1.3 * LETTERS, line)


def to_image(picture):
    """(3, H, W) uint8 tensor -> PIL.Image.Image"""
    return Image.fromarray(picture.permute(1, 2, 0).numpy())
