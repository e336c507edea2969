"""The data: emoji of five openly licensed icon sets, rendered to pixels, with captions.

    python training/emoji.py [--folder DIR] [--limit N]

installs the packages that package.json names with npm, draws all pictures (minutes, once) and writes two files:
names.json, and pictures.safetensors with the pictures as lossless WebP. Where these are, npm and resvg are not needed.
"""

import argparse
import functools
import hashlib
import io
import json
import math
import multiprocessing
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

DEFAULT = Path(__file__).resolve().parent.parent / ".training" / "data"
PACKAGES = Path(__file__).resolve().parent / "package.json"
NAMES, PICTURES = "names.json", "pictures.safetensors"

SIZE, MARGIN, SUPERSAMPLING = 128, 4, 4
HELD_OUT = 0.04
CAPTIONS = 16


@dataclass(frozen=True)
class Source:
    """A package, and what it must say of itself; its version stands in package.json."""

    package: str
    author: str
    licence: str


# style -> where its pictures come from; the order is that of `EmojiSet.pictures`
SOURCES = {
    "noto": Source("@iconify-json/noto", "Google Inc", "Apache-2.0"),
    "twemoji": Source("@iconify-json/twemoji", "Twitter", "CC-BY-4.0"),
    "flat": Source("@iconify-json/fluent-emoji-flat", "Microsoft Corporation", "MIT"),
    "3d": Source("@iconify-json/fluent-emoji", "Microsoft Corporation", "MIT"),
    "line art": Source("@iconify-json/fluent-emoji-high-contrast", "Microsoft Corporation", "MIT"),
}
NAMES_SOURCE = Source("emoji-datasource", "Cal Henderson", "MIT")
STYLES = tuple(SOURCES)

# Other words for a style; each names one style only.
STYLE_WORDS = {
    "noto": ("google noto", "noto emoji", "google"),
    "twemoji": ("twitter twemoji", "twemoji emoji", "twitter"),
    "flat": ("fluent flat", "flat icon", "flat colour"),
    "3d": ("fluent 3d", "glossy 3d", "3d render"),
    "line art": ("black line art", "high contrast", "fluent line art"),
}

BODY = re.compile("body-parts|hands?(-.*)?")  # subcategories of "People & Body" that are not whole people
RUDE = {"fu", "shit"}
USEFUL = re.compile("(?=.*[a-z]{3})[a-z' ]+")  # of keywords: says something, and has no number


@dataclass(frozen=True)
class EmojiSet:
    """Pictures with their names.

    Attributes
    ----------
    names : list of N str               canonical names, all different: "tiger face"
    subcategories : list of N str       such as "animal-mammal"
    keywords : list of N lists of str   other names; none of them is another emoji's name or keyword
    pictures : (N, 5, 3, 128, 128) uint8 tensor   RGB on white, styles in the order of `STYLES`
    training : (N, 5) bool tensor       False for the pairs that are held out
    """

    names: list
    subcategories: list
    keywords: list
    pictures: torch.Tensor
    training: torch.Tensor


def load_emoji(folder=DEFAULT, limit=None):
    """The data; made in `folder` where it is not there yet.

    Parameters
    ----------
    folder : path
    limit : int >= 1, optional   the first so many names only

    Returns
    -------
    emoji : EmojiSet

    Raises
    ------
    ValueError    if `limit` is less than 1, or a package is not the one whose licence is recorded.
    RuntimeError  if npm is missing or fails.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1; got {limit}")
    folder = Path(folder)
    entries = load_names(folder)[:limit]
    if pictures_there(folder) < len(entries):
        draw_all(folder, entries)
    names = [entry["name"] for entry in entries]
    return EmojiSet(
        names,
        [entry["subcategory"] for entry in entries],
        [entry["keywords"] for entry in entries],
        read_pictures(folder, len(entries)),
        torch.tensor([[not held_out(caption(name, style)) for style in STYLES] for name in names]),
    )


def caption(name, style):
    """The canonical prompt of a picture."""
    return f"{name}, {style} style"


def captions(emoji, name, style):
    """Different texts for one picture; each tells the emoji and the style.

    Parameters
    ----------
    emoji : EmojiSet
    name, style : int   indices

    Returns
    -------
    texts : list of 16 str   all different, the first is the canonical one
    """
    subject, style = emoji.names[name], STYLES[style]
    kind = re.sub("[-&]| +", " ", emoji.subcategories[name])
    other, another, third = spread([*emoji.keywords[name], subject], 3)
    words = STYLE_WORDS[style]
    return [
        caption(subject, style),
        f"{subject}, {style}",
        f"{subject} in {style} style",
        f"a {style} style {subject}",
        f"{style} {subject}",
        f"{style} style, {subject}",
        f"drawing of {subject}, {style} style",
        f"{subject} emoji, {style} style",
        f"a {style} picture of {subject}",
        f"{subject}, {' '.join(kind.split())}, {style} style",
        f"{subject}, {words[0]}",
        f"{subject} in {words[1]} style",
        f"{words[2]} style {subject}",
        f"{other} icon, {style} style",
        f"{another} sticker in {style} style",
        f"the {third}, {words[0]} style",
    ]


def spread(items, count):
    """`count` items, from the start and again."""
    return [items[i % len(items)] for i in range(count)]


def held_out(text):
    """Whether a canonical prompt is held out from training: a fixed 4 % of all texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") < HELD_OUT * 2**32


def load_names(folder=DEFAULT):
    """The vocabulary, without any picture; packages are installed where names.json is missing or of another recipe.

    Returns
    -------
    entries : list of dict   name, subcategory, keywords, and the icon's name in the five sets
    """
    path = Path(folder) / NAMES
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["recipe"] == recipe():
            return stored["emoji"]
    install(folder)
    entries = find_names(read_json(folder, NAMES_SOURCE.package, "emoji.json"), *read_icon_sets(folder))
    path.write_text(json.dumps({"recipe": recipe(), "emoji": entries}, indent=1), encoding="utf-8")
    return entries


def recipe():
    """What the stored files depend on: packages and drawing."""
    versions = json.loads(PACKAGES.read_text(encoding="utf-8"))["dependencies"]
    return {"packages": versions, "size": SIZE, "margin": MARGIN, "supersampling": SUPERSAMPLING}


def install(folder):
    """Install the packages of package.json into `folder` with npm, and check them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not all(package_folder(folder, source).is_dir() for source in (*SOURCES.values(), NAMES_SOURCE)):
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError("npm is not installed; it fetches the emoji that the model is trained on (Node.js 18+)")
        shutil.copy(PACKAGES, folder / "package.json")
        options = ["--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run([npm, "install", *options], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"npm install failed in {folder}:\n{done.stderr.strip()[-2000:]}")
    check_packages(folder)


def package_folder(folder, source):
    return Path(folder) / "node_modules" / source.package


def check_packages(folder):
    """Raise `ValueError` where an installed package has another version, licence or author than is recorded."""
    versions = json.loads(PACKAGES.read_text(encoding="utf-8"))["dependencies"]
    for source in (*SOURCES.values(), NAMES_SOURCE):
        package = read_json(folder, source.package, "package.json")
        found = {"version": package["version"], "licence": package["license"]}
        recorded = {"version": versions[source.package], "licence": source.licence, "author": source.author}
        if source is NAMES_SOURCE:
            found["author"] = package["author"].split(" <")[0]
        else:
            info = read_json(folder, source.package, "info.json")
            found["author"] = info["author"]["name"]
            recorded["licence of the icons"], found["licence of the icons"] = source.licence, info["license"]["spdx"]
        for what, value in recorded.items():
            if found[what] != value:
                raise ValueError(
                    f"{source.package}: its {what} is {found[what]!r}, but {value!r} is recorded in training/; delete "
                    f"{Path(folder) / 'node_modules'}, or look into the licence and record it"
                )


def read_json(folder, package, name):
    return json.loads((Path(folder) / "node_modules" / package / name).read_text(encoding="utf-8"))


def read_icon_sets(folder):
    """icons : list of 5 icon sets in Iconify's format; codes : list of dicts, code points -> icon name, of each"""
    icons = [read_json(folder, source.package, "icons.json") for source in SOURCES.values()]
    codes = [read_json(folder, source.package, "chars.json") for source in SOURCES.values()]
    # The 3d set has no list of code points; its icons have the names of its flat sister.
    return icons, [found or codes[STYLES.index("flat")] for found in codes]


def find_names(data, icons, codes):
    """The vocabulary: emoji for which all five sets have an icon of the same name.

    Parameters
    ----------
    data : list of dict    emoji.json of emoji-datasource
    icons, codes : lists   see `read_icon_sets`

    Returns
    -------
    entries : list of dict   in the order of `data`

    Notes
    -----
    Left out: flags, clock faces, people (hands and parts of the body stay), symbols (the zodiac stays), skin tones.
    """
    entries = []
    for emoji in data:
        icon = wanted(emoji) and common_icon(emoji, icons, codes)
        if icon:
            name = emoji["name"].lower().replace("’", "'")
            words = [icon.replace("-", " "), *(plain(word) for word in emoji["short_names"])]
            entries.append({"name": name, "subcategory": emoji["subcategory"], "keywords": words, "icon": icon})
    keep_own_keywords(entries)
    return entries


def wanted(emoji):
    category, subcategory, name = emoji["category"], emoji["subcategory"], emoji["name"].lower()
    if category == "People & Body":
        return BODY.fullmatch(subcategory) is not None
    if category == "Symbols":
        return subcategory == "zodiac"
    return category not in ("Flags", "Component") and not name.startswith("clock face")


def common_icon(emoji, icons, codes):
    """Name of the icon that all sets have for an emoji's code points, or None; aliases do not count."""
    points = {emoji["unified"].lower(), (emoji["non_qualified"] or emoji["unified"]).lower()}
    points |= {"-".join(part for part in text.split("-") if part != "fe0f") for text in points}
    points |= {text.lstrip("0") for text in points}
    names = {found[text] for found in codes for text in points if text in found}
    return next((name for name in sorted(names) if all(name in found["icons"] for found in icons)), None)


def plain(word):
    return re.sub("[-_]", " ", word).strip()


def keep_own_keywords(entries):
    """Drop the keywords that another emoji has too, as name or keyword, and those that say nothing."""
    for entry in entries:
        words = dict.fromkeys(entry["keywords"])
        own = plain(entry["name"])
        entry["keywords"] = [w for w in words if w != own and w not in RUDE and USEFUL.fullmatch(w)]
    counts = Counter(word for entry in entries for word in entry["keywords"])
    counts.update(plain(entry["name"]) for entry in entries)
    for entry in entries:
        entry["keywords"] = [word for word in entry["keywords"] if counts[word] == 1]


def svg(icons, name):
    """A stand-alone SVG of one icon of a set in Iconify's format, on a square view box."""
    icon = icons["icons"][name]
    left, top, width, height = (
        icon.get(key, icons.get(key, usual)) for key, usual in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    side = max(width, height)
    box = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="{box}" width="{side:g}" height="{side:g}">{icon["body"]}</svg>'


def render(text):
    """Draw an SVG of `svg`: a 128 x 128 RGB picture on white."""
    import resvg_py

    drawn = (SIZE - 2 * MARGIN) * SUPERSAMPLING
    png = resvg_py.svg_to_bytes(
        svg_string=text, width=drawn, height=drawn, background="#ffffff", skip_system_fonts=True
    )
    picture = Image.new("RGB", (SIZE, SIZE), "white")
    with Image.open(io.BytesIO(png)) as large:
        picture.paste(large.convert("RGB").reduce(SUPERSAMPLING), (MARGIN, MARGIN))
    return picture


def to_webp(text):
    """The picture of an SVG as lossless WebP."""
    data = io.BytesIO()
    render(text).save(data, "WEBP", lossless=True, quality=100, method=4)
    return data.getvalue()


def draw_all(folder, entries):
    """Draw the five pictures of each entry and write the file of pictures."""
    install(folder)
    icons, _ = read_icon_sets(folder)
    texts = (svg(found, entry["icon"]) for entry in entries for found in icons)
    total = len(entries) * len(STYLES)
    progress = functools.partial(tqdm, total=total, desc="drawing", unit=" pictures", mininterval=5)
    workers = min(os.cpu_count() or 1, math.ceil(total / 250))  # a worker takes seconds to start
    if workers == 1:
        write_pictures(folder, list(progress(map(to_webp, texts))))
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        write_pictures(folder, list(progress(pool.imap(to_webp, texts, chunksize=10))))


def write_pictures(folder, files):
    """One file of many: their bytes end to end, and where each ends."""
    data = torch.from_numpy(np.frombuffer(b"".join(files), dtype=np.uint8).copy())
    ends = torch.tensor([len(file) for file in files]).cumsum(0)
    partial = Path(folder) / f"{PICTURES}.partial"
    save_file({"data": data, "ends": ends}, partial, metadata={"recipe": json.dumps(recipe())})
    partial.replace(Path(folder) / PICTURES)


def pictures_there(folder):
    """How many names the file of pictures covers; 0 if there is none of this recipe."""
    path = Path(folder) / PICTURES
    if not path.is_file():
        return 0
    with safe_open(path, "pt") as file:
        same = json.loads(file.metadata()["recipe"]) == recipe()
        return len(file.get_tensor("ends")) // len(STYLES) if same else 0


def read_pictures(folder, count):
    """(count, 5, 3, 128, 128) uint8 tensor of the first `count` names."""
    with safe_open(Path(folder) / PICTURES, "np") as file:
        data, ends = file.get_tensor("data"), file.get_tensor("ends")
    files = np.split(data, ends[:-1])[: count * len(STYLES)]

    def decoded(file):
        with Image.open(io.BytesIO(file.tobytes())) as picture:
            return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)

    pictures = np.empty((len(files), 3, SIZE, SIZE), dtype=np.uint8)
    with ThreadPoolExecutor() as pool:
        for i, picture in enumerate(pool.map(decoded, files)):
            pictures[i] = picture
    return torch.from_numpy(pictures).unflatten(0, (count, len(STYLES)))


def main():
    parser = argparse.ArgumentParser(description="Make the data that the bundled model is trained on.")
    parser.add_argument("--folder", type=Path, default=DEFAULT)
    parser.add_argument("--limit", type=int, help="the first so many names only")
    arguments = parser.parse_args()
    start = time.perf_counter()
    emoji = load_emoji(arguments.folder, arguments.limit)
    size = (arguments.folder / PICTURES).stat().st_size / 2**20
    print(
        f"{len(emoji.names)} names x {len(STYLES)} styles in {arguments.folder}: {size:.1f} MiB, "
        f"{(~emoji.training).sum()} pairs held out, {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
