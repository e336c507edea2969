"""The judge and the evaluation: the mathematics of the table, on pictures made by hand, and a judge that learns."""

import json

import numpy as np
import pytest
import torch
from config import Optimisation
from emoji import STYLES, EmojiSet, caption
from evaluate import Pairs, choose_pairs, choose_sets, closeness, coverage, measure, summary
from evaluation_report import markdown, rows_table, sheets
from judge import Augmentation, Judge, judged, load_judge, save_judge, train_judge

CPU = torch.device("cpu")


def blocks(num_names=4, subcategories=None):
    """Emoji that are a bright quarter of the picture, in a colour for each style; the last pair is held out."""
    pictures = torch.full((num_names, len(STYLES), 3, 128, 128), 255, dtype=torch.uint8)
    for name in range(num_names):
        for style in range(len(STYLES)):
            y, x = 64 * (name // 2 % 2), 64 * (name % 2)
            colour = torch.tensor([50 * style, 255 - 60 * style, 20], dtype=torch.uint8)
            pictures[name, style, :, y : y + 64, x : x + 64] = colour.view(3, 1, 1)
    training = torch.ones(num_names, len(STYLES), dtype=torch.bool)
    training[-1, -1] = False
    names = [f"block {i}" for i in range(num_names)]
    return EmojiSet(names, subcategories or ["block"] * num_names, [[] for _ in names], pictures, training)


class Perfect(torch.nn.Module):
    """Knows what is asked next."""

    def __init__(self, names, styles):
        super().__init__()
        self.still = torch.nn.Parameter(torch.zeros(1))
        self.answers = torch.nn.functional.one_hot(names).float(), torch.nn.functional.one_hot(styles, 5).float()

    def forward(self, pictures):
        return self.answers


def test_real_pictures_are_right_sharp_and_covered():
    emoji = blocks()
    pairs = choose_pairs(emoji)
    measured = measure(Perfect(pairs.names, pairs.styles), pairs, pairs.pictures.float() / 255)
    figures = summary(pairs, measured)
    assert [figures[key] for key in ("identity", "style", "both", "sharpness", "coverage")] == [1.0] * 5
    assert figures["psnr"] is None  # infinite


def test_a_wrong_style_is_no_wrong_emoji():
    pairs = choose_pairs(blocks())
    measured = measure(Perfect(pairs.names, (pairs.styles + 1) % 5), pairs, pairs.pictures.float() / 255)
    assert measured["identity"].mean() == 1
    assert measured["style"].sum() == measured["both"].sum() == 0


def test_coverage_asks_for_four_styles_of_all_emoji():
    pairs = choose_pairs(blocks())
    both = torch.ones(4, 5)
    both[0, 2] = 0  # four right
    both[1, :2] = 0  # three
    assert coverage(pairs, both.flatten()) == 0.75
    assert coverage(choose_pairs(pairs.emoji, 7), torch.ones(7)) is None


def test_blur_lowers_sharpness_and_noise_raises_it():
    real = blocks().pictures.flatten(0, 1)[:3].float() / 255
    blurred = torch.nn.functional.avg_pool2d(real, 9, 1, 4, count_include_pad=False)
    noisy = real + 0.1 * torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    assert (closeness(blurred, real)[0] < 0.9).all()
    assert (closeness(noisy, real)[0] > 1.1).all()
    assert closeness(real + 0.1, real)[1].numpy() == pytest.approx(20, abs=1e-3)  # 10 log10(1 / 0.1**2)


def test_chosen_pairs_are_the_same_every_time_and_mixed():
    emoji = blocks(40)
    pairs = choose_pairs(emoji, 30)
    assert torch.equal(pairs.index, choose_pairs(emoji, 30).index)
    assert len(set(pairs.index.tolist())) == 30
    assert len(set(pairs.styles.tolist())) == 5
    assert pairs.prompts[0] == caption(emoji.names[pairs.names[0]], STYLES[pairs.styles[0]])
    assert not pairs.complete
    assert choose_pairs(emoji).complete


def test_sets_hold_two_kinds_of_emoji_in_all_styles():
    emoji = blocks(120, [f"kind {i // 6}" for i in range(120)])
    sets = choose_sets(emoji)
    assert [len(part.index) for part in sets] == [40] * 8
    assert len(set(torch.cat([part.index for part in sets]).tolist())) == 320
    for part in sets:
        assert len({emoji.subcategories[name] for name in part.names.tolist()}) == 2
    assert [len(part.index) for part in choose_sets(emoji, 80)] == [40, 40]
    assert [len(part.index) for part in choose_sets(emoji, 10)] == [10]


def test_augmented_pictures_differ_and_stay_pictures():
    pictures = blocks().pictures.flatten(0, 1)
    changed = Augmentation(torch.Generator().manual_seed(0))(pictures)
    again = Augmentation(torch.Generator().manual_seed(0))(pictures)
    assert torch.equal(changed, again)
    assert changed.min() >= 0
    assert changed.max() <= 1
    errors = (changed - pictures.float() / 255).square().mean(dim=(1, 2, 3))
    assert (errors > 0).all()
    assert errors.median() < 0.1


@pytest.mark.slow
def test_judge_learns_and_is_read_back(tmp_path):
    emoji = blocks(2)
    torch.manual_seed(0)
    optimisation = Optimisation(batch=10, learning_rate=2e-3, warm_up=3, ema=0.8, compile=False, max_steps=20)
    judge = train_judge(emoji, CPU, 5, tmp_path, optimisation)
    pictures = emoji.pictures.flatten(0, 1)
    names, styles = judged(judge, pictures)
    truth = torch.arange(len(pictures))
    assert (names == truth // 5).float().mean() > 0.8
    assert (styles == truth % 5).float().mean() > 0.4
    save_judge(judge, tmp_path)
    read = load_judge(tmp_path)
    assert read.names == emoji.names
    for ours, theirs in zip(judge(pictures[:4]), read(pictures[:4]), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)  # kept in float16


def test_a_missing_judge_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no judge in .*training/judge\.py"):
        load_judge(tmp_path)


def test_judge_takes_bytes_and_floats_alike():
    judge = Judge(["one", "two"]).eval()
    pictures = blocks().pictures.flatten(0, 1)[:3]
    for ours, theirs in zip(judge(pictures), judge(pictures.float() / 255), strict=True):
        torch.testing.assert_close(ours, theirs)


def figures_of(model, identity):
    row = {"identity": identity, "style": 1.0, "both": identity, "sharpness": 0.9, "psnr": 21.0, "coverage": None}
    prior = {"4": {"cosine": identity, "nearest": 0.5}}
    rows = {"40 steps": {**row, "rows": 40, "pictures": 20}}
    return {"model": model, "size": 20.4, "prior guidance": 4.0, "prior": prior, "rows": rows}


def test_tables_put_two_models_side_by_side():
    models = [figures_of("new", 0.99), figures_of("old", 0.9)]
    assert rows_table(models)[-1] == "| 40 steps | 0.990 / 0.900 | 1.000 | 0.990 / 0.900 | 0.900 | 21.0 |  | 40.0 |"
    text = markdown(models, "a machine")
    assert "**new** (20.4 MiB) / **old** (20.4 MiB); 20 prompts; a machine." in text
    assert "| 4 | 0.990 / 0.900 | 0.500 |  |  |" in text
    json.dumps(models, allow_nan=False)


def test_sheets_show_real_and_drawn_pictures():
    pairs = choose_pairs(blocks())
    drawn = 255 - pairs.pictures
    part = Pairs(pairs.emoji, pairs.index[:10])
    found = sheets({"40 steps, prior guidance 4": (pairs, drawn), "sets, 40 steps": (part, drawn[:10])})
    assert set(found) == {"sheet", "sheet-held-out", "sheet-sets"}
    assert found["sheet"].height > 3 * found["sheet-held-out"].height
    pixels = np.asarray(found["sheet-sets"])
    assert (pixels[5, -7] == pairs.pictures[9, :, 5, 125].numpy()).all()  # the last column's real picture
    assert (pixels[132 + 5, -7] == drawn[9, :, 5, 125].numpy()).all()
