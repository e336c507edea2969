"""The schedulers' memory as a value that branches, is stored and taken up elsewhere; and their noise."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hierdiff_core import build_plan
from hierdiff_core.kandinsky.decoder_step import DecoderStep
from hierdiff_core.kandinsky.scheduler_noise import step_with_noise, unwaiting_step
from hierdiff_core.kandinsky.scheduler_state import SchedulerMemory
from hierdiff_core.kandinsky.schedulers import SCHEDULERS, make_scheduler
from hierdiff_core.plan.part import Part, below, whole
from hierdiff_core.sampling.loop import denoise_part, latents_in_prompt_order
from hierdiff_core.sampling.microbatch import MicroBatches
from hierdiff_core.sampling.noise import BranchNoise, draw_rows, keyed_generator, keyed_noise

ROOT = Path(__file__).parent.parent.parent
# heights 0.1 (prompts 0 and 1), 0.2 (2 and 3), 0.3 (all)
Z = np.array([[0, 1, 0.1, 2], [2, 3, 0.2, 2], [4, 5, 0.3, 4]])
PLAN = build_plan(Z, [0.4, 0.4, 0.25, 0.25, 0.15, 0.15, 0.15, 0.05, 0, 0])  # splits before and after the middle
MIDDLE = 5
CONFIG = {
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "beta_start": 0.00085,
    "clip_sample": True,
    "clip_sample_range": 2.0,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "variance_type": "learned_range",
}


class Network:
    """A line of algebra in place of the UNet."""

    device, dtype = torch.device("cpu"), torch.float32

    def __call__(self, latents, t, embeds):
        noise = torch.sin(latents + t / 500) + 0.1 * embeds[:, :, None, None]
        return torch.cat([noise, 0.1 * noise], dim=1)


def make_step(name):
    noise = BranchNoise(keyed_noise(3), PLAN, [30, 10, 40, 20])
    scheduler = make_scheduler(name, CONFIG, PLAN.num_steps)
    return DecoderStep(Network(), scheduler, [2.0] * PLAN.num_steps, noise, MicroBatches(8))


def embeddings():
    return torch.randn(4, 2, 4, generator=torch.Generator().manual_seed(1))


def first():
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))


def drawn(step, **options):
    part = whole(PLAN)
    return latents_in_prompt_order(denoise_part(part, first(), step.first, step, embeddings(), **options), 4)


def stored(name):
    """What is left of each part after the middle step, depth first: numbers, latents and state, pickled there."""
    step, parts = make_step(name), []

    def storing(rows, k, clusters, means, state):
        rows, state = step(rows, k, clusters, means, state)
        if k == MIDDLE:
            rest = below(whole(PLAN), MIDDLE, clusters)
            rest = Part(MIDDLE + 1, rest.prompts, rest.distinct, rest.steps[1:])
            parts.append(pickle.dumps((rest, rows, state)))
        return rows, state

    list(denoise_part(whole(PLAN), first(), step.first, storing, embeddings(), most_rows=1))
    assert len(parts) == PLAN.steps[MIDDLE].num_clusters == 3
    return parts


def resumed(name, parts):
    """Take the parts up with a fresh scheduler; {prompt: latent}."""
    step, found = make_step(name), {}
    for part, rows, state in map(pickle.loads, parts):
        for prompts, latents in denoise_part(part, rows, state, step, embeddings()):
            found.update(zip(prompts.tolist(), latents, strict=True))
    return found


@pytest.fixture(scope="module")
def in_another_process(tmp_path_factory):
    """What a fresh Python makes of the stored parts of all schedulers; importing diffusers once takes long enough."""
    folder = tmp_path_factory.mktemp("stored")
    (folder / "parts").write_bytes(pickle.dumps({name: stored(name) for name in SCHEDULERS}))
    code = f"""
import pickle, sys
sys.path[:0] = {[str(ROOT), str(Path(__file__).parent)]}
from test_schedulers import resumed
parts = pickle.load(open("parts", "rb"))
pickle.dump({{name: resumed(name, parts[name]) for name in parts}}, open("found", "wb"))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)
    return pickle.loads((folder / "found").read_bytes())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_run_stored_half_way_goes_on_bit_identically_in_another_process(name, in_another_process):
    expected, found = drawn(make_step(name)), in_another_process[name]
    assert sorted(found) == [0, 1, 2, 3]
    for i, latent in found.items():
        assert torch.equal(latent, expected[i])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_depth_first_leaves_no_memory_of_one_part_to_another(name):
    step = make_step(name)
    expected = drawn(step)
    assert torch.equal(drawn(step, most_rows=1), expected)
    assert torch.equal(drawn(step), expected)  # the same scheduler once more


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_state_is_not_changed_by_the_steps_that_follow(name):
    step, rows, states = make_step(name), first(), []
    state, means = step.first, embeddings()[:1].transpose(0, 1)
    for k in range(4):
        rows, state = step(rows, k, np.zeros(1, dtype=np.int64), means, state)
        states.append((rows, state, pickle.dumps(state)))
    for k, (rows, state, as_it_was) in enumerate(states[:-1]):
        assert pickle.dumps(state) == as_it_was
        again, _ = step(rows, k + 1, np.zeros(1, dtype=np.int64), means, state)
        assert torch.equal(again, states[k + 1][0])


def test_only_what_the_steps_change_is_remembered():
    def remembered(name):
        step = make_step(name)
        means = embeddings()[:1].transpose(0, 1)
        return step(first(), 0, np.zeros(1, dtype=np.int64), means, step.first)[1]

    assert remembered("DDPM").values == {}
    assert remembered("DDIM").values == {}
    assert set(remembered("Euler").values) == {"_step_index", "is_scale_input_called"}
    assert set(remembered("DPM++ 2M").values) == {"_step_index", "model_outputs", "lower_order_nums"}
    multistep = remembered("UniPC")
    assert {"_step_index", "model_outputs", "last_sample", "lower_order_nums"} <= set(multistep.values)
    branched = multistep[torch.tensor([0, 0, 0])]
    assert branched.values["last_sample"].shape == (3, 4, 8, 8)
    assert [None if x is None else len(x) for x in branched.values["model_outputs"]] == [None, 3]


def test_writing_a_state_forgets_everything_else():
    class Scheduler:
        def __init__(self):
            self.outputs, self.count = [None, None], 0

    scheduler = Scheduler()
    memory = SchedulerMemory(scheduler)
    scheduler.outputs[0], scheduler.count, scheduler.more = "a", 1, "b"  # in place, by assignment, and a new one
    state = memory.read((1,))
    assert dict(state.values) == {"outputs": ["a", None], "count": 1, "more": "b"}
    memory.write(memory.first)
    assert vars(scheduler) == {"outputs": [None, None], "count": 0}
    memory.write(state)
    scheduler.outputs[1] = "c"
    assert state.values["outputs"] == ["a", None]
    memory.write(memory.first)
    assert scheduler.outputs == [None, None]


# --- noise


@pytest.mark.parametrize("name", ["DDPM", "Euler ancestral"])
def test_noise_drawn_row_by_row_is_the_schedulers_own_to_the_bit(name):
    like = (3, 4, 8, 8)
    latents, output = (torch.randn(like, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    if name == "DDPM":
        output = torch.cat([output, output], dim=1)
    results = []
    for unwaiting in (False, True):
        made = make_scheduler(name, CONFIG, 5)
        generators = [keyed_generator(7, key, 2) for key in (3, 1, 2)]
        if unwaiting:
            step = unwaiting_step(type(made))
            assert step is not None
            results.append(step(made, output, made.timesteps[2], latents, generator=generators).prev_sample)
        else:
            results.append(step_with_noise(made, output, made.timesteps[2], latents, generators))
    assert torch.equal(*results)
    own = make_scheduler(name, CONFIG, 5)
    generators = [keyed_generator(7, key, 2) for key in (3, 1, 2)]
    assert torch.equal(results[0], own.step(output, own.timesteps[2], latents, generator=generators).prev_sample)


def test_unwaiting_step_draws_by_draw_rows_and_leaves_diffusers_as_it_is(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "hierdiff_core.kandinsky.scheduler_noise.draw_rows", lambda *a: drawn.append(a) or draw_rows(*a)
    )
    made = make_scheduler("DDPM", CONFIG, 5)
    before = dict(type(made).step.__globals__)
    generators = [keyed_generator(7, key, 2) for key in (3, 1)]
    latents = torch.zeros(2, 4, 8, 8)
    output = torch.zeros(2, 8, 8, 8)
    unwaiting_step(type(made))(made, output, made.timesteps[2], latents, generator=generators)
    ((used, shape, dtype, device),) = drawn
    assert used is generators
    assert (tuple(shape), dtype, device) == ((2, 4, 8, 8), torch.float32, torch.device("cpu"))
    assert type(made).step.__globals__ == before


def test_scheduler_that_draws_in_another_way_keeps_its_own_step():
    class Other:
        def step(self, output, t, sample, generator=None):
            return sample

    assert unwaiting_step(Other) is None
    assert unwaiting_step(object) is None
