"""The final pictures of a tree: what a VAE makes of a run's latents, as files and for the page."""

import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from shared_runs import N, ksampler, shared_model
from trees import tiles_of

pytestmark = pytest.mark.host

WORKFLOW = {"id": "flow", "nodes": []}


class FakeVAE:
    """Doubles the sides, shows the first three channels, and notes what it was given."""

    def __init__(self, device="cpu", frames=0):
        self.device, self.frames, self.given = torch.device(device), frames, []

    def decode(self, latents):
        self.given.append(latents.clone())
        if self.frames:
            latents = latents[:, :, 0]
        images = latents[:, :3].sigmoid().repeat_interleave(2, 2).repeat_interleave(2, 3).movedim(1, -1)
        return torch.stack([images, 0 * images], dim=1) if self.frames else images


class FakeServer:
    """What a run sends to the page, while node 5 of a prompt runs."""

    def __init__(self):
        self.client_id, self.sent = "page", []
        item = (
            0,
            "prompt",
            {"5": {"class_type": "KSampler", "inputs": {}}},
            {"extra_pnginfo": {"workflow": WORKFLOW}},
            [],
        )
        self.prompt_queue = SimpleNamespace(currently_running={0: item}, get_history=lambda prompt_id: {})

    def send_sync(self, event, data, client):
        self.sent.append((event, json.loads(json.dumps(data, allow_nan=False))))

    def pictures(self):
        """The small pictures that the page has of the tree's branches."""
        found = {}
        for event, message in self.sent:
            if event == "hierdiff.tree":
                found |= tiles_of(message.get("tiles", []))
        return found


@pytest.fixture
def module(pack):
    return lambda name: importlib.import_module(f"{pack.__name__}.nodes.host.{name}")


@pytest.fixture
def page(module, monkeypatch, tmp_path):
    """The page that the run was queued by; files lie in a folder of the test."""
    from comfy_execution.utils import CurrentNodeContext

    fake = FakeServer()
    monkeypatch.setattr(module("runs"), "PromptServer", SimpleNamespace(instance=fake))
    monkeypatch.setattr(module("tree_files"), "temporary_folder", lambda: str(tmp_path))
    for name in ("results", "live_tree"):
        monkeypatch.setattr(module(name), "_kept", module("runs").Kept(16))
    with CurrentNodeContext("prompt", "5"):
        yield fake


def told_to(reports):
    """A `tell` that keeps the report and its data."""
    return lambda report, **data: reports.append((report, data))


def run_with(host, model, plan, sides, vae, **options):
    """(samples, report, data) of a run behind Share Steps with a VAE."""
    told = []
    sharing = host.sharing.Sharing(plan, tell=told_to(told), vae=vae)
    samples = ksampler(host, host.sharing.share_steps(model, sharing), *sides, **options)
    ((report, data),) = told
    return samples, report, data


def read(folder, name):
    return np.asarray(Image.open(folder / "hierdiff" / name))


def shown(latents):
    """What `FakeVAE` shows of one latent, as the host rounds it."""
    return (255.0 * FakeVAE().decode(latents[None])[0]).byte().numpy()


def test_each_leaf_is_a_file_at_full_size_and_changes_nothing_else(host, model, plans, sides, page, tmp_path):
    plain, _ = shared_model(host, model, plans.shared)
    vae = FakeVAE()
    samples, report, data = run_with(host, model, plans.shared, sides, vae)
    assert torch.equal(samples, ksampler(host, plain, *sides))
    assert "decoding the pictures for the tree took" in report
    ((told,),) = data.values()
    assert (list(data), told["whole"], told["folder"]) == (["hierdiff_pictures"], True, "hierdiff")
    leaves = {i: b for i, b in enumerate(plans.shared.branches) if b.stop == plans.shared.num_steps}
    assert set(told["files"]) == {str(i) for i in range(len(plans.shared.branches))}  # those that have split too
    for index, branch in leaves.items():
        pixels = read(tmp_path, told["files"][str(index)])
        assert np.array_equal(pixels, shown(samples[branch.members[0]]))
    assert [len(latents) for latents in vae.given] == [1] * len(plans.shared.branches)  # on a CPU one at a time


def test_the_page_gets_small_ones_of_the_same_pictures(host, model, plans, sides, page, tmp_path):
    _, _, data = run_with(host, model, plans.shared, sides, FakeVAE())
    (told,) = data["hierdiff_pictures"]
    tree = [message for event, message in page.sent if event == "hierdiff.tree"]
    assert {message["run"] for message in tree} == {told["run"]}
    kinds = [message["kind"] for message in tree]
    assert kinds[-1] == "progress"  # of pictures alone: the run had ended before, and its time with it
    assert "end" in kinds
    assert "state" not in tree[-1]
    tiles = page.pictures()
    assert len(tiles) == len(plans.shared.branches)
    for index, name in told["files"].items():
        difference = tiles[int(index)].mean(axis=(0, 1)) - read(tmp_path, name).mean(axis=(0, 1))
        assert np.abs(difference).max() < 6  # JPEG


def test_files_hold_the_workflow_unless_the_user_wants_none(
    host, model, plans, sides, page, tmp_path, module, monkeypatch
):
    _, _, data = run_with(host, model, plans.shared, sides, FakeVAE())
    name = data["hierdiff_pictures"][0]["files"]["0"]
    texts = Image.open(tmp_path / "hierdiff" / name).info
    assert json.loads(texts["workflow"]) == WORKFLOW
    assert json.loads(texts["prompt"])["5"]["class_type"] == "KSampler"
    monkeypatch.setattr(module("tree_files"), "writes_metadata", lambda: False)
    _, _, data = run_with(host, model, plans.shared, sides, FakeVAE())
    assert Image.open(tmp_path / "hierdiff" / data["hierdiff_pictures"][0]["files"]["0"]).info == {}


def test_a_gpu_decodes_a_few_at_a_time(host, model, plans, sides, page):
    vae = FakeVAE("cuda")
    run_with(host, model, plans.none, sides, vae)
    assert [len(latents) for latents in vae.given[:2]] == [4, N - 4]


def test_a_run_that_leaves_noise_has_no_pictures(host, model, plans, sides, page):
    vae = FakeVAE()
    _, report, data = run_with(host, model, plans.shared, sides, vae, last_step=4, force_full_denoise=False)
    assert (data, vae.given) == ({}, [])
    assert "decoding" not in report


def test_a_vae_that_fails_costs_the_pictures_alone(host, model, plans, sides, page):
    vae = FakeVAE()
    vae.decode = lambda latents: latents.no_such_thing
    samples, report, data = run_with(host, model, plans.shared, sides, vae)
    plain, _ = shared_model(host, model, plans.shared)
    assert torch.equal(samples, ksampler(host, plain, *sides))
    assert data == {}
    assert "⚠ decoding the pictures for the tree failed (AttributeError" in report


def test_cancelling_between_two_pictures_stops_the_run(host, model, plans, sides, page):
    import comfy.model_management as management

    vae = FakeVAE()
    decode = vae.decode

    def cancelled(latents):
        management.interrupt_current_processing(True)
        return decode(latents)

    vae.decode = cancelled
    with pytest.raises(management.InterruptProcessingException):
        run_with(host, model, plans.shared, sides, vae)
    assert len(vae.given) == 1


def test_of_a_video_the_first_frame_is_shown(module):
    pictures = module("tree_files").pictures_of(FakeVAE(frames=2), torch.zeros(2, 4, 1, 3, 5))
    assert [picture.size for picture in pictures] == [(10, 6)] * 2
    assert np.asarray(pictures[0]).max() == 127


def test_data_go_with_the_report_of_somebody_elses_node(page, module):
    module("decoration").report_in_running_node("the report", hierdiff_pictures=[{"run": "r"}])
    ((event, message),) = page.sent
    assert (event, message["text"], message["data"]) == (
        "hierdiff.result",
        "the report",
        {"hierdiff_pictures": [{"run": "r"}]},
    )


def test_hierarchical_ksampler_keeps_them_in_the_history(host, model, plans, sides, page, tmp_path):
    node = host.guider.HierarchicalKSampler.PREPARE_CLASS_CLONE({})
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    inputs = model, *sides, latent, plans.shared, 7, 4.0, "euler", "normal", 1.0, 0
    with_vae, without = node.execute(*inputs, vae=FakeVAE()), node.execute(*inputs)
    assert torch.equal(with_vae.args[0]["samples"], without.args[0]["samples"])
    (told,) = with_vae.ui["hierdiff_pictures"]
    assert all((tmp_path / "hierdiff" / name).exists() for name in told["files"].values())
    assert "hierdiff_pictures" not in without.ui


def test_share_steps_hands_its_vae_on(host, model, plans, sides, page):
    vae = FakeVAE()
    (patched,) = host.node.ShareSteps.PREPARE_CLASS_CLONE({}).execute(model, plans.shared, vae=vae).args
    ksampler(host, patched, *sides)
    (message,) = [message for event, message in page.sent if event == "hierdiff.result" and "data" in message]
    assert message["state"] == "done"
    assert len(message["data"]["hierdiff_pictures"][0]["files"]) == len(vae.given)


def test_a_picture_that_cannot_be_written_is_said_and_the_page_is_told_of_the_others(
    module, page, tmp_path, monkeypatch
):
    files_module = module("tree_files")
    live = SimpleNamespace(run="r", show=lambda *_: None)
    files, replace = files_module.TreeFiles(live), files_module.replace

    def full(path, data):
        if path.name == "r-1.png":
            raise OSError(28, "No space left on device")
        replace(path, data)

    monkeypatch.setattr(files_module, "replace", full)
    files.add(range(3), [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(3)])
    with pytest.raises(OSError, match="No space left on device"):
        files.settle()
    (told,) = files.told(whole=True)["hierdiff_pictures"]
    assert told["files"] == {"0": "r-0.png", "2": "r-2.png"}
    assert read(tmp_path, "r-2.png")[0, 0, 0] == 2
