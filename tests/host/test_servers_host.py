"""``hierdiff shard`` on two real servers, one of which is killed: the set is whole, and as one server draws it."""

import json
import os
import signal

import numpy as np
import pytest
from comfyui_host import ComfyServer
from graphs import small_graph
from PIL import Image

from hierdiff_core import shard_command
from hierdiff_core.servers import client

pytestmark = pytest.mark.host

TABLE = "prompt\tcaption\n" + "\n".join(
    f"{animal} face, noto style\tohwx {animal}" for animal in ("cat", "tiger", "bear")
)
TABLE += "\nred apple, flat style\tan apple\ngreen apple, flat style\tan apple\nblue car\ta car"
FILES = 6


@pytest.fixture(scope="module")
def dying(tmp_path_factory):
    with ComfyServer(base_dir=tmp_path_factory.mktemp("dying")) as server:
        yield server


def graph():
    """A set with captions and its pictures saved, without a Plan Shard."""
    made = small_graph(**{"plan.steps": 4, "sample.width": 64, "sample.height": 64})
    made["set"] = {"class_type": "HierDiffPromptTable", "inputs": {"table": TABLE}}
    inputs = {"prompts": ["set", 0], "images": ["decode", 0], "folder": "shards", "format": "png"}
    inputs |= {"captions": "metadata.jsonl", "name": "{index:03d}_{prompt}"}
    made["save"] = {"class_type": "HierDiffSaveSet", "inputs": inputs}
    return made


def pictures_of(folder):
    return {path.name: np.asarray(Image.open(path)) for path in folder.glob("*.png")}


def test_of_two_servers_one_is_killed_and_the_set_is_whole_and_bit_identical(comfyui, dying, tmp_path, monkeypatch):
    said = []

    def tell(message):
        said.append(str(message))
        if f"queued on 127.0.0.1:{dying.port}" in said[-1]:
            os.killpg(dying.pid, signal.SIGKILL)

    monkeypatch.setattr(shard_command, "tell", tell)
    monkeypatch.setattr(client, "SECONDS", 300.0)  # the other one may be slow to answer
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(graph()))
    options = ["--servers", f"{dying.url},{comfyui.url}", "--shards", "3", "--patience", "0.5"]
    code = shard_command.shard([str(file), *options, "--out", str(tmp_path / "out")])
    assert code == 0, said
    assert any(f"127.0.0.1:{dying.port} is left out" in line for line in said)
    whole = comfyui.run(graph())
    there = comfyui.base_dir / "output" / whole["outputs"]["save"]["hierdiff_folder"][0]
    drawn, wanted = pictures_of(tmp_path / "out" / "shards"), pictures_of(there)
    assert sorted(drawn) == sorted(wanted)
    assert len(drawn) == FILES
    for name, picture in wanted.items():
        np.testing.assert_array_equal(drawn[name], picture, err_msg=name)
    lines = [(folder / "metadata.jsonl").read_bytes() for folder in (tmp_path / "out" / "shards", there)]
    assert lines[0] == lines[1]
