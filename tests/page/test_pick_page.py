"""Pick in the page, in both front ends, each with its kind of nodes: a run waits, the user chooses."""

import json
import uuid

import pytest
from comfyui_host import PromptFailed

pytestmark = [pytest.mark.host, pytest.mark.browser]

PANEL, OPTION = ".hierdiff-pick", ".hierdiff-pick-option"
PLAIN = {"properties": {}, "flags": {}, "order": 0, "mode": 0}
TEXTS = ["cat <b>one</b>", "dog", "owl", "fox", "hen"]


@pytest.fixture(scope="module")
def server(web):
    return web


def pick_workflow():
    """Pictures of a set, two Picks one after the other, and a preview."""
    nodes = [
        ("HierDiffPromptSet", ["\n".join(TEXTS), "keep"], [0, 0], [300, 260]),
        ("EmptyImage", [96, 64, len(TEXTS), 0x3366CC], [0, 340], [300, 140]),
        ("HierDiffPick", ["", 300], [340, 0], [420, 520]),
        ("HierDiffPick", ["", 300], [800, 0], [420, 520]),
        ("PreviewImage", [], [1260, 0], [260, 300]),
    ]
    return {
        **{"id": str(uuid.uuid4()), "version": 0.4, "last_node_id": len(nodes), "last_link_id": 0},
        "nodes": [
            {"id": i, "type": kind, "widgets_values": values, "pos": place, "size": size, **PLAIN}
            for i, (kind, values, place, size) in enumerate(nodes, start=1)
        ],
        "links": [],
    }


CONNECT = """() => {
    const [prompts, images, first, second, preview] = [1, 2, 3, 4, 5].map((id) => app.graph.getNodeById(id));
    const link = (from, slot, to, name) => from.connect(slot, to, to.inputs.findIndex((input) => input.name === name));
    link(prompts, 0, first, "prompts");
    link(images, 0, first, "images");
    link(first, 0, second, "images");
    link(first, 3, second, "prompts");
    link(second, 0, preview, "images");
}"""
FACTS = """() => [...document.querySelectorAll(".hierdiff-pick")].map((panel) => ({
    asks: panel.dataset.asks,
    chosen: [...panel.querySelectorAll("[aria-selected=true]")].map((option) => Number(option.dataset.number)),
    texts: [...panel.querySelectorAll(".hierdiff-pick-caption span")].map((caption) => caption.textContent),
    markup: panel.querySelectorAll(".hierdiff-pick-caption span *").length,
    status: panel.querySelector(".hierdiff-status").textContent,
}))"""

# The page keeps the workflow, with its links, a moment later.
KEPT = """() => {
    const { id, links: now } = app.graph.serialize();
    const links = `"links":${JSON.stringify(now)}`;
    const kept = [localStorage, sessionStorage].flatMap((storage) => Object.values({ ...storage }));
    const within = (text) => text.includes(id) && text.replaceAll("\\\\", "").includes(links);
    return kept.some(within);
}"""


def shows(page, which, **facts):
    """Wait until a panel says so: what the page shows follows what the server has told it."""
    page.page.wait_for_function(
        f"([which, facts]) => ((now) => Object.entries(facts).every(([name, value]) => "
        f"JSON.stringify(now[name]) === JSON.stringify(value)))(({FACTS})()[which])",
        arg=[which, facts],
    )


def asked(page, which):
    """The panel in which the run waits."""
    panel = page.page.locator(PANEL).nth(which)
    panel.locator("xpath=self::*[@data-asks='true']").wait_for(timeout=20_000)
    return panel


def test_the_user_chooses_with_mouse_and_keys(open_page, server):
    page = open_page(shared=True, settings={"Comfy.VueNodes.Enabled": server.front_end == "newest"})
    page.load_graph(pick_workflow())
    page.evaluate(CONNECT)
    page.show()
    prompt_id = page.queue()

    first = asked(page, 0)
    facts = page.evaluate(FACTS)[0]
    assert (facts["texts"], facts["markup"], facts["chosen"]) == (TEXTS, 0, [])
    assert facts["status"].startswith("0 of 5 chosen")
    assert first.locator("button", has_text="Go on with 0").is_disabled()
    first.locator(OPTION).nth(1).click()
    first.locator(OPTION).nth(3).click(modifiers=["Shift"])
    assert page.evaluate(FACTS)[0]["chosen"] == [1, 2, 3]
    page.page.keyboard.press("Home")
    page.page.keyboard.press("Space")
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("Space")
    assert page.evaluate(FACTS)[0]["chosen"] == [0, 2, 3]
    page.page.keyboard.press("Delete")  # of the page: it would delete the node
    page.page.keyboard.press("Enter")

    second = asked(page, 1)
    shows(page, 0, **{**facts, "asks": "false", "chosen": [0, 2, 3], "status": ""})
    assert page.evaluate(FACTS)[1]["texts"] == [TEXTS[i] for i in (0, 2, 3)]
    second.locator(OPTION).nth(0).focus()
    page.page.keyboard.press("a")
    assert page.evaluate(FACTS)[1]["chosen"] == [0, 1, 2]
    page.page.keyboard.press("n")
    assert page.evaluate(FACTS)[1]["chosen"] == []
    second.locator(OPTION).nth(2).click()
    second.locator("input[type=checkbox]").check()
    second.locator("button", has_text="Go on with 1").click()
    outputs = page.wait(prompt_id, 30)["outputs"]
    assert len(outputs["5"]["images"]) == 1
    assert page.evaluate("app.graph.getNodeById(4).widgets.find((each) => each.name === 'choice').value") == "2"
    shows(page, 1, status="Remembered: 2")
    second.locator("button", has_text="Ask again").click()
    assert page.evaluate("app.graph.getNodeById(4).widgets.find((each) => each.name === 'choice').value") == ""


def test_a_question_outlives_a_reload_and_a_cancelled_run(open_page):
    page = open_page()
    page.load_graph(pick_workflow())
    page.evaluate(CONNECT)
    page.show()
    prompt_id = page.queue()
    asked(page, 0)
    page.page.wait_for_function(KEPT)
    page.page.reload()
    panel = asked(page, 0)
    assert page.evaluate(FACTS)[0]["texts"] == TEXTS
    assert 250 < json.loads(panel.get_attribute("data-left")) <= 300
    page.show()
    panel.locator("button", has_text="Cancel run").click()
    with pytest.raises(PromptFailed, match="interrupted"):
        page.wait(prompt_id, 20)
    shows(page, 0, asks="false", texts=[])
