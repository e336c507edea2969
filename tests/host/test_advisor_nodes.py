"""What Pays Here? and Load Advice on a small model in this process: what they measure, keep, find again and refuse."""

import dataclasses
import importlib
import sys
import types

import pytest
import torch
from shared_runs import PROMPTS, N, one_negative, positive_of, vectors_of_prompts

from hierdiff_core import PromptEmbeddings, PromptTree

pytestmark = pytest.mark.host
K, SEED = 10, 7


@pytest.fixture(scope="module")
def nodes(pack, following):
    names = {"advisor": "advisor", "advice": "advice", "bench": "host.advisor_bench", "measured": "host.measured"}
    found = {name: importlib.import_module(f"{pack.__name__}.nodes.{place}") for name, place in names.items()}
    return types.SimpleNamespace(**found, following=following)


@pytest.fixture(scope="module")
def model(following):
    return following.following_model()


@pytest.fixture(autouse=True)
def output(output_folder, tmp_path):
    """An output folder for each test."""
    output_folder(tmp_path)
    return tmp_path


@pytest.fixture
def told(nodes, monkeypatch):
    """What the node says while it runs."""
    said = []
    monkeypatch.setattr(nodes.advisor, "tell", lambda cls, text: said.append(text))
    return said


def ask(nodes, model, tree, **changes):
    settings = {
        "positive": positive_of(vectors_of_prompts()),
        "negative": one_negative(),
        "latent_image": {"samples": torch.zeros(1, 4, 16, 16)},
        "linkage": tree,
        "sampler_name": "euler",
        "scheduler": "normal",
        "steps": K,
        "cfg": 1.5,
        "seed": SEED,
        "goal": "no visible loss",
        "value": 10.0,
        "samples": 4,
        "measure": "looks as good",
    }
    return nodes.advisor.Advisor.execute(model, **{**settings, **changes})


def counted(nodes, call):
    """What a call gives, and the rows that the model evaluated for it."""
    before = nodes.following.FollowingModel.calls
    result = call()
    return result, nodes.following.FollowingModel.calls - before


def test_it_says_what_pays_and_plans_it(nodes, model, tree, output, told):
    out, passes = counted(nodes, lambda: ask(nodes, model, tree))
    plan, advice, report, plot = out.result
    assert "at most" in told[0]
    most = int(told[0].split("at most ")[1].split(" passes")[0].replace(",", ""))
    assert 0 < passes <= most
    assert report == out.ui["text"][0]
    assert report.splitlines()[0] == advice.sentences[0]
    assert plan.advised.model == advice.model
    assert plan.guidance == advice.chosen.way.guidance
    assert plan.advised.passes < 2 * K
    assert plan.num_prompts == N
    assert plot.shape[0] == 1
    (file,) = (output / "hierdiff_advice").iterdir()
    assert f"saved as {file.name}" in report


def test_plan_does_what_was_said_and_the_samplers_report_says_so(nodes, host, model, tree):
    plan = ask(nodes, model, tree).result[0]
    reports = []
    sharing = host.sharing.Sharing(plan, show_tree=False, tell=reports.append)
    patched = host.sharing.share_steps(model, sharing)
    latents = torch.zeros(1, 4, 16, 16)
    noise = host.sample.prepare_noise(latents, SEED)
    sides = positive_of(vectors_of_prompts()), one_negative()
    options = {"disable_pbar": True, "seed": SEED}
    _, passes = counted(
        nodes,
        lambda: host.sample.sample(patched, noise, plan.num_steps, 1.5, "euler", "normal", *sides, latents, **options),
    )
    assert passes == round(plan.advised.passes * tree.num_distinct)
    assert f"measured on this model: {nodes.measured.WORDS[plan.advised.verdict]} (looks as good)" in reports[-1]


def test_result_is_found_again_and_costs_nothing_even_for_other_prompts(nodes, model, tree, told):
    first = ask(nodes, model, tree).result
    told.clear()
    again, passes = counted(nodes, lambda: ask(nodes, model, tree, seed=99))
    assert passes == 0
    assert told == []
    assert dataclasses.replace(again.result[1]) == first[1]
    assert "from advice_" in again.result[2]
    vectors = vectors_of_prompts().flip(1)
    other = PromptTree.of(vectors, "chord", [f"other {i}" for i in range(N)])
    plan = ask(nodes, model, other, positive=positive_of(vectors)).result[0]
    assert plan.prompts == other.prompts
    assert plan.advised == dataclasses.replace(first[0].advised, passes=plan.advised.passes)


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler_name": "heun"},
        {"scheduler": "karras"},
        {"steps": K + 1},
        {"cfg": 2.0},
        {"latent_image": {"samples": torch.zeros(1, 4, 12, 16)}},
        {"samples": 6},
        {"value": 11.0},
        {"saved": "measure anew"},
        {"step_caches": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_settings_are_measured_for_themselves(nodes, model, tree, changes):
    ask(nodes, model, tree)
    out, passes = counted(nodes, lambda: ask(nodes, model, tree, **changes))
    assert "from advice_" not in out.result[2]
    if "value" not in changes:  # for another tolerance what was drawn is known
        assert passes > 0


def test_cancel_keeps_what_was_measured_and_it_goes_on_from_there(nodes, model, tree, output, monkeypatch):
    whole, all_passes = counted(nodes, lambda: ask(nodes, model, tree, name="whole"))
    for folder in ("hierdiff_advice", "hierdiff_trials"):
        for file in (output / folder).iterdir():
            file.unlink()
    import comfy.model_management as management

    calls = iter(range(1000))

    def stopping(cls):
        def progress(done, most, what):
            if next(calls) == 5:
                raise management.InterruptProcessingException

        return progress

    with monkeypatch.context() as patch:
        patch.setattr(nodes.advisor, "measuring", stopping)
        with pytest.raises(management.InterruptProcessingException):
            ask(nodes, model, tree)
    assert list((output / "hierdiff_advice").iterdir()) == []
    assert len(list((output / "hierdiff_trials").iterdir())) == 1
    rest, passes = counted(nodes, lambda: ask(nodes, model, tree))
    assert rest.result[1] == whole.result[1]
    assert passes < all_passes


def test_without_guidance_there_is_none_to_cut(nodes, model, tree):
    """cfg 1: no unconditional pass."""
    plan, advice, report, _ = ask(nodes, model, tree, cfg=1.0).result
    assert not advice.guided
    assert "used without guidance, so there is none to cut or to raise" in report
    assert plan.guidance is None or not (plan.guidance.cuts or plan.guidance.boosts)
    assert advice.full.passes == K


def test_tolerance_that_nothing_reaches_says_what_is_reachable(nodes, tree):
    fickle = nodes.following.following_model(nodes.following.FickleModel)
    _, advice, report, _ = ask(nodes, fickle, tree, value=0.1, measure="looks the same", steps=4).result
    assert not advice.met
    assert "What loses least of all that was tried takes" in report.splitlines()[0]


def test_goal_of_rows(nodes, model, tree):
    plan, advice, _, _ = ask(nodes, model, tree, goal="rows per picture", value=6.0).result
    assert advice.chosen.passes <= 12
    assert plan.advised.passes <= 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 1}, "samples must lie between 2 and 100; got 1"),
        ({"steps": 1}, "steps must lie between 2 and 1000; got 1"),
        ({"value": 0.0}, "value must lie between 0.1 and"),
        ({"value": float("nan")}, "value must lie between 0.1 and"),
        ({"goal": "cheap"}, "goal must be one of no visible loss, rows per picture; got 'cheap'"),
        ({"measure": "looks nice"}, "measure must be one of looks as good, looks the same; got 'looks nice'"),
        ({"saved": "never"}, "saved must be one of use it, measure anew; got 'never'"),
        ({"name": "../x"}, "name must be a plain file name"),
        ({"positive": one_negative()}, "the positive conditioning has one row for all prompts"),
        ({"positive": [[torch.zeros(4, 5, 16), {}]]}, "the positive conditioning has 4 rows, but there are 6"),
        ({"negative": [[torch.zeros(4, 5, 16), {}]]}, "the negative conditioning has 4 rows, but there are 6"),
        (
            {"positive": [[torch.zeros(N, 5, 16), {"hierdiff_prompts": ("x", *PROMPTS[1:])}]]},
            'the positive conditioning and the linkage are of different prompts: prompt 0 is "x" and "prompt 0"',
        ),
    ],
)
def test_bad_input_is_refused_before_any_call(nodes, model, tree, changes, message):
    def refused():
        with pytest.raises(ValueError, match=message):
            ask(nodes, model, tree, **changes)

    assert counted(nodes, refused)[1] == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0], "there is one prompt: nothing can be shared, and no advice is needed"),
        ([0, 0, 0], "all 3 prompts are equal, and are drawn once in any case; add prompts"),
    ],
)
def test_one_prompt_and_equal_prompts_are_refused(nodes, model, rows, message):
    vectors = vectors_of_prompts()[rows]
    tree = PromptTree.of(vectors, "chord", [PROMPTS[row] for row in rows])
    with pytest.raises(ValueError, match=message):
        ask(nodes, model, tree, positive=positive_of(vectors))


def test_model_that_does_not_follow_its_prompts_is_named(nodes, host, tree):
    with pytest.raises(ValueError, match=r"prompt"):
        ask(nodes, host.native_models.unet_model(), tree, steps=4)


# --- Load Advice -----------------------------------------------------------------------------------------------------


def test_load_advice_plans_another_set(nodes, model, tree, output):
    first = ask(nodes, model, tree).result
    (file,) = (output / "hierdiff_advice").iterdir()
    assert nodes.advice.LoadAdvice.validate_inputs(advice=file.name) is True
    out = nodes.advice.LoadAdvice.execute(file.name, tree)
    plan, advice, report = out.result
    assert advice == first[1]
    assert plan.advised == first[0].advised
    assert plan.thresholds.tolist() == first[0].thresholds.tolist()
    assert "measured with: sampler euler, scheduler normal, steps 10, cfg 1.5, latent 16 x 16" in report


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no advice 'x.json' under models/hierdiff_advice or output/hierdiff_advice; measure one with"),
        ("{}", "x.json is no advice saved by What Pays Here"),
        ("[" * 100_000, "x.json is no advice saved by What Pays Here.*nested too deeply"),
    ],
)
def test_what_is_no_advice_is_refused(nodes, tree, output, content, message):
    if content is not None:
        (output / "hierdiff_advice" / "x.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        nodes.advice.LoadAdvice.execute("x.json", tree)


def test_damaged_file_is_measured_again(nodes, model, tree, output):
    ask(nodes, model, tree)
    (file,) = (output / "hierdiff_advice").iterdir()
    file.write_text("{")
    out = ask(nodes, model, tree)
    assert "from advice_" not in out.result[2]
    assert nodes.advice.load_advice(file.name) == out.result[1]


# --- The workbench ---------------------------------------------------------------------------------------------------


def bench_of(nodes, model, tree, **changes):
    settings = {"sampler_name": "euler", "scheduler": "normal", "steps": K, "cfg": 1.5, "samples": 4, **changes}
    latent = settings.pop("latent", {"samples": torch.zeros(1, 4, 16, 16)})
    sides = positive_of(vectors_of_prompts()), one_negative()
    return nodes.bench.ModelWorkbench(model, *sides, latent, tree, **settings)


def test_levels_are_as_many_as_steps_and_fall(nodes, model, tree):
    for scheduler in ("normal", "karras", "beta", "ddim_uniform"):
        bench = bench_of(nodes, model, tree, scheduler=scheduler)
        for steps in (2, 7, 20):
            levels = bench.levels(steps)
            assert len(levels) == steps
            assert (levels[1:] <= levels[:-1]).all()
            assert 0 <= levels[-1] <= levels[0] <= 1


def test_caches_of_the_host_are_tried_on_request_unless_the_model_has_one(nodes, model, tree):
    assert bench_of(nodes, model, tree).caches == ()
    assert set(bench_of(nodes, model, tree, try_caches=True).caches) == {"EasyCache", "LazyCache"}
    cached = nodes.bench.host_caches()["LazyCache"](model)
    bench = bench_of(nodes, cached, tree, try_caches=True)
    assert (bench.caches, bench.settings["cache"]) == ((), "LazyCache")


def test_host_without_caches_offers_none(nodes, monkeypatch):
    import comfy_extras.nodes_easycache

    monkeypatch.delattr(comfy_extras, "nodes_easycache")
    monkeypatch.setitem(sys.modules, "comfy_extras.nodes_easycache", None)
    assert nodes.bench.host_caches() == {}


def test_cache_makes_fewer_passes_and_they_are_counted(nodes, host, tree):
    from hierdiff_core.measure.ways import Way

    plain = host.native_models.unet_model()
    bench = bench_of(nodes, plain, tree, steps=12, try_caches=True)
    levels = tuple(bench.levels(12))
    own = {
        name: bench.draw(Way(levels, cache=name), Way(levels).plan(bench.tree)).passes for name in ("", *bench.caches)
    }
    everything = 4 * 12 * 2
    assert own[""] is None
    assert any(own[name] < everything for name in bench.caches)
    assert all(0 < own[name] <= everything for name in bench.caches)


def test_pictures_are_decoded_where_there_is_a_vae_and_latents_otherwise(nodes, model, tree):
    vae = types.SimpleNamespace(decode=lambda row: torch.full((1, 32, 32, 3), float(row.mean())))
    latents = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 4, 16, 16)
    decoded = bench_of(nodes, model, tree, vae=vae).pictures(latents)
    assert decoded.shape == (4, 32, 32, 3)
    assert decoded[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    bench = bench_of(nodes, model, tree)
    assert bench.pictures(latents).shape == (4, 16, 16, 4)
    assert bench.pictures(latents[..., :8]) is None
    video = latents[:, :, None].expand(4, 4, 3, 16, 16)
    assert bench.pictures(video).shape == (4, 48, 16, 4)


@pytest.mark.parametrize(
    ("shape", "vae", "detail"),
    [
        ((1, 4, 16, 16), None, "latents"),
        ((1, 4, 8, 16), None, "none"),
        ((1, 4, 8, 8), object(), "pictures"),
    ],
)
def test_what_detail_is_measured_on_is_a_setting(nodes, model, tree, shape, vae, detail):
    """Else drawings with a VAE would be compared with kept ones without."""
    bench = bench_of(nodes, model, tree, latent={"samples": torch.zeros(shape)}, vae=vae)
    assert bench.settings["detail"] == detail
    found = bench.pictures(torch.zeros(4, *shape[1:])) if vae is None else True
    assert (found is not None) == (detail != "none")


def test_result_without_a_vae_says_that_one_would_help(nodes, model, tree):
    assert "connect a vae to measure fine detail on images" in ask(nodes, model, tree).result[2]
    vae = types.SimpleNamespace(decode=lambda row: row.movedim(1, -1)[..., :3].sigmoid())
    out, passes = counted(nodes, lambda: ask(nodes, model, tree, vae=vae))
    assert passes > 0  # measured for itself
    assert "connect a vae" not in out.result[2]


def test_negatives_of_each_prompt_are_taken_by_row(nodes, model, tree):
    negative = [[torch.arange(float(N)).reshape(N, 1, 1).expand(N, 5, 16), {}]]
    settings = {"sampler_name": "euler", "scheduler": "normal", "steps": K, "cfg": 1.5, "samples": 4}
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    bench = nodes.bench.ModelWorkbench(model, positive_of(vectors_of_prompts()), negative, latent, tree, **settings)
    assert bench.negative[0][0][:, 0, 0].tolist() == bench.rows.tolist()
    assert bench.tree.prompts == tuple(PROMPTS[row] for row in bench.rows)


# --- Kandinsky -------------------------------------------------------------------------------------------------------


def test_decoder_of_another_width_is_refused(pack, nodes, tree):
    decoder = pack.nodes.DecoderLoader.execute("emoji-kandinsky (bundled)", "fp32").result[0]
    vectors = vectors_of_prompts()
    wrong = PromptEmbeddings(vectors, torch.zeros_like(vectors), PROMPTS)
    with pytest.raises(ValueError, match="embeddings are 16 wide, but this decoder takes 128"):
        nodes.advisor.AdvisorKandinsky.execute(
            decoder, wrong, tree, "DDPM", 4, 3.0, 128, 128, 0, "no visible loss", 3.0, 4, "looks as good"
        )


# --- Step caches -----------------------------------------------------------------------------------------------------


def test_plan_that_counts_on_a_cache_says_so_and_holds_with_it_alone(nodes, host, model, tree):
    advice = ask(nodes, model, tree, value=30.0).result[1]
    way = dataclasses.replace(advice.chosen.way, cache="LazyCache")
    counting = dataclasses.replace(advice, chosen=dataclasses.replace(advice.chosen, way=way, cached=0.5))
    plan, _, report, *_ = nodes.advice.shown(nodes.advice.LoadAdvice, counting, tree)
    assert "⚠ the plan counts on LazyCache: put that node, as it is, on the model that draws" in report
    assert plan.advised.settings["cache"] == "LazyCache"
    said = []
    for drawing in (model, nodes.bench.host_caches()["LazyCache"](model)):
        reports = []
        patched = host.sharing.share_steps(drawing, host.sharing.Sharing(plan, show_tree=False, tell=reports.append))
        latents = torch.zeros(1, 4, 16, 16)
        noise, sides = host.sample.prepare_noise(latents, SEED), (positive_of(vectors_of_prompts()), one_negative())
        options = {"disable_pbar": True, "seed": SEED}
        host.sample.sample(patched, noise, plan.num_steps, 1.5, "euler", "normal", *sides, latents, **options)
        said.append(reports[-1])
    assert "but with cache LazyCache, not none: run What Pays Here?" in said[0]
    assert "\nmeasured on this model: " in said[1].replace("⚠ measured", "measured")
