"""Variants drawn in full: the prompts' own pictures stay, variants are others, and cost what the plan says."""

import json
from types import SimpleNamespace

import pytest
import torch
from shared_runs import K, ksampler, one_negative, positive_of, rows_of, shared_model, vectors_of_prompts
from small_clips import random_clip

from hierdiff_core.sampling.store import Store

pytestmark = pytest.mark.host

TABLE = (
    "prompt\tnegative\tseed\tpictures\tcaption\n"
    "cat face\tdark\t7\t\tohwx cat\ntiger face\t\t\t\t\nred apple\t\t\t\t\ngreen apple\t\t\t\t"
)
TEXTS = ("a fox", "an owl", "a bus", "a tram")
VECTORS = vectors_of_prompts()[[0, 3, 1, 4]]  # pairs that are alike
STEPS, PART_AT, PARTS_IN = 8, 0.5, 4


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def varied(pack):
    """The prompts behind Variants."""

    def run(prompts, which="0, 2", count=2, part_at=PART_AT):
        assert pack.nodes.Variants.validate_inputs(which=which) is True
        return pack.nodes.Variants.execute(prompts, which, count, part_at).args[0]

    return run


@pytest.fixture(scope="module")
def emoji(pack):
    """Draws prompts with the bundled model, by the nodes of a workflow."""
    nodes, name = pack.nodes, "emoji-kandinsky (bundled)"
    decoder, prior = nodes.DecoderLoader.execute(name, "fp32").args[0], nodes.PriorLoader.execute(name, "fp32").args[0]

    def run(prompts, scheduler="DDPM", **inputs):
        settings = {"steps": [2], "guidance": [4.0], "seed": [1], "noise": ["per prompt"]}
        embeddings = nodes.PriorEmbedding.execute([prior], [prompts], [""], **settings).args[0][0]
        linkage = nodes.WardLinkage.execute(embeddings, "chord").args[0]
        plan = nodes.ThresholdSchedule.execute(linkage, STEPS, "saving", 0.4, 1).args[0]
        out = nodes.BranchingSampler.execute(decoder, embeddings, plan, 1, 3.0, scheduler, 64, 64, 0, **inputs)
        told = (out.ui.get("hierdiff_edits") or [{}])[0]
        return SimpleNamespace(latents=out.args[0]["samples"], plan=plan, told=told, embeddings=embeddings)

    return run


def places_of(prompts):
    """Where the prompts themselves stand, and the variants of each."""
    own = [i for i, row in enumerate(prompts.rows) if row.variant is None]
    return own, [list(range(a + 1, b)) for a, b in zip(own, [*own[1:], len(prompts)], strict=True)]


def assert_varied(latents, before, prompts):
    own, variants = places_of(prompts)
    assert torch.equal(latents[own], before)
    for place, others in zip(own, variants, strict=True):
        pictures = [latents[i] for i in (place, *others)]
        for i, picture in enumerate(pictures):
            assert torch.isfinite(picture).all()
            assert not any(torch.allclose(picture, other, atol=1e-3) for other in pictures[:i])


@pytest.mark.parametrize("scheduler", ["DDPM", "DDIM"])
def test_of_the_bundled_model_the_prompts_stay_and_variants_cost_their_own_steps(pack, emoji, varied, scheduler):
    table = pack.nodes.PromptTable.execute(TABLE).args[0]
    prompts = varied(table)
    before, after = emoji(table, scheduler), emoji(prompts, scheduler)
    assert_varied(after.latents, before.latents, prompts)
    assert after.plan.nfe - before.plan.nfe == 4 * (STEPS - PARTS_IN)
    assert [row.variant for row in after.embeddings.prompts.rows] == [row.variant for row in prompts.rows]


def test_of_a_kept_run_only_variants_are_evaluated_and_all_prompts_have_names_of_their_own(pack, emoji, varied):
    table, store = pack.nodes.PromptTable.execute(TABLE).args[0], pack.nodes.KeepTrunks.execute("", 1.0, 0.0).args[0]
    store.clear()
    before = emoji(table, keep=True, trunk=store)
    prompts = varied(table)
    after = emoji(prompts, keep=True, trunk=store, edits=before.told["edits"])
    assert_varied(after.latents, before.latents, prompts)
    # in the first of its steps a variant is what its prompt is there, and differs by the noise that is added after it:
    # those of the cat are evaluated already, those of the apple, which leave a branch of three, once for both
    assert after.told["rows"] - after.told["reused"] == 4 * (STEPS - PARTS_IN) - 3
    assert len(set(after.told["keys"])) == len(prompts)
    change = {"do": "reroll", "prompts": after.told["keys"][2:3], "step": 6, "of": STEPS, "number": 1001}
    edits = json.dumps({**json.loads(after.told["edits"]), "changes": [change]})
    rerolled = emoji(prompts, keep=True, trunk=store, edits=edits)  # the second variant alone
    same = [torch.equal(*pair) for pair in zip(rerolled.latents, after.latents, strict=True)]
    assert same == [i != 2 for i in range(len(prompts))]


def planned(pack, prompts):
    """Positive conditioning and plan of texts that may come several times."""
    embeddings = pack.hierdiff_core.PromptEmbeddings
    rows = VECTORS[[TEXTS.index(text) for text in prompts]]
    linkage = pack.nodes.WardLinkage.execute(embeddings(rows, torch.zeros_like(rows), prompts), "chord").args[0]
    plan = pack.nodes.ThresholdSchedule.execute(linkage, K, "saving", 0.4, 1).args[0]
    return [[positive_of(rows)[0][0], {"hierdiff_prompts": tuple(prompts)}]], plan


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde"])
def test_of_any_model_the_prompts_stay_and_variants_cost_their_own_steps(pack, host, model, varied, sampler):
    """By Share Steps before the host's KSampler, and by the Hierarchical KSampler, which keeps and tells."""
    found, prompts = {}, varied(TEXTS)
    node, store = host.guider.HierarchicalKSampler.PREPARE_CLASS_CLONE({}), Store(2**24)
    latent, settings = {"samples": torch.zeros(1, 4, 8, 8)}, {"micro_batch": 0, "keep": True, "trunk": store}
    for name, texts in (("before", TEXTS), ("after", prompts)):
        positive, plan = planned(pack, texts)
        shared, reports = shared_model(host, model, plan)
        latents = ksampler(host, shared, positive, one_negative(), sampler)
        out = node.execute(model, positive, one_negative(), latent, plan, 7, 4.0, sampler, "normal", 1.0, **settings)
        told = out.ui["hierdiff_edits"][0]
        found[name] = SimpleNamespace(latents=latents, plan=plan, rows=rows_of(reports[-1]), told=told)
        assert torch.equal(out.args[0]["samples"], latents)
    before, after = found["before"], found["after"]
    assert_varied(after.latents, before.latents, prompts)
    assert after.plan.nfe - before.plan.nfe == 4 * (K - int(PART_AT * K))
    assert after.rows - before.rows == after.plan.nfe - before.plan.nfe
    assert 0 < after.told["rows"] - after.told["reused"] <= after.rows - before.rows
    assert len(set(after.told["keys"])) == len(prompts)


def test_rows_of_a_table_keep_what_is_theirs_in_variants_and_to_the_files(pack, varied, tmp_path, monkeypatch):
    import folder_paths
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer

    prompts = varied(pack.nodes.PromptTable.execute(TABLE).args[0], count=1)
    row = prompts.rows[1]
    assert (row.text, row.negative, row.seed, row.caption, row.variant) == ("cat face", "dark", 7, "ohwx cat", (1, 0.5))
    embeddings = pack.nodes.ClipEmbedding.execute(random_clip(SD1ClipModel, SD1Tokenizer), prompts, "auto").args[1]
    assert [own.variant for own in embeddings.prompts.rows] == [(1, 0.5) if i in (1, 4) else None for i in range(6)]
    tree = pack.nodes.WardLinkage.execute(embeddings, "chord").args[0]
    plan = pack.nodes.ThresholdSchedule.execute(tree, STEPS, "tau", 0.0, 1).args[0]
    assert [own.prompt for own in plan.rerolls] == [1, 4]
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    inputs = {"folder": "set", "format": "png", "captions": "txt", "name": "{index:02d} {prompt} {seed}"}
    saving = {"prompts": prompts, "images": torch.rand(6, 8, 8, 3), **inputs}
    pack.nodes.SaveSet.execute(**{name: [value] for name, value in saving.items()})
    names = sorted(path.stem for path in (tmp_path / "set").glob("*.png"))
    assert names[:2] == ["00 cat face 7", "01 cat face 7"]
    assert (tmp_path / "set" / "01 cat face 7.txt").read_text() == "ohwx cat"


def test_variants_of_a_prompt_set_are_numbered_from_0_and_none_is_one_of_a_variant(pack, varied):
    prompts = pack.nodes.PromptSet.execute(["a cat\na {red|blue} bus"]).args[0]
    once = varied(prompts, which="1", count=2)
    assert [row.variant for row in once.rows] == [None, None, (1, 0.5), (2, 0.5), None]
    assert once.rows[2].factors == once.rows[1].factors
    twice = varied(once, which="1-3", count=1, part_at=0.8)
    assert [row.variant for row in twice.rows] == [None, None, (1, 0.5), (2, 0.5), (3, 0.8), None]
    with pytest.raises(ValueError, match="names picture 3, but there are 3"):
        varied(prompts, which="3")
