"""Pictures of any MODEL that are decoded while others are sampled: where it is safe, and what it leaves as it was."""

import contextlib
import importlib
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from shared_runs import K, N, ksampler, modules_of, one_negative, positive_of, vectors_of_prompts

from hierdiff_core import build_plan, linear_thresholds, ward_linkage

pytestmark = pytest.mark.host

GIB = 2**30
THREAD = "HierDiff VAE"


@pytest.fixture(scope="module")
def host(pack):
    names = ("finishing", "vae_beside")
    ours = {name: importlib.import_module(f"{pack.__name__}.nodes.host.{name}") for name in names}
    return SimpleNamespace(
        **vars(modules_of(pack)), **ours, management=importlib.import_module("comfy.model_management")
    )


@pytest.fixture
def vae(host):
    """The host's own, of the kind that takes no file, with random weights."""
    import comfy.sd
    import comfy.taesd.taesd

    made = comfy.sd.VAE(sd=comfy.taesd.taesd.TAESD(latent_channels=4).state_dict())
    generator = torch.Generator().manual_seed(0)
    for parameter in made.first_stage_model.requires_grad_(False).parameters():  # the host leaves them as they come
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


@pytest.fixture
def beside(host, monkeypatch):
    """As on a card with streams and memory, but that rows are decoded one by one, as on a CPU."""
    monkeypatch.setattr(host.vae_beside, "has_streams", lambda device: True)
    monkeypatch.setattr(host.vae_beside, "SIZES", (1,))
    set_free(host, monkeypatch, 64 * GIB)


def set_free(host, monkeypatch, size):
    """Let the host believe that so many bytes are free."""
    given = lambda device=None, torch_free_too=False: (size, size) if torch_free_too else size  # noqa: E731
    monkeypatch.setattr(host.management, "get_free_memory", given)


class Saved:
    """Hears of pictures that are finished."""

    def __init__(self, vae):
        self.vae, self.images, self.threads = vae, {}, []

    def on_finished(self, prompts, latents):
        self.threads.append(threading.current_thread().name)
        self.images |= dict(zip(prompts.tolist(), self.vae.decode(latents), strict=True))

    def lines(self):
        return [f"saved {len(self.images)}"]


def drawn(host, model, vae, saved=None, **options):
    """Latents, what was saved, and the report, of a run of two groups."""
    saved = saved or Saved(host.finishing.DecodedOnce(vae))
    Z = ward_linkage(vectors_of_prompts())
    plan = build_plan(Z, linear_thresholds(K, float(Z[-1, 2]) * 0.95), range(100, 100 + N))
    decoded, told = saved.vae, []
    saving = host.finishing.Saving(decoded, lambda: contextlib.nullcontext(saved))
    known = {"show_tree": False, "vae": decoded, "tell": lambda report, **data: told.append(report), "saving": saving}
    patched = host.sharing.share_steps(model, host.sharing.Sharing(plan, **known))
    samples = ksampler(host, patched, positive_of(vectors_of_prompts()), one_negative(), **options)
    return samples, saved, told[0]


def watched(monkeypatch, host, vae, slowly=0.0, failing=None):
    """Names of the threads that decode, and of those in which the host loads or frees, while the network is at work."""
    seen = SimpleNamespace(decoding=[], loading=[], at_once=[], at_work=False)
    plain = type(vae.first_stage_model).decode

    def decode(self, z):
        seen.decoding.append(threading.current_thread().name.rsplit("_", 1)[0])
        aside = seen.decoding[-1] == THREAD
        seen.at_work = aside
        time.sleep(slowly * aside)
        try:
            if aside and failing:
                raise failing
            return plain(self, z)
        finally:
            seen.at_work = False

    monkeypatch.setattr(type(vae.first_stage_model), "decode", decode)

    def noted(plain):
        def call(*args, **kwargs):
            seen.loading.append(threading.current_thread().name)
            seen.at_once.append(seen.at_work)
            return plain(*args, **kwargs)

        return call

    for name in ("load_models_gpu", "free_memory"):
        monkeypatch.setattr(host.management, name, noted(getattr(host.management, name)))
    return seen


def test_pictures_decoded_beside_the_sampler_are_the_same(host, model, vae, beside, monkeypatch):
    samples, saved, report = drawn(host, model, vae)
    with monkeypatch.context() as patch:
        patch.setattr(host.finishing, "vae_beside", lambda *_: None)
        one, expected, other = drawn(host, model, vae)
    assert torch.equal(samples, one)
    assert saved.images.keys() == expected.images.keys() == set(range(N))
    assert all(torch.equal(image, expected.images[i]) for i, image in saved.images.items())
    line = "drawn in 2 groups of subtrees; 4 pictures were decoded and saved while others were sampled"
    assert line in report.splitlines()
    assert "drawn in 2 groups of subtrees, each saved before the next was begun" in other.splitlines()
    assert saved.threads[0].startswith(THREAD)
    assert len(saved.threads) == 2
    assert "MainThread" in saved.threads[1]  # of the last group: nothing is sampled any more


def test_the_host_loads_and_frees_nothing_while_the_thread_decodes(host, model, vae, beside, monkeypatch):
    seen = watched(monkeypatch, host, vae, slowly=0.3)
    drawn(host, model, vae)
    assert THREAD in seen.decoding
    assert seen.loading
    assert set(seen.loading) == {"MainThread"}
    assert not any(seen.at_once)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("no kernel")])
def test_what_fails_in_the_thread_is_decoded_after_the_sampler(host, model, vae, beside, monkeypatch, error):
    seen = watched(monkeypatch, host, vae, failing=error)
    _, saved, report = drawn(host, model, vae)
    assert seen.decoding.count(THREAD) == 1
    assert len(saved.images) == N
    assert "drawn in 2 groups of subtrees, each saved before the next was begun" in report.splitlines()
    assert set(saved.threads) == {"MainThread"}


def test_a_cancel_loses_no_picture_that_was_finished(host, model, vae, beside, monkeypatch):
    calls, saved = [], Saved(host.finishing.DecodedOnce(vae))

    def cancel(step, *_):
        calls.append(step)
        if calls.count(0) == 2:  # in the second group
            raise host.management.InterruptProcessingException

    watched(monkeypatch, host, vae, slowly=0.1)
    with pytest.raises(host.management.InterruptProcessingException):
        drawn(host, model, vae, saved, callback=cancel)
    assert 0 < len(saved.images) < N
    assert saved.threads[0].startswith(THREAD)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(THREAD)]


def test_what_the_vae_and_the_model_need_must_be_free(host, model, vae, beside, monkeypatch):
    one = host.vae_beside.VaeBeside(vae, model)
    rows, latents = (4, 4, 128, 128), (8, 4, 128, 128)
    call = host.vae_beside.bytes_of_call(model, rows)
    picture = vae.memory_used_decode((1, *latents[1:]), vae.vae_dtype)
    monkeypatch.setattr(host.vae_beside, "SIZES", (4, 2, 1))
    for pictures, expected in ((0.9, 0), (1.1, 1), (3.9, 2), (4.1, 4), (9, 4)):
        set_free(host, monkeypatch, (call + pictures * picture) / host.vae_beside.SHARE)
        assert one.at_once(rows, latents) == expected
    monkeypatch.setattr(type(model), "is_dynamic", lambda self: True, raising=False)
    assert one.at_once(rows, latents) == 0


def test_weights_that_are_elsewhere_make_them_take_turns(host, model, vae, beside):
    one = host.vae_beside.VaeBeside(vae, model)
    assert one.at_once((4, 4, 8, 8), (4, 4, 8, 8)) == 1
    vae.first_stage_model.to("meta")
    assert one.at_once((4, 4, 8, 8), (4, 4, 8, 8)) == 0


class TestWhereItIsNotSafe:
    @pytest.fixture
    def asked(self, host, model, vae, beside):
        guider = SimpleNamespace(model_patcher=model.clone(), model_options={}, conds={"positive": [{}]})
        sampler = SimpleNamespace(sampler_function=host.samplers.KSAMPLER.sample)

        def ask(**changes):
            for name, value in changes.items():
                setattr(sampler if name == "sampler_function" else guider, name, value)
            return host.vae_beside.vae_beside(vae, guider, sampler, (4, 4, 8, 8))

        return ask

    def test_plain(self, asked):
        assert asked() is not None

    @pytest.mark.parametrize("name", ["control", "hooks", "gligen"])
    def test_conditioning_with_models_of_its_own(self, asked, name):
        assert asked(conds={"positive": [{}], "negative": [{name: object()}]}) is None

    @pytest.mark.parametrize("kind", ["apply_model", "predict_noise", "outer_sample", "sampler_sample"])
    def test_a_wrapper_of_another_pack(self, asked, kind):
        wrappers = {kind: {"theirs": [lambda executor, *args: executor(*args)]}}
        assert asked(model_options={"transformer_options": {"wrappers": wrappers}}) is None

    def test_a_model_that_is_compiled(self, asked, host, monkeypatch):
        monkeypatch.setattr(host.vae_beside, "is_compiled", lambda options, patcher: True)
        assert asked() is None

    def test_a_function_around_the_model(self, asked):
        assert asked(model_options={"model_function_wrapper": lambda apply, args: apply(**args)}) is None

    def test_a_sampler_of_another_pack(self, asked):
        assert asked(sampler_function=lambda *args: None) is None

    def test_too_little_memory_for_both(self, asked, host, monkeypatch):
        set_free(host, monkeypatch, 2**20)
        assert asked() is None

    def test_no_streams(self, asked, host, monkeypatch):
        monkeypatch.setattr(host.vae_beside, "has_streams", lambda device: device.type == "cuda")
        assert asked() is None

    def test_a_vae_that_does_more_than_its_network(self, asked, vae):
        vae.process_output = lambda image: image + torch.rand(1)
        assert asked() is None

    def test_a_vae_that_takes_no_such_picture(self, asked, vae, monkeypatch):
        monkeypatch.setattr(type(vae.first_stage_model), "decode", lambda self, z: z[:, :, :, 100])
        assert asked() is None

    def test_a_vae_of_another_pack(self, asked, vae):
        vae.decode = lambda latents: latents
        assert asked() is None
