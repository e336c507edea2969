"""The advisor on models whose time of decision is known: what it advises, and that what it promises holds."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_models import ToyBench, prompts

from hierdiff_core import PromptTree
from hierdiff_core.measure.advice import advise, most_passes, read_advice, write_advice
from hierdiff_core.measure.advice_file import MOST_BYTES, advice_json, advice_of_json
from hierdiff_core.measure.menu import TOGETHER

LATE = {"decision": 0.06, "per_step": 20, "unguided": 0.3, "spoilt": 1}
EARLY = {"decision": 0.7, "per_step": 1, "unguided": 0.1}
NOTHING = {"decision": 0.99, "per_step": 300, "unguided": 30}
ROWS = "rows per picture"


KNOWN = {}  # of models that several tests ask about


def advice_on(goal="no visible loss", value=3.0, folder=None, measure="looks as good", **model):
    """A bench, and the advice on its model; measured once in this process where nothing is kept in a folder."""
    key = repr((goal, value, measure, sorted(model.items()), folder))
    if key not in KNOWN or folder is not None:
        bench = ToyBench(prompts(), **model)
        KNOWN[key] = bench, advise(bench, bench.whole, goal, value, measure, folder=folder)
    return KNOWN[key]


def shared(advice):
    """Shares of full sampling's steps that all prompts, and that neighbours, have together."""
    way, full = advice.chosen.way, advice.full.way
    levels = (way.trunk, way.sharing[-1][0] if way.sharing else 1.0)
    return [sum(own >= level for own in full.levels[1:]) / full.steps for level in levels]


# --- what is advised


def test_late_model_shares_nearly_all_of_its_steps():
    bench, advice = advice_on(**LATE)
    assert max(shared(advice)) >= 0.85
    assert advice.chosen.passes <= 0.25 * advice.full.passes
    assert advice.met
    assert advice.chosen.checked
    assert bench.loss_on_all(advice.chosen.way) <= advice.promised
    assert advice.sentences[0].startswith("Sharing pays")


def test_early_model_takes_fewer_steps_and_shares_the_first_of_them_alone():
    bench, advice = advice_on(**EARLY)
    way = advice.chosen.way
    assert way.steps <= 12
    assert 0 < shared(advice)[0] <= 0.3
    assert way.guidance.end < 1
    assert advice.chosen.passes < 0.2 * advice.full.passes
    assert bench.loss_on_all(way) <= advice.promised
    together = r"\d+ of 40 steps are enough; guidance can stop after \d+ %; together [\d.]+ instead of 80 passes"
    assert re.match(rf"Sharing pays up to [23]\d % of the steps; {together}", advice.sentences[0])


def test_sharing_as_deep_as_a_late_model_does_is_told_to_ruin_an_early_one():
    _, advice = advice_on(**EARLY)
    deep = [one for one in advice.measured if one.means == "first steps shared by all" and one.passes < 50]
    assert deep
    assert all(advice.verdict_on(one) == "visible" for one in deep)


def test_model_on_which_nothing_pays_is_drawn_in_full_and_what_is_reachable_is_told():
    bench, advice = advice_on(**NOTHING)
    assert not advice.met
    assert advice.chosen == advice.full
    assert (advice.loss, advice.promised, advice.verdict) == (0, 0, "none")
    assert advice.plan_for(bench.whole).clusters_per_step.tolist() == [36] * 40
    assert "Nothing that saves holds a loss of 3.0 %" in advice.sentences[0]
    assert "takes 76 instead of 80 passes per picture, and loses 4." in advice.sentences[0]


def test_model_without_guidance_has_none_cut_or_raised():
    bench, advice = advice_on(**EARLY, guided=False)
    assert all(not way.guidance.cuts and not way.guidance.boosts for way, _ in bench.ways)
    assert advice.full.passes == 40
    assert advice.chosen.way.steps <= 12
    assert "without guidance" in " ".join(advice.sentences)


def test_raised_guidance_is_advised_where_it_mends_and_never_where_it_spoils():
    model = {"decision": 0.7, "width": 0.12, "per_step": 1000, "unguided": 30}
    bench, mended = advice_on(**model, mended=3)
    assert mended.chosen.way.guidance.boosts
    assert bench.loss_on_all(mended.chosen.way) <= mended.promised
    assert "guidance times 2 for 6 steps after each split mends what sharing costs" in mended.sentences[0]
    _, spoilt = advice_on(**model, spoilt=3)
    assert not spoilt.chosen.way.guidance.boosts
    assert any(one.way.guidance.boosts for one in spoilt.measured)
    assert mended.chosen.passes < spoilt.chosen.passes


def test_step_cache_is_tried_and_counted_by_what_it_left():
    _, advice = advice_on(**EARLY, caches=("EasyCache",))
    alone = next(one for one in advice.measured if one.means == "EasyCache")
    assert alone.passes == pytest.approx(advice.full.passes / 2)
    assert advice.chosen.way.cache == "EasyCache"
    _, without = advice_on(**EARLY)
    assert advice.chosen.passes < without.chosen.passes


@pytest.mark.parametrize("model", [LATE, EARLY])
@pytest.mark.parametrize("rows", [4, 8, 16])
def test_budget_is_kept_and_never_lost_on_a_single_means(model, rows):
    bench, advice = advice_on(ROWS, rows, **model)
    assert advice.met
    assert advice.chosen.passes <= 2 * rows * (1 + 1e-9)
    affordable = [one for one in advice.measured if one.means != TOGETHER and one.passes <= 2 * rows]
    losses = [bench.loss_on_all(one.way) for one in affordable]
    assert bench.loss_on_all(advice.chosen.way) <= min(losses, default=np.inf) + 1.0


def test_budget_below_all_ways_takes_the_one_with_the_fewest_and_says_so():
    _, advice = advice_on(ROWS, 0.01, **EARLY)
    assert not advice.met
    assert "No way takes 0.02 passes or fewer" in advice.sentences[0] or "No way takes 0 passes" in advice.sentences[0]
    assert advice.chosen.passes == min(one.passes for one in advice.measured)


def test_likeness_is_measured_by_distance_alone():
    bench, advice = advice_on(measure="looks the same", **EARLY)
    assert set(advice.chosen.losses) == {"fidelity"}
    assert bench.loss_on_all(advice.chosen.way) < 10
    assert advice.met


def test_detail_is_held_too_where_pictures_are_decoded():
    _, advice = advice_on(**EARLY, decodes=True)
    assert set(advice.chosen.losses) == {"adherence", "detail"}
    assert max(advice.chosen.losses.values()) <= 3
    assert not any("Fine detail was not measured" in line for line in advice.sentences)


# --- what is promised


def random_bench(seed):
    rng = np.random.default_rng(seed)
    positive = prompts(int(rng.integers(2, 7)), int(rng.integers(3, 8)), float(rng.choice([0.1, 0.3, 0.6])), seed)
    return ToyBench(
        positive,
        decision=rng.uniform(0.03, 0.97),
        per_step=10 ** rng.uniform(-1, 2),
        unguided=10 ** rng.uniform(-2, 0.5),
        blur=float(rng.choice([0.005, 0.02])),
        steps=int(rng.choice([10, 20])),
        samples=int(rng.choice([6, 8, 12])),
        guided=bool(rng.random() < 0.8),
        seed=seed,
    ), float(rng.choice([1, 3, 10]))


def test_promises_hold_on_other_prompts_and_noise():
    """Of 24 models, tolerances and sets, no more than two lose more than was promised, and those little."""
    missed = []
    for seed in range(24):
        bench, value = random_bench(seed)
        done = []
        advice = advise(bench, bench.whole, value=value, progress=lambda *told, done=done: done.append(told))
        assert all(passes <= most for passes, most, _ in done)
        assert advice.chosen == advice.full or advice.chosen.checked
        real = np.mean([bench.loss_on_all(advice.chosen.way, noise) for noise in (7, 8, 9)])
        if real > advice.promised:
            missed.append(real - advice.promised)
    assert len(missed) <= 2
    assert max(missed, default=0) < 2


def test_bad_luck_of_the_first_noise_is_found_by_the_second():
    class Lucky(ToyBench):
        """With the user's own noise half the steps lose nothing at all, with any other much."""

        def drawn(self, plan, positive, way, repeat):
            self.per_step = 0.0 if repeat == 0 else 300.0
            return super().drawn(plan, positive, way, repeat)

    bench = Lucky(prompts(), decision=0.99, unguided=3)
    advice = advise(bench, bench.whole)
    assert advice.chosen.way.steps == 40


def test_gain_by_less_guidance_does_not_hide_what_sharing_loses():
    class Brighter(ToyBench):
        """Without guidance the prompts show more: what the model then draws is more of its own."""

        def followed(self, latents, positive):
            return super().followed(latents, positive) + self.gain

        def draw(self, way, plan, repeat=0):
            self.gain = 0.3 * (1 - way.guidance.end)
            return super().draw(way, plan, repeat)

    bench = Brighter(prompts(), decision=0.5, per_step=100, width=0.2)
    advice = advise(bench, bench.whole)
    assert advice.chosen.way.guidance.end < 1
    bench.gain = 0
    assert bench.loss_on_all(advice.chosen.way) <= advice.promised


# --- kept measurements


def test_cancelled_measurement_goes_on_where_it_stopped(tmp_path):
    whole, expected = advice_on(**EARLY)
    bench = ToyBench(prompts(), **EARLY)
    bench.stop_at = 7
    with pytest.raises(KeyboardInterrupt):
        advise(bench, bench.whole, folder=tmp_path)
    assert len(bench.ways) == 7
    bench.stop_at = None
    assert advise(bench, bench.whole, folder=tmp_path) == expected
    assert len(bench.ways) == len(whole.ways)
    assert len(set(bench.ways)) == len(bench.ways)


def test_the_same_measurement_is_found_again_and_another_goal_draws_little(tmp_path):
    bench, first = advice_on(**EARLY, folder=tmp_path)
    again, second = advice_on(**EARLY, folder=tmp_path)
    assert second == first
    assert again.ways == []
    other, third = advice_on(ROWS, 6, **EARLY, folder=tmp_path)
    assert third.goal == ROWS
    assert 0 < len(other.ways) < 0.8 * len(bench.ways)


@pytest.mark.parametrize("change", [{"fingerprint": "another"}, {"settings": {"sampler": "heun"}}, {"seed": 1}])
def test_measurements_of_another_model_sampler_or_sample_are_not_taken(tmp_path, change):
    advice_on(**EARLY, folder=tmp_path)
    bench, _ = advice_on(**EARLY, folder=tmp_path, **change)
    assert len(bench.ways) > 10


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "hierdiff-trials-1", "trials": {"a": 3}}', "[" * 5000])
def test_broken_file_of_measurements_is_measured_again(tmp_path, text):
    bench, first = advice_on(**EARLY, folder=tmp_path)
    next(tmp_path.iterdir()).write_text(text)
    again, second = advice_on(**EARLY, folder=tmp_path)
    assert second == first
    assert len(again.ways) == len(bench.ways)


# --- bad input


def refused(match, bench=None, tree=None, **options):
    bench = bench or ToyBench(prompts(), **EARLY)
    with pytest.raises(ValueError, match=match):
        advise(bench, bench.whole if tree is None else tree, **options)
    assert bench.ways == []


def test_one_prompt_and_equal_prompts_are_refused():
    for rows, match in (([[1.0, 0]], "there is one prompt"), ([[1.0, 0]] * 3, "all 3 prompts are equal")):
        with pytest.raises(ValueError, match=match):
            ToyBench(np.array(rows))
        refused(match, tree=PromptTree.of(rows, "chord"))


def test_too_few_samples_are_refused_and_two_are_enough():
    with pytest.raises(ValueError, match="samples must be 2 or more, for sharing takes two prompts; got 1"):
        ToyBench(prompts(), samples=1)
    _, advice = advice_on(**EARLY, samples=2)
    assert advice.samples == 2
    assert advice.promised >= advice.loss + 0.5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"goal": "cheap"}, "goal must be one of no visible loss, rows per picture; got 'cheap'"),
        ({"measure": "eyes"}, "measure must be one of looks as good, looks the same; got 'eyes'"),
        ({"value": 0.0}, "value must be the loss that is allowed, in per cent, above 0; got 0"),
        ({"value": float("nan")}, "above 0; got nan"),
        ({"goal": ROWS, "value": -1.0}, "value must be the number of guided rows per picture above 0; got -1"),
    ],
)
def test_goals_that_are_none_are_refused_before_anything_is_drawn(options, match):
    refused(match, **options)


def test_run_of_one_step_has_nothing_to_save():
    refused("with 1 step there is nothing to save", ToyBench(prompts(), steps=1))


def test_runs_of_few_steps_can_be_measured():
    for steps in (2, 3, 5):
        _, advice = advice_on(**EARLY, steps=steps)
        assert advice.full.way.steps == steps


def test_model_that_does_not_follow_its_prompts_is_named():
    class Deaf(ToyBench):
        def adherence(self, latents):
            return np.random.default_rng(0).normal(size=len(latents)) * 0.1

    bench = Deaf(prompts())
    with pytest.raises(ValueError, match="the prompts hardly show in full sampling's own pictures"):
        advise(bench, bench.whole)


def test_advice_of_another_model_or_sampler_is_refused_by_name():
    _, advice = advice_on(**EARLY)
    advice.check_for("toy", {"sampler": "euler", "cfg": 3.0, "unknown": 1})
    with pytest.raises(ValueError, match=r"the model is another one \('other', not 'toy'\); sampler is 'heun', it was"):
        advice.check_for("other", {"sampler": "heun", "steps": 40})


# --- the plan


def test_advised_plan_carries_its_guidance_and_what_was_measured():
    bench, advice = advice_on(**EARLY)
    plan = advice.plan_for(bench.whole)
    assert plan.guidance == advice.chosen.way.guidance
    assert plan.num_steps == advice.chosen.way.steps
    assert plan.advised.model == "toy"
    assert plan.advised.settings == bench.settings
    assert plan.advised.verdict == advice.verdict
    assert plan.advised.passes == pytest.approx(plan.guidance.passes(plan) / plan.num_distinct)
    assert plan.advised.passes == pytest.approx(advice.chosen.passes)


def test_advice_serves_other_sets_too():
    _, advice = advice_on(**LATE)
    for count in (1, 2, 90):
        positive = prompts(max(1, count // 6), min(6, count), seed=3)
        plan = advice.plan_for(PromptTree.of(positive, "chord"))
        assert plan.num_prompts == len(positive)
        assert plan.thresholds[-1] == 0


# --- the file


def test_file_gives_equal_advice(tmp_path):
    _, advice = advice_on(**LATE, caches=("EasyCache",))
    write_advice(advice, tmp_path / "advice.json")
    again = read_advice(tmp_path / "advice.json")
    assert again == advice
    assert again.sentences == advice.sentences


@pytest.fixture(scope="module")
def text():
    return advice_json(advice_on(**EARLY)[1]).decode()


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("hierdiff-advice-1", "hierdiff-advice-9", "its format is not hierdiff-advice-1"),
        ('"model": "toy"', '"model": ""', "model must be a text of 1 to"),
        ('"model": "toy"', '"modle": "toy"', "it lacks model"),
        ('"model": "toy"', '"model": "\\ud800"', "surrogates"),
        ('"value": 3.0', '"value": "3"', "value must be a number; got '3'"),
        ('"value": 3.0', '"value": NaN', "value must be a number; got nan"),
        ('"goal": "no visible loss"', '"goal": "none"', "goal must be one of no visible loss"),
        ('"guided": true', '"guided": 1', "guided must be true or false; got 1"),
        ('"samples": 8', '"samples": 0', "samples must be a whole number from 1"),
        ('"adherence": 0.0', '"beauty": 0.0', "must be by adherence, detail, fidelity"),
        ('"trunk": 1.0', '"trunk": 7.0', "trunk must lie between 0 and 1; got 7.0"),
        ('"end": 1.0', '"end": null', "end must be a finite number; got None"),
        ('"cfg": 3.0', '"cfg": [3.0]', "settings must be texts"),
        ('"measured": [', '"measured": [3, ', "measured must have"),
    ],
)
def test_files_that_are_no_advice_are_refused_by_entry(tmp_path, text, old, new, match):
    assert old in text
    path = tmp_path / "advice.json"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"advice.json is no advice saved by What Pays Here\?: .*{match}"):
        read_advice(path)


def test_missing_deep_and_large_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is no advice"):
        read_advice(tmp_path / "none.json")
    for content in (b"[" * 100_000, b" " * (MOST_BYTES + 1), b"\xff\xfe"):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(ValueError, match="is no advice"):
            read_advice(tmp_path / "bad.json")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_change_of_a_file_does_more_than_be_refused(text, data):
    place = data.draw(st.integers(0, len(text) - 1))
    broken = text[:place] + data.draw(st.sampled_from(["", "[", "9", "null", '"', "-1e400", "{"])) + text[place + 1 :]
    try:
        advice = advice_of_json(broken)
    except ValueError:
        return
    assert advice.sentences


# --- the announcement


@pytest.mark.parametrize("model", [LATE, EARLY, NOTHING, {**EARLY, "guided": False}, {**EARLY, "steps": 4}])
def test_cost_is_announced_and_kept(model):
    bench = ToyBench(prompts(), **model)
    told = []
    advise(bench, bench.whole, progress=lambda *one: told.append(one))
    most = most_passes(bench)
    drawn = sum(way.passes(bench.tree, bench.guided) * bench.tree.num_distinct + 80 for way, _ in bench.ways)
    assert drawn <= most
    assert {one[1] for one in told} == {most}
    assert [one[0] for one in told] == sorted(one[0] for one in told)
    assert told[0][0] == 0
    assert told[2][2].endswith("steps")


# --- the words


def told(**changes):
    """The first sentence of an early model's advice with other numbers of what was chosen."""
    _, advice = advice_on(**EARLY)
    return replace(advice, chosen=replace(advice.chosen, **changes)).sentences[0]


def test_loss_is_only_called_unmeasurable_where_it_is_small_and_within_chance():
    assert "no measurable loss" in told(losses={"adherence": 0.4}, errors={"adherence": 0.1})
    assert "no measurable loss" in told(losses={"adherence": 1.5}, errors={"adherence": 0.9})
    assert "1.5 % lost of what the prompts show" in told(losses={"adherence": 1.5}, errors={"adherence": 0.1})
    assert "5.0 % lost of what the prompts show" in told(losses={"adherence": 5.0}, errors={"adherence": 9.0})
    both = {"losses": {"adherence": 0.0, "detail": 2.6}, "errors": {"adherence": 0.1, "detail": 0.1}}
    assert "2.6 % lost of the fine detail" in told(**both)


def test_words_are_those_of_users():
    for model in (LATE, EARLY, NOTHING):
        text = " ".join(advice_on(**model)[1].sentences)
        assert not any(word in text.lower() for word in ("nfe", "tau", "adherence", "trunk", "cluster", "sigma"))
        assert not any(bad in text for bad in ("nan", "inf ", "  ", "..", "-0"))


def test_samplers_that_add_noise_are_named_where_little_can_be_shared():
    hint = "such as Euler ancestral, often bear more sharing"
    for model, told_so in ((EARLY, True), (LATE, False)):
        assert (hint in " ".join(advice_on(**model)[1].sentences)) == told_so
    _, noisy = advice_on(**EARLY, settings={"sampler": "dpmpp_2m_sde", "steps": 40})
    assert hint not in " ".join(noisy.sentences)


def test_saving_that_is_within_the_goal_but_too_unsure_asks_for_more_samples():
    _, advice = advice_on(**NOTHING)
    unsure = [replace(one, losses={"adherence": 2.0}, errors={"adherence": 4.0}) for one in advice.measured[:1]]
    text = replace(advice, measured=tuple(unsure)).sentences[0]
    assert "lost 2.0 % ± 4.0 %, too unsure to be promised: measure with more samples" in text
