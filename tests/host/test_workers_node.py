"""Workers: the Branching Sampler draws on several of them, with the pictures of one process."""

import importlib
import json
from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.host

TABLE = "prompt\ncat face\ntiger face\nred apple\ngreen apple\nblue car"
STEPS = 5


@pytest.fixture(scope="module")
def emoji(pack):
    """Draws a few prompts with the bundled model, by the nodes of a workflow."""
    torch.set_num_threads(1)
    nodes, name = pack.nodes, "emoji-kandinsky (bundled)"
    prompts = nodes.PromptTable.execute(TABLE).args[0]
    decoder, prior = nodes.DecoderLoader.execute(name, "fp32").args[0], nodes.PriorLoader.execute(name, "fp32").args[0]
    settings = {"steps": [2], "guidance": [4.0], "seed": [1], "noise": ["per prompt"]}
    embeddings = nodes.PriorEmbedding.execute([prior], [prompts], [""], **settings).args[0][0]
    linkage = nodes.WardLinkage.execute(embeddings, "chord").args[0]
    plan = nodes.ThresholdSchedule.execute(linkage, STEPS, "saving", 0.4, 1).args[0]

    def run(plan=plan, **inputs):
        out = nodes.BranchingSampler.execute(decoder, embeddings, plan, 1, 3.0, "DDPM", 64, 64, 0, **inputs)
        return SimpleNamespace(latents=out.args[0]["samples"], report=out.args[2], ui=out.ui)

    run.plan = plan
    return run


@pytest.fixture
def workers(pack, monkeypatch):
    """Two workers, which are threads of this process: what Ray does is tested without a host."""
    core = pack.__name__ + ".hierdiff_core."
    module = importlib.import_module(core + "kandinsky.workers")
    threads = importlib.import_module(core + "sampling.executor").Threads
    monkeypatch.setattr(module, "executor_for", lambda workers, run: threads(workers.count))
    return pack.nodes.SetWorkers.execute(2, "").args[0]


def test_workers_draw_the_pictures_of_one_process(emoji, workers):
    whole, found = emoji(), emoji(workers=workers)
    assert torch.equal(found.latents, whole.latents)
    assert "drawn by 2 workers, on this machine\nUNet rows by worker: " in found.report
    lines = [line for line in whole.report.splitlines() if line.startswith("UNet rows")]
    assert lines[0] in found.report


def test_pictures_are_saved_while_workers_draw(emoji, workers, pack, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    prompts = pack.nodes.PromptTable.execute(TABLE).args[0]
    saving = pack.nodes.SaveAsDrawn.execute(prompts, "set", "png", "none", "{index:02d}").args[0]
    found = emoji(workers=workers, saving=saving)
    assert sorted(path.name for path in (tmp_path / "set").glob("*.png")) == [f"{i:02d}.png" for i in range(5)]
    assert "saved in output/set: 5 of 5" in found.report


def test_cancelling_stops_the_workers(emoji, workers, pack, monkeypatch):
    import comfy.model_management as management

    sampler = importlib.import_module(f"{pack.__name__}.nodes.sampler")
    rows = sampler.Shown.on_rows

    def on_rows(self, k, clusters, x0):
        rows(self, k, clusters, x0)
        if k == 1:
            management.interrupt_current_processing()

    with monkeypatch.context() as patch:
        patch.setattr(sampler.Shown, "on_rows", on_rows)
        with pytest.raises(management.InterruptProcessingException):
            emoji(workers=workers)
    assert emoji(workers=workers).latents.isfinite().all()


def test_the_hosts_models_make_way_for_workers_of_this_machine(emoji, workers, pack, monkeypatch):
    import comfy.model_management as management

    local = importlib.import_module(f"{pack.__name__}.nodes.host.local_workers")
    calls = []
    monkeypatch.setattr(management, "unload_all_models", lambda: calls.append("unloaded"))
    emoji(workers=workers)
    assert calls == ["unloaded"]
    for address in ("auto", "10.0.0.1:6379"):
        local.make_way(type(workers)(0, address))
    assert calls == ["unloaded", "unloaded"]  # a cluster elsewhere takes none of its memory


def test_what_workers_do_not_do_is_refused_before_anything_is_loaded(emoji, workers):
    with pytest.raises(ValueError, match="workers keep nothing for the next run: turn keep off"):
        emoji(workers=workers, keep=True)
    with pytest.raises(ValueError, match="workers draw all steps: set stop_after to 1"):
        emoji(workers=workers, stop_after=0.5)


def test_edits_of_a_set_are_drawn_by_workers_too(emoji, workers):
    told = emoji().ui["hierdiff_edits"][0]
    change = {"do": "reroll", "prompts": told["keys"][:1], "step": 2, "of": STEPS, "number": 1}
    edits = json.dumps({"version": 1, "kept": None, "changes": [change]})
    whole, found = emoji(edits=edits), emoji(edits=edits, workers=workers)
    assert torch.equal(found.latents, whole.latents)


def test_addresses_are_checked_when_they_are_queued(pack):
    node = pack.nodes.SetWorkers
    assert node.validate_inputs(address="") is True
    assert node.validate_inputs(address="ray://cluster:10001") is True
    assert node.validate_inputs(address=None) is True
    assert "address must be empty" in node.validate_inputs(address="somewhere")


def test_edits_of_a_set_are_those_of_its_shards(emoji, pack):
    """A picture that was rerolled, and one that was drawn before: of the whole set and of a shard."""
    told, whole_plan = emoji().ui["hierdiff_edits"][0], emoji.plan
    change = {"do": "reroll", "prompts": told["keys"][2:3], "step": 1, "of": STEPS, "number": 1}
    edits = json.dumps({"version": 1, "kept": None, "changes": [change]})
    whole = emoji(edits=edits).latents
    assert not torch.equal(whole, emoji().latents)
    for index in (1, 2):
        plan, prompts, *_ = pack.nodes.PlanShard.execute(whole_plan, index, 2).args
        numbers = [row.place[0] for row in prompts.rows]
        assert torch.equal(emoji(plan=plan, edits=edits).latents, whole[numbers])
