"""The data of the training: the vocabulary, its captions, and pictures drawn from the installed packages."""

import json
import re
from collections import Counter

import emoji
import pytest
import torch
from conftest import REPO_ROOT
from emoji import (
    CAPTIONS,
    HELD_OUT,
    MARGIN,
    STYLE_WORDS,
    STYLES,
    EmojiSet,
    caption,
    captions,
    check_packages,
    find_names,
    held_out,
    load_emoji,
    load_names,
    svg,
)

from benchmarks.emoji_sets import CALIBRATION, SETS
from hierdiff_core.prompts.prompt_set import parse_prompts

FEW = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder, into which the packages are installed once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def few(folder):
    return load_emoji(folder, FEW)


@pytest.fixture(scope="module")
def entries(folder):
    return load_names(folder)


def without_pictures(entries):
    columns = [[entry[key] for entry in entries] for key in ("name", "subcategory", "keywords")]
    return EmojiSet(*columns, torch.zeros(0), torch.zeros(0))


def every_pair(names):
    return [(i, j) for i in range(len(names)) for j in range(len(STYLES))]


def used_prompts():
    """Prompts of the benchmarks' sets and of the shipped workflows that are in the model's words."""
    texts = [*SETS.values(), CALIBRATION]
    for path in sorted((REPO_ROOT / "workflows").glob("*.json")):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            texts += [value for value in node.get("widgets_values") or [] if isinstance(value, str)]
    prompts = {prompt for text in texts if " style" in text for prompt in parse_prompts(text)}
    return {prompt for prompt in prompts if prompt.endswith(tuple(f", {style} style" for style in STYLES))}


def test_vocabulary_is_that_of_the_bundled_model(entries):
    names = [entry["name"] for entry in entries]
    assert len(names) == len(set(names)) == 1066
    assert {"tiger face", "tiger", "waving hand sign", "aries", "rescue worker's helmet"} <= set(names)
    for absent in ("clock face one oclock", "man", "black right-pointing triangle", "rainbow flag"):
        assert absent not in names


def test_vocabulary_has_every_prompt_of_the_workflows_and_benchmarks(entries):
    known = {caption(entry["name"], style) for entry in entries for style in STYLES}
    used = used_prompts()
    assert len(used) > 400
    assert used <= known


def test_keywords_belong_to_one_emoji_only(entries):
    counts = Counter(word for entry in entries for word in {entry["name"], *entry["keywords"]})
    assert max(counts.values()) == 1
    assert "light bulb" in next(e["keywords"] for e in entries if e["name"] == "electric light bulb")


def test_captions_are_different_and_tell_emoji_and_style(entries):
    named = without_pictures(entries)
    found = Counter()
    for name, style in every_pair(named.names):
        texts = captions(named, name, style)
        assert len(set(texts)) == len(texts) == CAPTIONS
        assert texts[0] == caption(named.names[name], STYLES[style])
        for text in texts:
            assert any(word in text for word in (STYLES[style], *STYLE_WORDS[STYLES[style]]))
            assert any(word in text for word in (named.names[name], *named.keywords[name]))
        found.update(texts)
    assert max(found.values()) == 1  # no caption is of two pictures


def test_words_of_a_style_name_no_other_style():
    for style, words in STYLE_WORDS.items():
        others = [other for name, those in STYLE_WORDS.items() if name != style for other in (name, *those)]
        assert not {style, *words} & set(others)


def test_held_out_pairs_are_four_per_cent_and_fixed(entries):
    texts = [caption(entry["name"], style) for entry in entries for style in STYLES]
    held = [text for text in texts if held_out(text)]
    assert len(held) / len(texts) == pytest.approx(HELD_OUT, abs=0.006)
    assert held_out("ice cream, 3d style") == ("ice cream, 3d style" in held)
    per_name = Counter(text.split(", ")[0] for text in held)
    assert max(per_name.values()) < len(STYLES)  # each emoji is learned in some style


@pytest.mark.slow
def test_pictures_are_drawn_once_and_always_the_same(few, folder, tmp_path, monkeypatch):
    assert few.pictures.shape == (FEW, 5, 3, 128, 128)
    assert few.pictures.dtype == torch.uint8
    (tmp_path / "node_modules").symlink_to(folder / "node_modules")
    again = load_emoji(tmp_path, FEW)
    assert torch.equal(few.pictures, again.pictures)
    monkeypatch.setattr(emoji, "install", lambda folder: pytest.fail("the stored files are complete"))
    fewer = load_emoji(folder, FEW - 1)
    assert torch.equal(fewer.pictures, few.pictures[:-1])
    assert torch.equal(fewer.training, few.training[:-1])


def test_pictures_fill_the_middle_of_a_white_square(few):
    ink = few.pictures.amin(dim=2) < 200  # (N, 5, H, W)
    inside = slice(MARGIN, -MARGIN)
    assert (ink.float().mean(dim=(2, 3)) > 0.05).all()
    assert ink.sum() == ink[..., inside, inside].sum()
    place = torch.arange(128.0)
    for axis in (2, 3):
        profile = ink.float().sum(dim=axis)
        assert (((profile * place).sum(-1) / profile.sum(-1)) - 63.5).abs().max() < 25


def test_styles_and_emoji_differ(few):
    flat = few.pictures.flatten(0, 1).flatten(1).float() / 255
    distances = torch.cdist(flat, flat).square() / flat.shape[1]
    assert distances[~torch.eye(len(flat), dtype=torch.bool)].min() > 0.003
    line_art = few.pictures[:, STYLES.index("line art")].float()
    assert (line_art.amax(dim=1) - line_art.amin(dim=1)).max() == 0  # greys only


def test_a_tall_icon_is_drawn_whole_and_centred():
    icons = {"width": 32, "height": 32, "icons": {"tall": {"body": "<path/>", "width": 16, "height": 40}}}
    text = svg(icons, "tall")
    assert 'viewBox="-12 0 40 40"' in text
    assert text.endswith("<path/></svg>")


def test_another_licence_or_version_is_refused(tmp_path, folder, few):
    for source in (*emoji.SOURCES.values(), emoji.NAMES_SOURCE):
        package = tmp_path / "node_modules" / source.package
        package.mkdir(parents=True)
        for name in ("package.json", "info.json"):
            original = folder / "node_modules" / source.package / name
            if original.is_file():
                (package / name).write_bytes(original.read_bytes())
    check_packages(tmp_path)
    path = tmp_path / "node_modules" / "@iconify-json/noto" / "package.json"
    original = path.read_text(encoding="utf-8")
    for what, key, value in (("version", "version", "1.2.10"), ("licence", "license", "GPL-3.0")):
        path.write_text(json.dumps({**json.loads(original), key: value}), encoding="utf-8")
        with pytest.raises(ValueError, match=f"iconify-json/noto: its {what} is '{re.escape(value)}'"):
            check_packages(tmp_path)


def test_a_missing_npm_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="npm is not installed"):
        load_emoji(tmp_path, 1)


def emoji_of(name, unified, category="Objects", subcategory="tool", short_names=()):
    return {
        "name": name,
        "unified": unified,
        "non_qualified": None,
        "category": category,
        "subcategory": subcategory,
        "short_names": list(short_names),
    }


def test_names_need_one_icon_name_in_all_sets():
    data = [
        emoji_of("HAMMER", "1F528", short_names=["hammer", "beater", "tool2"]),
        emoji_of("AXE", "1FA93", short_names=["beater"]),
        emoji_of("PHOENIX", "1F426-FE0F"),
        emoji_of("CLOCK FACE TEN", "1F559", "Travel & Places", "time"),
        emoji_of("ARIES", "2648", "Symbols", "zodiac"),
        emoji_of("PLUS", "2795", "Symbols", "math"),
        emoji_of("COOK", "1F9D1", "People & Body", "person-role"),
        emoji_of("FIST", "270A", "People & Body", "hand-fingers-closed"),
    ]
    shared = {
        "1f528": "hammer",
        "1fa93": "axe",
        "2648": "aries",
        "2795": "plus",
        "1f9d1": "cook",
        "270a": "raised-fist",
    }
    codes = [{**shared, "1f559": "ten", "1f426": name} for name in ("phoenix", "phoenix-bird")]
    icons = [{"icons": dict.fromkeys(found.values())} for found in codes]
    entries = find_names(data, icons, codes)
    assert [entry["name"] for entry in entries] == ["hammer", "axe", "aries", "fist"]
    assert [entry["keywords"] for entry in entries] == [[], [], [], ["raised fist"]]  # "beater" could be two of them
    assert entries[-1]["icon"] == "raised-fist"


def test_limit_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="limit must be at least 1; got 0"):
        load_emoji(tmp_path, 0)
