"""The scenes' data and mathematics: captions, pictures, latents, judges and samplers, on what is made by hand."""

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from emoji import STYLES
from scenes.captions import (
    ABOVE,
    COLOURS,
    EQUAL,
    FRONT,
    LARGER,
    LEFT,
    PARTS,
    SMALLER,
    Scene,
    Writer,
    canonical,
    held_out_pairs,
    random_scenes,
    trained_pairs,
    with_article,
)
from scenes.config import FULL, LATENT, LATENT_CHANNELS, SMOKE
from scenes.denoiser import Batches, Gallery, empty_ids
from scenes.emoji_table import emoji_markdown, nearest, noise_level, small_pictures, trunk_plan
from scenes.evaluate import accuracy, early_table, negatives_table, quality_table
from scenes.icons import KINDS, choose
from scenes.judge import SceneJudge, all_right, judged, load_judge, save_judge
from scenes.render import GROUNDS, LARGE, NORMAL, SMALL, Renderer
from scenes.sampling import adherence, draw, starting_noise
from scenes.stage import completed
from scenes.text import to_full_length
from scenes.tokens import LONGEST, Reader, keep_tokenizer, write_captions
from scenes.vae import LOG_VARIANCE, encode, fold_latents, make_vae, parts_counts

CPU = torch.device("cpu")
NAMES = ("cat", "red apple", "owl", "glasses", "cactus", "tea cup")


def scene(relation=LEFT, size=EQUAL):
    return Scene(STYLES.index("flat"), 0, 1, relation, size, COLOURS.index("orange"))


def test_plain_captions_tell_everything():
    assert canonical(scene(), NAMES) == "a cat to the left of a red apple, flat style, on an orange background"
    assert canonical(scene(ABOVE, LARGER), NAMES).startswith("a big cat above a small red apple, ")
    assert canonical(scene(FRONT, SMALLER), NAMES).startswith("a cat in front of a red apple, ")


def test_articles():
    assert [with_article(name) for name in NAMES[2:5]] == ["an owl", "glasses", "a cactus"]


def test_held_out_pairs_are_few_the_same_both_ways_and_never_in_training():
    pairs = held_out_pairs(128)
    assert (pairs == pairs.T).all()
    assert 0.03 < pairs.mean() < 0.05
    scenes = random_scenes(np.random.default_rng(0), 5000, trained_pairs(128))
    assert not pairs[scenes[:, 1], scenes[:, 2]].any()
    assert (scenes[:, 1] != scenes[:, 2]).all()
    for column, count in enumerate(parts_counts(128)):
        assert set(scenes[:, column]) == set(range(count))
    assert (scenes[scenes[:, 3] == FRONT, 4] == SMALLER).all()


@pytest.mark.parametrize("relation", [LEFT, ABOVE, FRONT])
def test_captions_of_all_words_tell_the_same_order(relation):
    """Whichever is named first: `cat` is left of, above or in front of `red apple`."""
    first_words = {
        LEFT: "left",
        ABOVE: "above|over|on top|at the top",
        FRONT: "in front|before",
    }[relation]
    size = SMALLER if relation == FRONT else EQUAL
    writer, seen = Writer(NAMES, 0), Counter()
    for _ in range(600):
        text = writer.related(scene(relation, size))
        cat_first = text.index("cat") < text.index("apple")
        says_first = re.search(first_words, text) is not None
        places = "," in text and " it " not in text
        of_the_last = " it " in text
        if places:  # each has its own word
            where = {name: part for part in text.split(", ") for name in ("cat", "apple") if name in part}
            assert re.search(first_words, where["cat"])
            assert not re.search(first_words, where["apple"])
        else:
            assert says_first == (cat_first != of_the_last), text
        seen[(cat_first, places, of_the_last)] += 1
    assert len(seen) == 6  # every way, from both sides


def test_captions_tell_what_they_say_they_tell():
    writer = Writer(NAMES, 1)
    lengths = set()
    for _ in range(500):
        text, told = writer.caption(scene())
        found = ("flat" in text, "cat" in text, "apple" in text, None, None, "orange" in text)
        assert len(told) == len(PARTS)
        assert [a for a in found if a is not None] == [told[i] for i in (0, 1, 2, 5)], text
        assert not re.search(r"\ba (orange|owl)\b|  |, ,|,$", text), text
        lengths.add(len(text.split()))
    assert {0, 1, 2} <= lengths  # down to a word
    assert max(lengths) > 12


def test_sizes_are_told_where_the_objects_are_related():
    writer = Writer(NAMES, 2)
    for _ in range(100):
        assert not re.search("small|little|tiny|big|large|huge", writer.related(scene()))
        text = writer.related(scene(ABOVE, SMALLER))
        assert re.search("(small|little|tiny) cat|(big|large|huge) red apple", text), text


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return keep_tokenizer(NAMES, tmp_path_factory.mktemp("tokens") / "tokenizer")


def test_words_are_looked_up_as_the_tokenizer_reads_them(tokenizer):
    reader, writer = Reader(tokenizer), Writer(NAMES, 3)
    for row in random_scenes(np.random.default_rng(1), 300, trained_pairs(len(NAMES))).tolist():
        text, _ = writer.caption(Scene(*row))
        assert reader.ids(text) == tokenizer(text).input_ids
    assert tokenizer.decode(tokenizer("zażółć 🙂").input_ids, skip_special_tokens=True) == "zażółć 🙂"
    assert tokenizer.model_max_length == 77


def test_written_captions_are_of_their_scenes(tokenizer):
    scenes, tokens, told = write_captions(NAMES, tokenizer, 50, 3, seed=4)
    assert tokens.shape == (50, 3, LONGEST)
    assert told.shape == (50, 3, 6)
    for row, ids, parts in zip(scenes.tolist(), tokens[:, 0], told[:, 0], strict=True):
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert (NAMES[row[1]] in text) == parts[1]
        assert (NAMES[row[2]] in text) == parts[2]
    full = to_full_length(torch.from_numpy(tokens[:, 0]), tokenizer.eos_token_id)
    again = tokenizer(tokenizer.decode(full[0], skip_special_tokens=True), padding="max_length").input_ids
    assert full[0].tolist() == again


def squares():
    """Two icons in all styles: a red square and a blue one, both as large as the icon."""
    icons = torch.zeros(2, len(STYLES), 4, 96, 96, dtype=torch.uint8)
    icons[:, :, 3] = 255
    icons[0, :, 0], icons[1, :, 2] = 255, 255
    return icons


def drawn_squares(relation, size, count=64, colour=0):
    rows = torch.tensor([[2, 0, 1, relation, size, colour]]).expand(count, -1)
    return Renderer(squares(), CPU, torch.Generator().manual_seed(0))(rows)


def found_squares(pictures):
    """Share of the width and centre (x, y) of the red and of the blue square."""
    red = (pictures[:, 0] > 0.5) & (pictures[:, 1] < -0.5) & (pictures[:, 2] < -0.5)
    blue = (pictures[:, 2] > 0.5) & (pictures[:, 0] < -0.5) & (pictures[:, 1] < -0.5)
    line = torch.linspace(-1, 1, 128)
    return [
        (
            mask.float().sum((1, 2)).sqrt() / 128,
            torch.stack([(mask * line).sum((1, 2)), (mask * line[:, None]).sum((1, 2))], 1) / mask.sum((1, 2))[:, None],
        )
        for mask in (red, blue)
    ]


@pytest.mark.parametrize("size", [EQUAL, SMALLER, LARGER])
@pytest.mark.parametrize(("relation", "axis"), [(LEFT, 0), (ABOVE, 1)])
def test_objects_stand_apart_in_their_relation_and_sizes(relation, axis, size):
    (first, at_first), (second, at_second) = found_squares(drawn_squares(relation, size))
    expected = {EQUAL: (NORMAL, NORMAL), SMALLER: (SMALL, LARGE), LARGER: (LARGE, SMALL)}[size]
    for widths, (low, high) in zip((first, second), expected, strict=True):
        assert (widths > low - 0.02).all()
        assert (widths < high + 0.02).all()
    gap = (at_second - at_first)[:, axis] - first - second
    assert (gap > -0.03).all()  # none covers the other
    assert at_first[:, 1 - axis].std() > 0.05  # jittered


def test_a_small_object_stands_before_a_large_one():
    (first, at_first), (second, _) = found_squares(drawn_squares(FRONT, SMALLER))
    assert (first > 0.3).all()  # whole
    assert (second > 0.5).all()
    assert (at_first[:, 1] > 0.2).all()  # at the bottom


def test_grounds_have_their_colours():
    for colour, values in enumerate(GROUNDS):
        picture = drawn_squares(LEFT, EQUAL, 1, colour)[0]
        corner = ((picture[:, 0, 0] + 1) * 127.5).round().tolist()
        assert corner == list(values)


def test_no_two_pictures_of_a_scene_are_the_same():
    pictures = drawn_squares(LEFT, EQUAL, 2)
    assert not torch.equal(pictures[0], pictures[1])


def test_chosen_emoji_share_no_word():
    entries = [
        {"name": name, "subcategory": "animal-mammal"}
        for name in ("cat", "black cat", "dog face", "dog", "owl", "pistol", "x-ray", "a very long name")
    ]
    names = [entry["name"] for entry in choose(entries, 10)]
    assert len(names) == 2
    assert "owl" in names
    assert {"cat", "black cat"} & set(names)
    assert KINDS.fullmatch("musical-instrument")
    assert not KINDS.fullmatch("face-smiling")


def test_latents_are_folded_to_mean_zero_and_deviation_one():
    torch.manual_seed(0)
    vae = make_vae()
    pictures = torch.rand(4, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        fold_latents(vae, pictures)
        latents = encode(vae, pictures)
        posterior = vae.encode(pictures).latent_dist
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(LATENT_CHANNELS), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(LATENT_CHANNELS), atol=1e-3, rtol=0)
    torch.testing.assert_close(posterior.mean, latents)
    torch.testing.assert_close(posterior.logvar, torch.full_like(latents, LOG_VARIANCE), atol=1e-4, rtol=0)


def test_a_gallery_keeps_the_newest_latents(monkeypatch):
    scenes = torch.arange(7)[:, None].expand(-1, 6)
    monkeypatch.setattr("scenes.denoiser.encode", lambda vae, p: p[:, :1, :16, :16].expand(-1, LATENT_CHANNELS, -1, -1))
    gallery = Gallery(None, lambda rows: rows[:, :1, None, None].expand(-1, 3, 128, 128).float(), scenes, kept=4)
    gallery.add(3)
    generator = torch.Generator().manual_seed(0)
    latents, rows = gallery.draw(100, generator)
    assert set(rows.tolist()) == {0, 1, 2}
    assert torch.equal(latents[:, 0, 0, 0], rows.float())
    for _ in range(3):
        gallery.add(2)
    latents, rows = gallery.draw(100, generator)
    assert set(rows.tolist()) == {5, 6, 0, 1}
    assert torch.equal(latents[:, 3, 2, 1], rows.float())


class Encoder(torch.nn.Module):
    def forward(self, input_ids):
        self.ids = input_ids
        return SimpleNamespace(last_hidden_state=torch.zeros(len(input_ids), 77, 2))


class FromZero(torch.nn.Module):
    """Knows that all latents are zero: what it sees is s times the noise."""

    def forward(self, noised, timesteps, hidden):
        return noised / (timesteps / 1000)[:, None, None, None]


def batches(flow, tokens, tokenizer):
    networks = {"text": Encoder(), "flow": flow}
    run = SimpleNamespace(
        networks=networks, compile=lambda module: module, generator=torch.Generator().manual_seed(0), device=CPU
    )
    return Batches(run, tokens, empty_ids(tokenizer, CPU), FULL.denoiser)


def test_the_flow_is_noise_less_latents(tokenizer):
    tokens = torch.zeros(5, 2, LONGEST, dtype=torch.int16)
    work = batches(FromZero(), tokens, tokenizer)
    loss, figures = work.loss(torch.zeros(64, LATENT_CHANNELS, LATENT, LATENT), torch.arange(64) % 5)
    assert loss < 1e-6
    assert figures["early"] < 1e-6
    shifted, _ = work.loss(torch.full((64, LATENT_CHANNELS, LATENT, LATENT), 2.0), torch.arange(64) % 5)
    assert shifted > 1


def test_a_tenth_has_no_caption(tokenizer):
    tokens = torch.full((5, 2, LONGEST), 7, dtype=torch.int16)
    ids = batches(FromZero(), tokens, tokenizer).captions(torch.zeros(4000, dtype=torch.int64))
    empty = (ids == torch.tensor(tokenizer("", padding="max_length").input_ids)).all(1)
    assert 0.08 < empty.float().mean() < 0.12
    assert (ids[~empty][:, :LONGEST] == 7).all()
    assert (ids[~empty][:, LONGEST:] == tokenizer.eos_token_id).all()


class Known:
    """A model whose captions are numbers: the velocity to latents of that number, or to zero without a caption."""

    device = CPU

    def hidden(self, texts):
        return torch.tensor([float(text or 0) for text in texts])[:, None, None].expand(-1, 77, 2)

    def velocity(self, latents, level, hidden):
        return (latents - hidden[:, 0, 0, None, None, None]) / level


def test_euler_steps_end_at_what_the_caption_says():
    noise = starting_noise(2, 0, CPU)
    assert not torch.equal(noise[0], noise[1])
    plain = draw(Known(), ["2", "-1"], noise, steps=7, guidance=1.0)
    torch.testing.assert_close(plain.mean((1, 2, 3)), torch.tensor([2.0, -1.0]), atol=1e-4, rtol=0)
    negative = draw(Known(), ["2", "2"], noise, steps=7, guidance=3.0, negative="1")
    assert (negative > 3.9).all()  # away from it


def test_shared_steps_are_those_of_the_mean_and_then_each_goes_its_way():
    noise = starting_noise(2, 0, CPU, same=True)
    assert torch.equal(noise[0], noise[1])
    shared = draw(Known(), ["2", "-1"], noise, steps=8, guidance=1.0, shared=8)
    torch.testing.assert_close(shared[0], shared[1])
    torch.testing.assert_close(shared.mean(), torch.tensor(0.5), atol=1e-4, rtol=0)
    sets = draw(Known(), ["2", "-1", "4", "5"], noise[[0, 0, 1, 1]], steps=8, guidance=1.0, shared=8, sets=[0, 1, 1, 0])
    torch.testing.assert_close(sets.mean((1, 2, 3)), torch.tensor([3.5, 1.5, 1.5, 3.5]), atol=1e-4, rtol=0)
    parted = draw(Known(), ["2", "-1"], noise, steps=8, guidance=1.0, shared=5)
    torch.testing.assert_close(parted.mean((1, 2, 3)), torch.tensor([2.0, -1.0]), atol=1e-4, rtol=0)
    same = [draw(Known(), ["2", "2"], noise, steps=8, guidance=1.0, shared=shared) for shared in (0, 4)]
    torch.testing.assert_close(*same)


def test_adherence_is_how_much_the_caption_lowers_the_error():
    latents = torch.full((1, LATENT_CHANNELS, LATENT, LATENT), 2.0)
    assert float(adherence(Known(), latents, ["2"])) == pytest.approx(1)
    assert float(adherence(Known(), latents, ["0"])) == pytest.approx(0)
    assert float(adherence(Known(), latents, ["-2"])) == pytest.approx(-0.75, abs=1e-3)


def test_a_judge_is_read_back(tmp_path):
    torch.manual_seed(0)
    judge = SceneJudge(NAMES, (8, 8, 16, 16)).eval()
    pictures = torch.rand(3, 3, 128, 128) * 2 - 1
    found = judged(judge, pictures)
    assert found.shape == (3, 6)
    assert (found < torch.tensor(parts_counts(len(NAMES)))).all()
    assert all_right(judge(pictures), found).all()
    assert not all_right(judge(pictures), found + torch.tensor([0, 0, 1, 0, 0, 0])).any()
    save_judge(judge, tmp_path / "judges" / "one.safetensors")
    read = load_judge(tmp_path / "judges" / "one.safetensors")
    assert read.names == NAMES
    for ours, theirs in zip(judge(pictures), read(pictures), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)  # kept in float16
    with pytest.raises(ValueError, match=r"there is no judge at .*train_scenes\.py judge"):
        load_judge(tmp_path / "two.safetensors")


def test_accuracy_asks_for_all_parts():
    scenes = torch.tensor([[0, 1, 2, 0, 0, 3], [1, 2, 3, 1, 1, 4]])
    found = scenes.clone()
    found[1, 5] = 0
    figures = accuracy(found, scenes)
    assert figures["all"] == figures["colour"] == 0.5
    assert figures["first"] == 1


def test_tables():
    row = {"steps": 40, "shared": 8, "level": 0.8, "rows": 32.2, "style": {"all": 1, "adherence": 0.4}}
    text = early_table([row | {"template": row["style"]}, row | {"shared": 0, "template": row["style"]}])
    assert "| the first 8 of 40 shared, to noise level 0.80 | 32.2 | 1.00 / 0.400 | 1.00 / 0.400 |" in text
    assert "| 40 steps | 32.2 |" in text
    assert "| real | 1.000 |" in quality_table({"real": dict.fromkeys(("all", *PARTS), 1)})
    assert "| red | 0.100 | 0.000 | 1.000 |" in negatives_table({"red": {"without": 0.1, "with": 0, "rest right": 1}})


def test_the_emoji_models_trunks():
    plan = trunk_plan(np.random.default_rng(0).normal(size=(5, 3)), 3, 8)
    assert [len(set(step.labels.tolist())) for step in plan.steps] == [1, 1, 1, 5, 5, 5, 5, 5]
    assert plan.nfe == 3 + 25
    assert trunk_plan(np.eye(4), 0, 2).nfe == 8
    scheduler = DDPMScheduler()
    levels = [noise_level(scheduler, step, 40) for step in range(40)]
    assert levels == sorted(levels, reverse=True)
    scheduler.set_timesteps(40)
    signal = float(scheduler.alphas_cumprod[int(scheduler.timesteps[8])])
    assert levels[8] == pytest.approx((1 - signal) ** 0.5 / ((1 - signal) ** 0.5 + signal**0.5))
    pictures = torch.rand((6, 3, 128, 128), generator=torch.Generator().manual_seed(0))
    drawn = (pictures[[4, 0]] + 0.1).clamp(0, 1)
    assert nearest(small_pictures(drawn), small_pictures(pictures)).tolist() == [4, 0]
    row = {"steps": 40, "shared": 8, "level": 0.8, "rows": 32.2, "right": 0.5}
    assert "| the first 8 of 40 shared, to noise level 0.80 | 32.2 | 0.50 |" in emoji_markdown([row])


def test_minutes_are_those_of_the_stage():
    def minutes(stage, smoke=False):
        return completed(SimpleNamespace(smoke=smoke, work=None, out=Path("out"), minutes=None), stage)

    assert minutes("all").minutes == FULL.minutes
    assert minutes("vae").minutes == pytest.approx(FULL.minutes * FULL.phases[0]["vae"])
    assert minutes("judge").minutes == FULL.judge.minutes
    assert minutes("all", smoke=True).config == SMOKE
    shares = FULL.phases[0]
    assert 0.9 < shares["vae"] + shares["denoiser"] < 1  # one after the other; the text encoder beside the VAE
    assert shares["text"] < shares["vae"]
