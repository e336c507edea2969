"""Workers: the Branching Sampler draws on several processes, with the pictures of one."""

from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.host

TABLE = "prompt\ncat face\ntiger face\nred apple\ngreen apple\nblue car"
STEPS = 5


@pytest.fixture(scope="module")
def emoji(pack):
    """Draws a few prompts with the bundled model, by the nodes of a workflow."""
    nodes, name = pack.nodes, "emoji-kandinsky (bundled)"
    prompts = nodes.PromptTable.execute(TABLE).args[0]
    decoder, prior = nodes.DecoderLoader.execute(name, "fp32").args[0], nodes.PriorLoader.execute(name, "fp32").args[0]
    settings = {"steps": [2], "guidance": [4.0], "seed": [1], "noise": ["per prompt"]}
    embeddings = nodes.PriorEmbedding.execute([prior], [prompts], [""], **settings).args[0][0]
    linkage = nodes.WardLinkage.execute(embeddings, "chord").args[0]
    plan = nodes.ThresholdSchedule.execute(linkage, STEPS, "saving", 0.4, 1).args[0]

    def run(**inputs):
        out = nodes.BranchingSampler.execute(decoder, embeddings, plan, 1, 3.0, "DDPM", 64, 64, 0, **inputs)
        return SimpleNamespace(latents=out.args[0]["samples"], report=out.args[2], ui=out.ui)

    return run


@pytest.fixture(scope="module")
def workers(pack):
    return pack.nodes.SetWorkers.execute(2, "").args[0]


def test_workers_draw_the_pictures_of_one_process_and_can_be_cancelled(emoji, workers, pack, monkeypatch):
    torch.set_num_threads(1)
    whole = emoji()
    found = emoji(workers=workers)
    assert torch.equal(found.latents, whole.latents)
    assert "drawn by 2 workers, on this machine" in found.report
    print(found.report)
