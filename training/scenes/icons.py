"""Icons for the scenes: emoji of the five sets with transparent grounds, in one file.

The packages are those of the emoji model (training/emoji.py), with the versions and licences that are recorded there.
"""

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from emoji import STYLES, install, load_names, read_icon_sets, svg
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

FILE = "icons.safetensors"
SIZE, SUPERSAMPLING = 96, 2
SEPARATOR = "\n"
# subcategories whose emoji are things that can stand beside each other
KINDS = re.compile(
    "(animal|food|transport|household|music|musical|clothing|plant|tool|office|light|book|drink|sky)(-.*)?|game|sport"
)
NAME = re.compile("[a-z]{3,}( [a-z]{3,})?")
UNSAID = {"pistol", "dagger", "bikini", "briefs", "cooking", "motorway", "station", "wing", "seat", "microbe", "chains"}


@dataclass(frozen=True)
class Icons:
    """Emoji to make scenes of.

    Attributes
    ----------
    names : tuple of N str   all different, of one or two words
    pictures : (N, 5, 4, 96, 96) uint8 tensor   RGBA, styles in the order of `emoji.STYLES`
    """

    names: tuple
    pictures: torch.Tensor

    def first(self, count):
        """The first so many."""
        return Icons(self.names[:count], self.pictures[:count])


def choose(entries, count):
    """`count` entries with plain names, the same ones every time; no two share their last word, as tabby and cat do.

    Parameters
    ----------
    entries : list of dict   see `emoji.load_names`
    """
    usual = {entry["name"] for entry in entries}
    taken, chosen = set(), []
    for i in np.random.default_rng(0).permutation(len(entries)):
        entry = entries[i]
        words = entry["name"].split()
        plain = NAME.fullmatch(entry["name"]) and entry["name"] not in UNSAID and KINDS.fullmatch(entry["subcategory"])
        if not plain or words[-1] == "face" or f"{entry['name']} face" in usual or taken & set(words):
            continue
        taken |= set(words)
        chosen.append(i)
    return [entries[i] for i in sorted(chosen[:count])]


def draw(text):
    """(4, 96, 96) uint8 RGBA of an SVG."""
    import resvg_py

    side = SIZE * SUPERSAMPLING
    png = resvg_py.svg_to_bytes(svg_string=text, width=side, height=side, skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(png))) as large:
        return np.asarray(large.convert("RGBA").reduce(SUPERSAMPLING)).transpose(2, 0, 1)


def draw_all(data, path, count):
    """Draw `count` emoji in all styles from the packages in `data`, and write the file."""
    install(data)
    sets, _ = read_icon_sets(data)
    entries = choose(load_names(data), count)
    pictures = np.stack([np.stack([draw(svg(icons, entry["icon"])) for icons in sets]) for entry in entries])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    names = SEPARATOR.join(entry["name"] for entry in entries)
    save_file({"icons": torch.from_numpy(np.ascontiguousarray(pictures))}, partial, metadata={"names": names})
    partial.replace(path)


def load_icons(path, data, count):
    """The icons of a file, which is drawn where it is not there or has fewer.

    Parameters
    ----------
    path : path
    data : path   folder of the emoji packages
    count : int

    Returns
    -------
    icons : Icons
    """
    path = Path(path)
    if not path.is_file() or len(read_names(path)) < count:
        draw_all(data, path, count)
    with safe_open(path, "pt") as file:
        pictures = file.get_tensor("icons")
    assert pictures.shape[1:] == (len(STYLES), 4, SIZE, SIZE)
    return Icons(tuple(read_names(path)), pictures).first(count)


def read_names(path):
    with safe_open(path, "pt") as file:
        return file.metadata()["names"].split(SEPARATOR)
