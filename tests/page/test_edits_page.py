"""A set is edited from its tree: menu, keys, handles and prices, in both front ends and both kinds of nodes."""

import json
import re
import uuid

import pytest
from comfyui_host import REPO_ROOT
from comfyui_page import TREE_PANEL as TREE

pytestmark = [pytest.mark.host, pytest.mark.browser]

SAMPLER = "HierDiffBranchingSampler"
PROMPTS = ["cat face", "tiger face", "red apple", "<b>green</b> apple"]
LINE, MENU = f"{TREE} .hierdiff-pending-words", ".hierdiff-menu"


@pytest.fixture(scope="module")
def server(web):
    return web


def workflow():
    """The quick start with four small pictures in eight steps; its sampler stands alone, as large as its tree needs."""
    made = json.loads((REPO_ROOT / "workflows" / "hierdiff_quickstart.json").read_text(encoding="utf-8"))
    made.update(id=str(uuid.uuid4()), extra={}, groups=[])
    for node in made["nodes"]:
        if node["type"] == "HierDiffPromptSet":
            node["widgets_values"][0] = "\n".join(PROMPTS)
        if node["type"] == "HierDiffThresholdSchedule":
            node["widgets_values"][0] = 8
        if node["type"] == SAMPLER:
            node.update(pos=[3000, 0], size=[640, 900])
            node["widgets_values"][4:6] = [64, 64]  # a fourth of the time
    return made


def edits(page):
    return json.loads(page.value_of(SAMPLER, "edits") or "null")


def selected(page):
    """The prompt of the leaf that the keys have led to."""
    return page.page.locator(f"{TREE} [aria-live]").inner_text().split(": ")[1]


def wait_until_told(page, before="", kind=SAMPLER):
    """Wait until the panel shows the tree of another run than `before`, and this run has told what its edits were."""
    page.page.wait_for_function(
        """([tree, type, before]) => {
            const { state, run, told } = document.querySelector(tree).dataset;
            const { id } = app.graph.nodes.find((node) => node.type === type);
            return state === "done" && run !== before && told && app.nodeOutputs[id]?.hierdiff_edits;
        }""",
        arg=[TREE, kind, before],
        timeout=60_000,
    )


def line_says(page, words):
    page.page.locator(LINE).filter(has_text=re.compile(words)).wait_for()


def run_of(page):
    return page.page.locator(TREE).get_attribute("data-run")


def run_and_wait(page, kind=SAMPLER):
    """Run as the line's button does; what the bar says then."""
    before = run_of(page)
    page.page.locator(f"{TREE} [data-action='run']").click()
    wait_until_told(page, before, kind)
    page.page.locator(LINE).wait_for(state="hidden")
    return page.page.locator(f"{TREE} .hierdiff-status").inner_text()


def run_kept(page, kind=SAMPLER):
    """Run a set that keeps its tree, and show its sampler."""
    page.set_value(kind, "keep", True)
    before = run_of(page) or ""
    page.queue()
    wait_until_told(page, before, kind)
    page.show(page.node_of(kind))


@pytest.mark.parametrize("nodes_2", [False, True])
def test_a_set_is_edited_from_its_tree(open_page, nodes_2):
    page = open_page(shared=True, settings={"Comfy.VueNodes.Enabled": nodes_2})
    page.load_graph(workflow())
    run_kept(page)
    panel, keys, line = page.page.locator(TREE), page.page.keyboard, page.page.locator(LINE)
    assert not line.is_visible()

    # a leaf is rerolled and pinned by keys; the price is there before it runs
    panel.focus()
    keys.press("Home")
    keys.press("End")
    keys.press("r")
    keys.press("-")
    (change,) = edits(page)["changes"]
    assert (change["do"], change["of"], len(change["prompts"])) == ("reroll", 8, 1)
    line_says(page, r"1 change, \d+ rows?")
    keys.press("ArrowDown")
    fixed = selected(page)
    keys.press("p")
    assert [each["do"] for each in edits(page)["changes"]] == ["reroll", "pin"]
    keys.press("Delete")  # it is pinned, and the node stays too
    assert "pinned" in line.inner_text()
    assert page.value_of("HierDiffPromptSet", "text") == "\n".join(PROMPTS)
    assert "reused " in run_and_wait(page)

    # a prompt is rewritten in its place, and the tree of the run before goes along
    panel.focus()
    keys.press("Home")
    keys.press("End")
    if selected(page) == fixed:
        keys.press("ArrowDown")
        keys.press("End")  # it may be of a branch that parts later
    number = PROMPTS.index(selected(page))
    keys.press("e")
    page.page.locator(".hierdiff-inplace").fill("a <i>wolf</i>")
    keys.press("Enter")
    now = [*PROMPTS[:number], "a <i>wolf</i>", *PROMPTS[number + 1 :]]
    assert page.value_of("HierDiffPromptSet", "text") == "\n".join(now)
    line_says(page, "1 change, at most 8 rows")
    assert edits(page)["kept"] is None
    assert "reused " in run_and_wait(page)
    assert edits(page)["kept"]["plan"]

    # the menu, with prices; whatever is taken back is as it was
    before = page.value_of(SAMPLER, "edits")
    panel.focus()
    keys.press("Home")
    keys.press("m")
    menu = page.page.locator(MENU)
    menu.locator("button", has_text="Reroll all below").locator(".hierdiff-menu-price", has_text="rows").wait_for()
    page.screenshot(REPO_ROOT / "test_artifacts" / "browser" / f"edits_menu_{nodes_2}.png")
    keys.press("Escape")
    keys.press("End")
    if selected(page) == fixed:
        keys.press("ArrowDown")
        keys.press("End")  # it may be of a branch that parts later
    keys.press("r")
    assert page.value_of(SAMPLER, "edits") != before
    keys.press("Control+z")
    page.page.wait_for_function(
        "([type, before]) => app.graph.nodes.find((node) => node.type === type)"
        ".widgets.find((widget) => widget.name === 'edits').value === before",
        arg=[SAMPLER, before],
    )

    # from afar Nodes 2.0 takes the pointer from its widgets; the tree is still seen, and still has its own menu
    keys.press("Escape")
    page.show(page.node_of(SAMPLER), zoom=0.3)
    page.page.wait_for_function(
        """(tree) => {
            const canvas = document.querySelector(tree).querySelector("canvas");
            const { left, top, width, height } = canvas.getBoundingClientRect();
            return document.elementFromPoint(left + width / 2, top + height / 2) === canvas;
        }""",
        arg=TREE,
    )


def test_variants_of_a_leaf_come_from_a_node_behind_its_set(open_page):
    page = open_page(shared=True)
    page.load_graph(workflow())
    run_kept(page)
    panel, keys, menu = page.page.locator(TREE), page.page.keyboard, page.page.locator(MENU)
    panel.focus()
    keys.press("Home")
    keys.press("End")
    name = selected(page)
    keys.press("m")
    variant = menu.locator("[data-item='variants']")
    variant.locator(".hierdiff-menu-price", has_text="at most 16 rows").wait_for()
    variant.click()
    line_says(page, "1 change, at most 16 rows")
    number, variants = PROMPTS.index(name), "HierDiffVariants"
    assert [page.value_of(variants, each) for each in ("which", "count")] == [str(number), 4]
    assert page.value_of(variants, "part_at") == 0.5
    assert "reused " in run_and_wait(page)
    told = page.evaluate("(id) => app.nodeOutputs[id].hierdiff_edits[0]", str(page.node_of(SAMPLER)))
    assert told["names"] == [*PROMPTS[:number], *[PROMPTS[number]] * 5, *PROMPTS[number + 1 :]]
    assert len(set(told["keys"])) == 8
    assert told["rows"] - told["reused"] >= 4 * 3  # in its first of four steps a variant is what its prompt is
    page.screenshot(REPO_ROOT / "test_artifacts" / "browser" / "edits_variants.png")

    # what the page itself writes when a run is queued and has told is no step of its own
    panel.focus()
    keys.press("Control+z")
    page.page.wait_for_function("(type) => !app.graph.nodes.some((node) => node.type === type)", arg=variants)
    assert page.value_of("HierDiffPromptSet", "text") == "\n".join(PROMPTS)


HOLD_TOLD = """() => {
    const { api } = window.comfyAPI.api;
    const send = api.dispatchCustomEvent;
    const held = [];
    window.heldBack = held;
    api.dispatchCustomEvent = function (...args) {
        if (args[0] === "executed" && args[1].output?.hierdiff_edits) held.push(() => send.apply(this, args));
        else if (held.length) held.push(() => send.apply(this, args)); // they come in their order
        else return send.apply(this, args);
    };
    window.letGo = () => {
        api.dispatchCustomEvent = send;
        for (const go of held) go();
    };
}"""


def test_a_menu_that_is_open_before_the_run_has_told_is_made_again(open_page):
    """The tree is done a moment, or with a VAE seconds, before its node is: until then nothing can be changed in it."""
    page = open_page(shared=True)
    page.load_graph(workflow())
    page.set_value(SAMPLER, "keep", True)
    page.evaluate(HOLD_TOLD)
    page.queue()
    page.page.wait_for_function("window.heldBack.length", timeout=60_000)
    panel, keys = page.page.locator(TREE), page.page.keyboard
    assert [panel.get_attribute(name) for name in ("data-state", "data-told")] == ["done", ""]
    page.show(page.node_of(SAMPLER))
    panel.focus()
    keys.press("Home")
    keys.press("m")
    reroll = page.page.locator(f"{MENU} [data-item='reroll']")
    assert "not quite done yet" in reroll.inner_text()
    reroll.focus()
    page.evaluate("window.letGo()")
    reroll.locator(".hierdiff-menu-price", has_text="row").wait_for()
    assert reroll.get_attribute("aria-disabled") is None
    assert page.evaluate("document.activeElement.dataset.item") == "reroll"
    keys.press("Enter")
    (change,) = edits(page)["changes"]
    assert change["do"] == "reroll"
    line_says(page, r"1 change, \d+ rows?")


def test_a_whole_set_is_edited_from_its_tree(open_page):
    page, kind = open_page(shared=True), "HierDiffSet"
    made = json.loads((REPO_ROOT / "workflows" / "hierdiff_lora_set.json").read_text(encoding="utf-8"))
    made.update(id=str(uuid.uuid4()), extra={}, groups=[])
    made["nodes"] = [node for node in made["nodes"] if node["type"] != "HierDiffSaveSet"]
    (node,) = [node for node in made["nodes"] if node["type"] == kind]
    node["widgets_values"][:5] = ["\n".join(PROMPTS), "", 64, 64, 6]
    node["size"] = [480, 1000]
    links = {link for other in made["nodes"] for each in other.get("inputs", []) if (link := each.get("link"))}
    made["links"] = [link for link in made["links"] if link[0] in links]
    page.load_graph(made)
    run_kept(page, kind)
    panel, keys = page.page.locator(TREE), page.page.keyboard
    panel.focus()
    keys.press("Home")
    keys.press("End")
    number = PROMPTS.index(selected(page))
    keys.press("v")
    line_says(page, "Variants need a Prompt Set")
    keys.press("e")
    page.page.locator(".hierdiff-inplace").fill("a wolf")
    keys.press("Enter")
    now = [*PROMPTS[:number], "a wolf", *PROMPTS[number + 1 :]]
    assert page.value_of(kind, "text") == "\n".join(now)
    line_says(page, "1 change, at most 6 rows")
    assert "reused " in run_and_wait(page, kind)
    assert json.loads(page.value_of(kind, "edits"))["kept"]["plan"]
    page.screenshot(REPO_ROOT / "test_artifacts" / "browser" / "edits_whole_set.png")
