"""Plan Shard: the plan and the prompts of one share of a set, and files with the numbers of the whole set."""

import asyncio
import hashlib
import importlib
import json
from types import SimpleNamespace

import pytest
import torch

from hierdiff_core import Budget, Profile, PromptTree, plan_for
from hierdiff_core.plan.in_set import numbers_in_set
from hierdiff_core.prompts.rows import PromptRow, PromptRows
from hierdiff_core.servers.client import DIGEST_SIZE
from hierdiff_core.servers.folder import checked_files
from hierdiff_core.servers.workflow import FOLDER

pytestmark = pytest.mark.host
N, COUNT = 7, 3
TEXTS = [f"prompt {i}" for i in range(N)]
ROWS = PromptRows(PromptRow(text, caption=f"caption {text}", negative="dark") for text in TEXTS)


@pytest.fixture(scope="module")
def plan():
    vectors = torch.randn(N, 16, generator=torch.Generator().manual_seed(1))
    return plan_for(PromptTree.of(vectors, "chord", TEXTS), Budget("saving", 0.4), Profile(8))


@pytest.fixture(scope="module")
def shard(pack):
    def run(plan, index, count, **inputs):
        out = pack.nodes.PlanShard.PREPARE_CLASS_CLONE({}).execute(plan, index, count, **inputs)
        return SimpleNamespace(**dict(zip(("plan", "prompts", "numbers", "report"), out.args, strict=True)), ui=out.ui)

    return run


def test_shards_have_each_prompt_once_with_all_that_is_its_own(shard, plan):
    found = [shard(plan, index, COUNT, prompts=ROWS) for index in range(1, COUNT + 1)]
    places = [row.place for each in found for row in each.prompts.rows]
    assert sorted(places) == [(i, N) for i in range(N)]
    for each in found:
        numbers = numbers_in_set(each.plan).tolist()
        assert [row.place[0] for row in each.prompts.rows] == numbers
        assert each.plan.prompts == tuple(TEXTS[i] for i in numbers) == tuple(each.prompts)
        assert [row.caption for row in each.prompts.rows] == [ROWS.rows[i].caption for i in numbers]
        assert f"{len(numbers)} of {N} prompts, {each.plan.nfe} UNet rows" in each.report
        assert each.ui["images"]
    assert f"all shards: {sum(each.plan.nfe for each in found)} rows instead of {plan.nfe}" in found[0].report


def test_without_prompts_those_of_the_plan_are_taken(shard, plan):
    found = shard(plan, 2, COUNT)
    assert tuple(found.prompts) == found.plan.prompts
    assert found.prompts.rows[0].place == (numbers_in_set(found.plan)[0], N)


@pytest.mark.parametrize(("index", "count"), [(0, 1), (0, 3), (1, 1)])
def test_the_whole_plan_goes_through_as_it_is(shard, plan, index, count):
    found = shard(plan, index, count, prompts=ROWS)
    assert found.plan is plan
    assert [(row.text, row.place) for row in found.prompts.rows] == [(text, None) for text in TEXTS]
    assert found.numbers == "0-6"
    assert found.report == f"the whole plan: {N} prompts, {plan.nfe} UNet rows"


def test_shards_and_prompts_that_are_not_there_are_refused(pack, shard, plan):
    node = pack.nodes.PlanShard
    assert node.validate_inputs(index=2, count=3) is True
    assert node.validate_inputs(index=None, count=3) is True
    assert node.validate_inputs(index=4, count=3) == "index must be at most count, which is 3; got 4"
    assert "index must lie between 0" in node.validate_inputs(index=-1, count=3)
    assert "count must lie between 1" in node.validate_inputs(index=0, count=0)
    with pytest.raises(ValueError, match="count must be at most 7"):
        shard(plan, 1, 8)
    with pytest.raises(ValueError, match="the plan is of 7 prompts, and prompts are 6: connect those"):
        shard(plan, 1, 2, prompts=TEXTS[:6])
    with pytest.raises(ValueError, match="and prompts are 7 others: connect those"):
        shard(plan, 1, 2, prompts=TEXTS[::-1])


def test_shards_of_one_prompt_each(shard, plan):
    found = [shard(plan, index, N, prompts=ROWS) for index in range(1, N + 1)]
    assert sorted(each.prompts.rows[0].place for each in found) == [(i, N) for i in range(N)]
    for each in found:
        assert each.numbers == str(each.prompts.rows[0].place[0])
        assert f"1 of {N} prompts, 8 UNet rows" in each.report
        assert each.ui["images"]


@pytest.mark.parametrize("texts", [["a cat"], ["a cat"] * 3], ids=["one prompt", "equal prompts"])
def test_a_set_of_one_picture_is_its_own_only_shard(shard, texts):
    rows = torch.ones(len(texts), 16)
    plan = plan_for(PromptTree.of(rows, "chord", texts), Budget("saving", 0.4, clamp=True), Profile(8))
    for index in (0, 1):
        found = shard(plan, index, 1)
        assert found.plan is plan
        assert found.report == f"the whole plan: {len(texts)} prompts, 8 UNet rows".replace("1 prompts", "1 prompt")
        assert found.ui["images"]
    words = "1 prompt" if len(texts) == 1 else "3 equal prompts, one picture,"
    with pytest.raises(ValueError, match=f"a plan of {words} cannot be split into 2 shards; count must be 1"):
        shard(plan, 2, 2)


def test_files_get_the_numbers_of_the_whole_set_and_can_be_listed(pack, shard, plan, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    files = importlib.import_module(f"{pack.__name__}.nodes.host.shard_files")
    assert (files.FOLDER, files.DIGEST_SIZE) == (FOLDER, DIGEST_SIZE)
    names = []
    for index in range(1, COUNT + 1):
        prompts = shard(plan, index, COUNT, prompts=ROWS).prompts
        images = torch.rand(len(prompts), 8, 8, 3)
        inputs = {"folder": f"{FOLDER}/run-{index}/set/cats", "format": "png", "captions": "metadata.jsonl"}
        inputs |= {"prompts": prompts, "images": images, "name": "{index:03d}of{count}_{prompt}"}
        pack.nodes.SaveSet.execute(**{name: [value] for name, value in inputs.items()})
        (tmp_path / FOLDER / f"run-{index}" / ".hidden").write_text("x")
        listed = asked(files, run=f"run-{index}")
        own = checked_files(listed)  # what the command takes
        names += [file.parts[-1] for file in own if file.parts[-1] != "metadata.jsonl"]
        for file in own:
            data = (tmp_path / FOLDER / f"run-{index}").joinpath(*file.parts).read_bytes()
            assert (file.size, file.digest) == (len(data), hashlib.blake2b(data, digest_size=16).hexdigest())
    assert sorted(names) == [f"{i:03d}of7_prompt {i}.png" for i in range(N)]


def asked(files, status=200, **query):
    answer = asyncio.run(files.shards_of_client(SimpleNamespace(query=query)))
    assert answer.status == status
    return json.loads(answer.text)


def test_nothing_but_shards_is_listed(pack, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    files = importlib.import_module(f"{pack.__name__}.nodes.host.shard_files")
    (tmp_path / "mine.png").write_text("x")
    (tmp_path / FOLDER / "run").mkdir(parents=True)
    (tmp_path / FOLDER / "run" / "link.png").symlink_to(tmp_path / "mine.png")
    (tmp_path / FOLDER / "run" / "folder").symlink_to(tmp_path)
    assert asked(files, run="run") == {"files": []}
    assert asked(files, run="nowhere") == {"files": []}
    for run in ("..", "a/b", "", ".", "x" * 100, "RUN", "a\n"):
        assert "error" in asked(files, 400, run=run)
    assert len(asked(files)["code"]) == 16
