"""Pictures that Branching Sampler decodes while it samples: where there is memory for both, and how it ends."""

import importlib
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hierdiff_core import load_decoder

pytestmark = pytest.mark.host

GIB = 2**30
PROMPTS = ("an apple", "a pear", "a plum")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def modules(pack):
    names = {"beside": "nodes.host.decode_beside", "saving": "nodes.saving", "vae": "nodes.host.vae"}
    names["devices"] = "hierdiff_core.devices"
    return SimpleNamespace(
        **{name: importlib.import_module(f"{pack.__name__}.{path}") for name, path in names.items()}, nodes=pack.nodes
    )


def full_size(unet=CUDA, movq=CUDA):
    """A decoder of Kandinsky's size, without weights; `loaded` are the calls of the host."""
    pipeline = SimpleNamespace(
        movq_scale_factor=8,
        unet=SimpleNamespace(config=SimpleNamespace(block_out_channels=(384,)), dtype=torch.float16, device=unet),
        movq=SimpleNamespace(
            config=SimpleNamespace(block_out_channels=(128, 256, 256, 512)), dtype=torch.float16, device=movq
        ),
    )
    loaded = []
    load = lambda memory_required: loaded.append(round(memory_required / GIB, 2))  # noqa: E731
    return SimpleNamespace(
        pipeline=pipeline, patcher="unet", vae=SimpleNamespace(patcher="movq"), load=load, loaded=loaded
    )


@pytest.mark.parametrize(
    ("free", "pixels", "fits"),
    [(70, 512, (True, 8)), (21, 512, (True, 8)), (9, 512, (True, 5)), (4.8, 512, (True, 0)), (4.8, 768, (True, 0))],
)
def test_pictures_are_decoded_aside_where_both_fit_and_else_in_turns(modules, monkeypatch, free, pixels, fits):
    import comfy.model_management

    asked = []
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda models, **how: asked.append((models, how)))
    monkeypatch.setattr(modules.beside, "free_memory", lambda device: free * GIB)
    decoder = full_size()
    assert modules.beside.load_beside(decoder, pixels, pixels, 32) == fits
    assert asked[0][0] == ["unet", "movq"]
    assert decoder.loaded == []


def test_where_the_host_has_no_room_for_both_the_unet_alone_is_loaded(modules, monkeypatch):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *_, **__: None)
    decoder = full_size(movq=CPU)
    assert modules.beside.load_beside(decoder, 512, 512, 32) == (False, 0)
    assert decoder.loaded == [3.75]
    assert modules.beside.side_stream(decoder, modules.beside.Beside(False)) is None
    assert modules.beside.load_beside(full_size(CPU, CPU), 512, 512, 32) == (True, 0)  # on a CPU they take turns


def test_a_first_call_sets_movq_up_before_anything_is_beside_it(modules, monkeypatch):
    made, decode = [], modules.beside.decode
    monkeypatch.setattr(modules.beside, "decode", lambda *given: made.append(decode(*given).shape))
    decoder = SimpleNamespace(pipeline=load_decoder())
    side = modules.beside.side_stream(decoder, modules.beside.Beside(True, 4))
    assert made == [(1, 64, 64, 3)]
    side.end()


# --- the saver


@pytest.fixture
def saver(modules, pack, tmp_path, monkeypatch):
    """Makes a `Saver` with a thread of its own, whose decoder waits until it may begin."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    saving = pack.nodes.SaveAsDrawn.execute(PROMPTS, "aside", "png", "none", "{index:04d}").result[0]
    begin = threading.Event()

    def decode(latents):
        begin.wait()
        if latents.isnan().any():
            raise ArithmeticError("not a number")
        if len(latents) > made.fit:
            raise torch.OutOfMemoryError("out of memory")
        return latents.movedim(1, -1)[..., :3].clamp(0, 1)

    made = modules.saving.Saver(saving, decode, True, modules.devices.SideStream(CPU, "aside"))
    made.begin, made.fit = begin, 3
    yield made
    begin.set()
    made.close()


@pytest.fixture
def latents():
    return torch.rand((3, 4, 8, 8), generator=torch.Generator().manual_seed(0))


def names(folder):
    return sorted(path.name for path in (folder / "aside").glob("*.png"))


def test_the_sampler_does_not_wait_for_pictures_and_all_are_saved_at_its_end(saver, latents, tmp_path):
    saver.on_finished(np.array([1]), latents[[1]])
    saver.on_finished(np.array([0, 2]), latents[[0, 2]])
    assert names(tmp_path) == []
    saver.begin.set()
    saver.end()
    assert names(tmp_path) == ["0000.png", "0001.png", "0002.png"]
    assert "3 of 3" in saver.lines()[0]


def test_what_was_finished_is_saved_whatever_ends_the_run(saver, latents, tmp_path):
    saver.on_finished(np.array([1]), latents[[1]])
    threading.Timer(0, saver.begin.set).start()
    saver.close()
    assert names(tmp_path) == ["0001.png"]


def test_a_decoder_that_fails_is_said_and_ends_nothing(saver, latents, tmp_path):
    saver.begin.set()
    saver.on_finished(np.array([0]), latents[[0]])
    saver.on_finished(np.array([1]), latents[[1]] * torch.nan)
    saver.end()
    assert names(tmp_path) == ["0000.png"]
    assert saver.lines()[1].startswith("⚠ saving the pictures failed (ArithmeticError: not a number)")


def test_what_does_not_fit_beside_the_sampler_is_decoded_when_it_is_done(saver, latents, tmp_path):
    saver.fit = 1
    saver.begin.set()
    saver.on_finished(np.array([0, 2]), latents[[0, 2]])
    saver.on_finished(np.array([1]), latents[[1]])
    saver.settle()
    assert names(tmp_path) in ([], ["0001.png"])  # the writer may be at it
    saver.fit = 2
    saver.end()
    assert names(tmp_path) == ["0000.png", "0001.png", "0002.png"]
    assert len(saver.lines()) == 1


# --- the host's VAE


def test_movq_makes_fewer_pictures_where_memory_runs_out_and_no_tiles(modules, monkeypatch):
    sizes = []

    def decode(z, **how):
        sizes.append(len(z))
        if len(z) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return (z * 2,)

    movq = modules.vae.MoVQ(SimpleNamespace(decode=decode, dtype=torch.float32))
    latents = torch.arange(20.0).reshape(20, 1, 1, 1)
    assert torch.equal(movq.decode(latents), latents * 2)
    assert sizes == [1] * 20  # on a CPU
    sizes.clear()
    batches = modules.vae.MicroBatches
    monkeypatch.setattr(modules.vae, "MicroBatches", lambda limit: batches(8))  # as on a card
    assert torch.equal(movq.decode(latents), latents * 2)
    assert sizes == [8, 4, *[2] * 10]


def test_vae_decode_gives_what_was_saved_and_decodes_the_rest(modules, pack, monkeypatch):
    _, vae = pack.nodes.DecoderLoader.execute("emoji-kandinsky (bundled)", "fp32").args
    latents = torch.randn((4, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    expected = vae.decode(latents)
    made, plain = [], type(vae.first_stage_model).decode
    counted = lambda self, z: made.append(len(z)) or plain(self, z)  # noqa: E731
    monkeypatch.setattr(type(vae.first_stage_model), "decode", counted)
    for row in (2, 0):
        vae.saved.put(modules.vae.latent_key(latents[row].double()), expected[row].clone())
    for decode in (vae.shown, vae.decode):
        assert torch.equal(decode(latents), expected)
        assert sum(made) == 2
        made.clear()
    assert vae.saved.held == 0  # nothing is kept for longer than it is needed
    assert torch.equal(vae.decode(latents), expected)
    assert sum(made) == 4


@pytest.mark.parametrize("taken", [True, False])
def test_pictures_that_a_run_has_saved_are_kept_for_the_node_that_decodes_them(
    modules, pack, tmp_path, monkeypatch, taken
):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setattr(modules.saving, "is_taken", lambda prompt, node, output: taken)
    decoder, vae = pack.nodes.DecoderLoader.execute("emoji-kandinsky (bundled)", "fp32").args
    saving = pack.nodes.SaveAsDrawn.execute(PROMPTS, "kept", "png", "none", "{index:04d}").result[0]
    latents = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    vae.saved.put(b"of an earlier run", torch.zeros(1))
    with modules.saving.saving_as_drawn(saving, decoder, PROMPTS, (64, 64), 3, "none") as (saver,):
        saver.on_finished(np.arange(3), latents)
    monkeypatch.setattr(vae, "first_stage_model", None if taken else vae.first_stage_model)  # it is not asked
    images = vae.decode(latents)
    assert vae.saved.held == 0
    monkeypatch.undo()
    assert torch.equal(images, vae.decode(latents))


def test_a_prompt_says_whether_an_output_is_taken(pack):
    upstream = importlib.import_module(f"{pack.__name__}.nodes.host.upstream")
    prompt = {"1": {"inputs": {"seed": 3}}, "2": {"inputs": {"samples": ["1", 0], "text": ["9", 1]}}, "3": {}}
    assert upstream.is_taken(prompt, "1", 0)
    assert not upstream.is_taken(prompt, "1", 2)
    assert not upstream.is_taken(prompt, "3", 0)
    assert upstream.is_taken(prompt, "7", 0)  # in a graph that the prompt does not show
    assert upstream.is_taken(None, None, 0)
