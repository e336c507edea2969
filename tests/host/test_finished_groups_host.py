"""Any MODEL in a real ComfyUI: pictures are saved while others are drawn; a server that was killed, a run that was
cancelled, and another sampler node go on from there."""

import os
import re
import shutil
import signal
import time

import numpy as np
import pytest
from comfyui_host import ComfyServer, PromptFailed
from graphs import native_graph, node
from PIL import Image

pytestmark = pytest.mark.host

TEXT = "{cat face|tiger face|red apple|dog|owl|car}, {noto|flat} style"
SAVING = {"format": "png", "captions": "none", "name": "{index:04d}"}
COUNT, STEPS = 12, 8


def graph_of(own, **changes):
    """Twelve prompts, kept under a name, saved as they are finished."""
    graph = native_graph(**{"set.text": TEXT, "plan.steps": STEPS})
    del graph["decode"], graph["save"]
    graph["saving"] = node("HierDiffSaveAsDrawn", prompts=["set", 0], **SAVING, folder=f"{own}/drawn")
    graph["trunk"] = node("HierDiffTrunk", name=own, memory_gb=1.0, disk_gb=1.0)
    graph["sample"]["inputs"] |= {
        "saving": ["saving", 0],
        "vae": ["load_decoder", 1],
        "keep": True,
        "trunk": ["trunk", 0],
    }
    graph["text"] = node("PreviewAny", source=["sample", 1])
    for place, value in changes.items():
        name, key = place.split(".")
        graph[name]["inputs"][key] = value
    return graph


def behind_share_steps(own, **changes):
    """The same by an ordinary KSampler behind Share Steps."""
    graph = graph_of(own, **changes)
    del graph["text"]
    graph["preview"] = node("PreviewImage", images=["decoded", 0])
    graph["decoded"] = node("VAEDecode", samples=["sample", 0], vae=["load_decoder", 1])
    inputs = graph.pop("sample")["inputs"]
    names = ("plan", "saving", "vae", "keep", "trunk")
    graph["shared"] = node("HierDiffShareSteps", model=["model", 0], **{name: inputs[name] for name in names})
    given = {name: inputs[name] for name in ("positive", "negative", "latent_image", "seed", "cfg", "sampler_name")}
    graph["sample"] = node("KSampler", model=["shared", 0], steps=STEPS, scheduler="normal", denoise=1.0, **given)
    return graph


def pixels(folder):
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def until(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def report_of(server, graph):
    return server.run(graph)["outputs"]["sample"]["text"][0]


def rows_in(report):
    """Rows that were reused, of how many."""
    found = re.search(r"reused (\d+) of (\d+) rows", report)
    return tuple(map(int, found.groups())) if found else (0, 0)


def test_a_killed_server_and_a_cancelled_run_lose_nothing_that_was_finished(comfyui, tmp_path):
    own = tmp_path.name  # other tests save in the server's folder too
    with ComfyServer(base_dir=tmp_path) as server:
        killed = tmp_path / "output" / own / "drawn"
        trunks = tmp_path / "user" / "hierdiff" / "trunks" / own
        server.queue(graph_of(own))
        until(lambda: len(list(killed.glob("*.png"))) >= 1 and list(trunks.glob("*.safetensors")))
        os.kill(server.pid, signal.SIGKILL)
    before = {path.name: path.read_bytes() for path in killed.glob("*.png")}
    assert 0 < len(before) < COUNT
    assert len(pixels(killed)) == len(before)  # none is damaged

    folder = comfyui.base_dir / "output" / own / "drawn"
    shutil.copytree(killed, folder)
    shutil.copytree(trunks, comfyui.base_dir / "user" / "hierdiff" / "trunks" / own)
    graph = graph_of(own)
    after = {**SAVING, "folder": f"{own}/after"}
    graph["saved"] = node("HierDiffSaveSet", prompts=["set", 0], latent=["sample", 0], vae=["load_decoder", 1], **after)
    report = report_of(comfyui, graph)
    reused, rows = rows_in(report)
    assert 0 < reused < rows
    assert f"saved in output/{own}/drawn: {COUNT - len(before)} of {COUNT}" in report
    assert re.search(rf"^{len(before)} (was|were) saved already", report, re.MULTILINE)
    assert re.search(r"drawn in \d groups of subtrees, each saved before the next was begun", report)
    assert {name: (folder / name).read_bytes() for name in before} == before
    found, others = pixels(folder), pixels(folder.with_name("after"))
    assert len(found) == COUNT
    assert found.keys() == others.keys()
    assert all(np.array_equal(found[name], others[name]) for name in found)

    graph = behind_share_steps(own, **{"sample.seed": 2, "sample.sampler_name": "euler_ancestral"})
    prompt_id = comfyui.queue(graph, "saving")
    until(lambda: len(list(folder.glob("*_2.png"))) >= 2)
    comfyui.interrupt()
    with pytest.raises(PromptFailed, match="interrupted"):
        comfyui.wait(prompt_id)
    finished = len(list(folder.glob("*_2.png")))
    comfyui.wait(comfyui.queue(graph, "saving"))
    told = comfyui.get("/hierdiff/results?clientId=saving")
    report = next(result["text"] for result in reversed(told) if result["node"] == "sample")
    reused, rows = rows_in(report)
    assert 0 < reused < rows
    assert re.search(rf"^{finished} (was|were) saved already", report, re.MULTILINE)
    assert len(list(folder.glob("*_2.png"))) == COUNT
