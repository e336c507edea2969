"""Nodes as users wire them in the page, in both front ends: links from other packs, and sets from text to files."""

import json
import uuid

import pytest

pytestmark = [pytest.mark.host, pytest.mark.browser]


@pytest.fixture(scope="module")
def server(web):
    return web


# Ours beside the host's own sampler: each gets the same links, one at a time.
WIRE = """async ([source, targets]) => {
    const made = (type) => { const node = LiteGraph.createNode(type); app.graph.add(node); return node; };
    const found = {};
    for (const [type, name] of targets) {
        const [theirs, ours] = [made(source), made(type)];
        const link = theirs.connect(0, ours, ours.inputs.findIndex((input) => input.name === name));
        const { output } = await app.graphToPrompt();
        const widget = ours.widgets.find((each) => each.name === name);
        const value = output[ours.id].inputs[name];
        found[type] = {
            linked: link !== null && Array.isArray(value) && value[0] === String(theirs.id),
            choices: widget.options.values?.length ?? null,
        };
        app.graph.remove(theirs);
        app.graph.remove(ours);
    }
    return found;
}"""


@pytest.mark.parametrize(
    ("source", "name", "linked"),
    [
        ("OtherSamplers", "sampler_name", True),
        ("OtherSomeSamplers", "sampler_name", True),
        ("OtherCombo", "sampler_name", True),
        ("OtherStar", "sampler_name", True),
        ("OtherSchedulers", "scheduler", True),
        ("OtherString", "sampler_name", False),
        ("OtherInt", "seed", True),
        ("OtherFloat", "seed", False),
    ],
)
def test_page_links_other_packs_to_our_choices_as_to_the_hosts(open_page, source, name, linked):
    page = open_page(shared=True)
    found = page.evaluate(WIRE, [source, [["HierDiffKSampler", name], ["KSampler", name]]])
    assert found["HierDiffKSampler"] == found["KSampler"]
    assert found["HierDiffKSampler"]["linked"] == linked
    assert (found["HierDiffKSampler"]["choices"] or 0) > 5 or name == "seed"


# --- Prompt Set, Contact Sheet, Save Image Set


PLAIN = {"properties": {}, "flags": {}, "order": 0, "mode": 0}


def set_workflow():
    """Two by two prompts; an older Contact Sheet, whose workflow knows no axes, and three pictures a prompt too few."""
    sizes = {"width": 64, "height": 48}
    nodes = [
        ("HierDiffPromptSet", ["{cat|dog}, {oil|<ink>}", "keep"], [0, 0], [340, 300]),
        ("EmptyImage", [*sizes.values(), 4, 255], [0, 400], [300, 140]),
        ("HierDiffContactSheet", [2], [400, 0], [360, 420]),
        ("HierDiffSaveSet", [f"set {uuid.uuid4()}", "png", "none", "{date}/{index}"], [800, 0], [400, 520]),
    ]
    return {
        **{"id": str(uuid.uuid4()), "version": 0.4, "last_node_id": len(nodes), "last_link_id": 4},
        "nodes": [
            {"id": i, "type": kind, "widgets_values": values, "pos": place, "size": size, **PLAIN}
            for i, (kind, values, place, size) in enumerate(nodes, start=1)
        ],
        "links": [],
    }


CONNECT = """() => {
    const [prompts, images, sheet, save] = [1, 2, 3, 4].map((id) => app.graph.getNodeById(id));
    for (const target of [sheet, save]) {
        prompts.connect(0, target, target.inputs.findIndex((input) => input.name === "prompts"));
        images.connect(0, target, target.inputs.findIndex((input) => input.name === "images"));
    }
}"""
ADDED = """() => {
    const node = LiteGraph.createNode("HierDiffContactSheet");
    app.graph.add(node);
    const value = node.widgets.find((widget) => widget.name === "axes").value;
    app.graph.remove(node);
    return value;
}"""
HIDDEN = """() => app.graph.getNodeById(1).widgets.filter((widget) => widget.hidden).map((widget) => widget.name)"""
BUTTON = ".hierdiff-open-folder"


@pytest.mark.parametrize("nodes_2", [False, True])
def test_sets_are_written_seen_and_saved(open_page, server, nodes_2):
    page = open_page(shared=True, settings={"Comfy.VueNodes.Enabled": nodes_2})
    workflow = set_workflow()
    page.load_graph(workflow)
    page.evaluate(CONNECT)
    assert page.value_of("HierDiffContactSheet", "axes") == "off"
    assert page.evaluate(ADDED) == "automatic"
    assert page.evaluate(HIDDEN) == ["count", "draw_seed"]
    seed = page.page.locator(".lg-node", has_text="draw_seed")
    assert seed.count() == 0
    page.set_value("HierDiffPromptSet", "draw", "random")
    assert page.evaluate(HIDDEN) == []
    if nodes_2:
        seed.wait_for()
    page.set_value("HierDiffPromptSet", "draw", "all combinations")
    if not nodes_2 or server.front_end == "newest":  # the installed one leaves a widget that it has shown
        seed.wait_for(state="detached")
    page.set_value("HierDiffContactSheet", "axes", "automatic")
    page.set_value("HierDiffContactSheet", "columns", 0)
    outputs = page.run()["outputs"]
    assert "rows: cat, dog\ncolumns: oil, <ink>" in outputs["3"]["text"][0]
    assert len(outputs["4"]["images"]) == 4
    page.show()
    button = page.page.locator(BUTTON)
    button.wait_for()
    assert button.inner_text() == "Open folder"
    asked = []

    def answer(route):
        asked.append(json.loads(route.request.post_data))
        route.fulfill(json={"opened": False, "path": "/sets/<b>one</b>"})

    page.page.route("**/hierdiff/open", answer)
    button.click()
    line = page.page.locator(".hierdiff-lines", has_text="The images are in /sets/<b>one</b>")
    line.wait_for()
    page.page.unroute("**/hierdiff/open")
    assert asked == [{"folder": workflow["nodes"][3]["widgets_values"][0]}]
