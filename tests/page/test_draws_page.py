"""Prompt Set in nodes that are elements, in both front ends: what belongs to random draws is there for these alone."""

import uuid

import pytest

pytestmark = [pytest.mark.host, pytest.mark.browser]

ROWS = """(rows) => {
    const seen = [...document.querySelectorAll("[data-node-id='1'] .lg-node-widget")];
    return seen.filter((row) => row.offsetHeight > 0).length === rows;
}"""


@pytest.fixture(scope="module")
def server(web):
    return web


def test_count_and_seed_come_and_go_with_random_draws(open_page):
    page = open_page(shared=True, settings={"Comfy.VueNodes.Enabled": True})
    made = {"id": 1, "type": "HierDiffPromptSet", "pos": [0, 0], "size": [300, 360], "widgets_values": ["a", "keep"]}
    made |= {"properties": {}, "flags": {}, "order": 0, "mode": 0}
    page.load_graph({"id": str(uuid.uuid4()), "version": 0.4, "last_link_id": 0, "nodes": [made], "links": []})
    page.show()
    page.page.wait_for_function(ROWS, arg=3)
    for draw, rows in [("random", 5), ("all combinations", 3)] * 2:
        page.set_value("HierDiffPromptSet", "draw", draw)
        page.page.wait_for_function(ROWS, arg=rows)
