"""Prompt Table in this process and in a real ComfyUI: its outputs, what the page asks, and pictures by seed."""

import json
import urllib.request

import numpy as np
import pytest
from comfyui_host import HttpFailed
from graphs import node, pictures, small_graph

from hierdiff_core.prompts.rows import PromptRow

pytestmark = pytest.mark.host

TABLE = (
    "on\tprompt\tnegative\tseed\tpictures\tcaption\n"
    "\ta {red|green} apple\tdark\t7\t\tohwx apple\nno\ta dog\t\t\t\t\n\ta cat\t\t\t2\t"
)


@pytest.fixture
def table(pack):
    """The outputs and the text of a run."""

    def run(text):
        assert pack.nodes.PromptTable.validate_inputs(table=text) is True
        output = pack.nodes.PromptTable.execute(text)
        return output.result, output.ui["text"][0].splitlines()

    return run


def test_rows_travel_with_all_that_is_their_own(table):
    (prompts, texts, negatives, captions, count), said = table(TABLE)
    apples = [PromptRow(f"a {colour} apple", "dark", 7, "ohwx apple") for colour in ("red", "green")]
    known = [(row.text, row.negative, row.seed, row.caption) for row in prompts.rows]
    assert known[:2] == [(row.text, row.negative, row.seed, row.caption) for row in apples]
    assert known[2:] == [("a cat", None, None, None), ("a cat", None, 1, None)]
    assert texts == list(prompts) == ["a red apple", "a green apple", "a cat", "a cat"]
    assert negatives == ["dark", "dark", "", ""]
    assert captions == ["ohwx apple", "ohwx apple", "a cat", "a cat"]
    assert count == 4
    assert said[0] == "3 prompts, 4 pictures"
    assert said[1].startswith("row 3: 2 pictures without a seed")
    assert said[2] == "0  a red apple [seed 7; negative: dark; caption: ohwx apple]"
    assert not any(line.startswith("⚠") for line in said)


def test_what_is_wrong_is_told_with_row_and_value_before_anything_runs(pack):
    check = pack.nodes.PromptTable.validate_inputs
    assert check(table=None) is True  # from another node
    assert "row 1: seed must be a whole number" in check(table="prompt,seed\na,7.5\nb,x")
    assert "; row 2: seed must be" in check(table="prompt,seed\na,7.5\nb,x")
    assert check(table="prompt,seed\n" + "a,x\n" * 9).endswith("and 4 more")
    assert check(table="") == "the table has no prompts; write one in a row that is on"
    with pytest.raises(ValueError, match="the table has no prompts"):
        pack.nodes.PromptTable.execute("on,prompt\nno,a cat")


def asked(server, route, body):
    """The answer to a request of the page."""
    request = urllib.request.Request(f"{server.url}/hierdiff/{route}", data=body, method="POST")
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def test_the_page_hears_what_the_node_would_say(comfyui):
    answer = asked(comfyui, "table?rows=1", json.dumps(TABLE).encode())
    assert (answer["prompts"], answer["pictures"], answer["problems"]) == (3, 4, [])
    assert answer["rows"][1] == ["no", "a dog", "", "", "", ""]
    answer = asked(comfyui, "table", json.dumps("prompt,seed\na,7.5\n<b>,").encode())
    assert (answer["prompts"], list(answer)) == (1, ["prompts", "pictures", "problems"])
    assert [(problem["row"], problem["column"]) for problem in answer["problems"]] == [(0, "seed")]
    assert asked(comfyui, "table", json.dumps('[{"prompt": 3}]').encode())["error"].startswith("the table, item 0")
    for body in (b"", b"{}", b"[" * 5000, b"\xff"):
        assert asked(comfyui, "table", body) == {"error": "the request holds no text"}
    content = "text;seed\na cat;7\n".encode("utf-16")
    assert asked(comfyui, "table/file?name=a.csv", content) == {"rows": [["", "a cat", "", "7", "", ""]]}
    assert asked(comfyui, "table/file?name=../a.csv", b"a cat")["error"].startswith("../a.csv, line 1")
    assert asked(comfyui, "table/file", b"a" * 16_000_001)["error"].startswith("more than 16000000 bytes")


def test_a_workflow_draws_each_prompt_with_its_seed_and_negative(comfyui):
    """The second cat is the one that its seed and its negative give alone; the tree's picture shows both seeds."""
    graph = small_graph(**{"plan.steps": 4, "embed.steps": 2, "sample.width": 64, "sample.height": 64})
    graph["set"] = node("HierDiffPromptTable", table="prompt,seed,negative\ncat face,,\nred apple,,\ncat face,5,dark\n")
    entry = comfyui.wait(comfyui.queue(graph))
    together = pictures(comfyui, entry, "save")
    report = entry["outputs"]["sample"]["text"][0]
    assert "2 seeds, a tree each; prompts of different seeds share nothing (no seed of their own: 2, 5: 1)" in report
    alone = small_graph(**{"plan.steps": 4, "embed.steps": 2, "sample.width": 64, "sample.height": 64})
    alone["set"]["inputs"]["text"] = "cat face"
    alone["sample"]["inputs"]["seed"], alone["embed"]["inputs"]["negative_prompt"] = 5, "dark"
    (picture,) = pictures(comfyui, comfyui.wait(comfyui.queue(alone)), "save")
    assert np.array_equal(together[2], picture)
    assert not np.array_equal(together[0], picture)
    with pytest.raises(HttpFailed, match="row 1: seed must be a whole number"):
        comfyui.queue(small_graph() | {"set": node("HierDiffPromptTable", table="prompt,seed\na,7.5")})
