"""Kandinsky: a prompt of its own seed is drawn as if that were the seed of the run."""

import json

import pytest
import torch
from PIL import Image

from hierdiff_core import (
    Budget,
    Profile,
    PromptEmbeddings,
    PromptTree,
    build_plan,
    embed_prompts,
    load_decoder,
    load_prior,
    plan_for,
    sample,
)
from hierdiff_core.__main__ import main
from hierdiff_core.prompts.rows import PromptRow, PromptRows

TEXTS = ("red apple, flat style", "green apple, flat style", "cat face, noto style")
ROWS = [(0, None), (1, 7), (0, 7), (2, 7), (2, None), (1, 9)]
SMALL = {"width": 64, "height": 64}


@pytest.fixture(scope="module")
def decoder():
    return load_decoder()


@pytest.fixture(scope="module")
def embeddings():
    prompts = PromptRows(PromptRow(TEXTS[text], seed=seed) for text, seed in ROWS)
    return embed_prompts(load_prior(), prompts, num_steps=2)


@pytest.fixture(scope="module")
def plan(embeddings):
    tree = PromptTree.of(embeddings.positive, "chord", embeddings.prompts)
    return plan_for(tree, Budget("saving", 0.3), Profile(5))


@pytest.mark.parametrize("order", ["breadth first", "depth first"])
@pytest.mark.parametrize("scheduler", ["DDPM", "Euler ancestral", "DPM++ 2M"])
def test_each_seed_is_drawn_as_if_it_were_alone(decoder, embeddings, plan, scheduler, order):
    latents = sample(decoder, embeddings, plan, seed=3, scheduler=scheduler, order=order, **SMALL)
    assert 3 == plan.steps[0].num_clusters < plan.steps[-1].num_clusters == 6
    for seed in (None, 7, 9):
        own = [i for i, row in enumerate(ROWS) if row[1] == seed]
        alone = PromptEmbeddings(
            embeddings.positive[own], embeddings.negative[own], [embeddings.prompts[i] for i in own], embeddings.kind
        )
        tree = PromptTree.of(alone.positive, "chord", alone.prompts)
        of_seed = build_plan(tree.Z, plan.thresholds, tree.keys, prompts=tree.prompts)
        drawn = sample(decoder, alone, of_seed, seed=3 if seed is None else seed, scheduler=scheduler, **SMALL)
        assert torch.equal(latents[own], drawn)


def test_a_latent_that_is_given_is_that_of_prompts_without_a_seed(decoder, embeddings, plan):
    given = torch.zeros(1, 4, 8, 8)
    latents, others = (sample(decoder, embeddings, plan, seed=3, latents=first, **SMALL) for first in (given, None))
    for i, (_, seed) in enumerate(ROWS):
        assert torch.equal(latents[i], others[i]) == (seed is not None)


def test_a_plan_for_other_seeds_is_refused(decoder, embeddings):
    tree = PromptTree.of(embeddings.positive, "chord", list(embeddings.prompts))
    plan = plan_for(tree, Budget("saving", 0.3), Profile(5))
    with pytest.raises(ValueError, match=r"the plan was made for other seeds: prompt 1 .* has no seed of its own"):
        sample(decoder, embeddings, plan, **SMALL)


def test_command_line_draws_rows_of_a_file_as_alone_with_their_seed_and_negative(tmp_path):
    quick = ["--steps", "4", "--prior-steps", "2", "--width", "64", "--height", "64"]
    table = tmp_path / "set.csv"
    lines = ["prompt,negative,seed,caption", f'"{TEXTS[0]}",,,', f'"{TEXTS[1]}",,,', f'"{TEXTS[0]}",dark,7,ohwx']
    table.write_text("\n".join(lines), encoding="utf-8")
    assert main(["--file", str(table), "--saving", "0.2", "--seed", "3", "--out", str(tmp_path / "set"), *quick]) == 0
    report = json.loads((tmp_path / "set" / "report.json").read_text(encoding="utf-8"))
    own = {"file": "0002.png", "prompt": TEXTS[0], "negative": "dark", "seed": 7, "caption": "ohwx"}
    assert report["images"][::2] == [{"file": "0000.png", "prompt": TEXTS[0]}, own]
    alone = [TEXTS[0], "--seed", "7", "--negative-prompt", "dark", "--out", str(tmp_path / "alone"), *quick]
    assert main(alone) == 0
    pictures = [Image.open(tmp_path / place).tobytes() for place in ("set/0002.png", "alone/0000.png", "set/0000.png")]
    assert pictures[0] == pictures[1] != pictures[2]
