"""A set is edited from its tree: menu, keys, handles and prices, in both front ends and both kinds of nodes."""

import json
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
    """The quick start with four prompts in eight steps; its sampler stands alone, as large as its tree needs."""
    made = json.loads((REPO_ROOT / "workflows" / "hierdiff_quickstart.json").read_text(encoding="utf-8"))
    made.update(id=str(uuid.uuid4()), extra={}, groups=[])
    for node in made["nodes"]:
        if node["type"] == "HierDiffPromptSet":
            node["widgets_values"][0] = "\n".join(PROMPTS)
        if node["type"] == "HierDiffThresholdSchedule":
            node["widgets_values"][0] = 8
        if node["type"] == SAMPLER:
            node.update(pos=[3000, 0], size=[640, 900])
    return made


def edits(page):
    return json.loads(page.value_of(SAMPLER, "edits") or "null")


def selected(page):
    """The prompt of the leaf that the keys have led to."""
    return page.page.locator(f"{TREE} [aria-live]").inner_text().split(": ")[1]


def run_and_wait(page):
    """Run as the line's button does; what the bar says then."""
    before = page.evaluate("(tree) => document.querySelector(tree).dataset.run", TREE)
    page.page.locator(f"{TREE} [data-action='run']").click()
    page.page.wait_for_function(
        "([tree, before]) => ((panel) => panel.dataset.state === 'done' && panel.dataset.run !== before)"
        "(document.querySelector(tree))",
        arg=[TREE, before],
        timeout=60_000,
    )
    page.page.locator(LINE).wait_for(state="hidden")  # once the run has told what it drew
    return page.page.locator(f"{TREE} .hierdiff-status").inner_text()


@pytest.mark.parametrize("nodes_2", [False, True])
def test_a_set_is_edited_from_its_tree(open_page, nodes_2):
    page = open_page(shared=True, settings={"Comfy.VueNodes.Enabled": nodes_2})
    page.load_graph(workflow())
    page.set_value(SAMPLER, "keep", True)
    page.run()
    panel, keys, line = page.page.locator(TREE), page.page.keyboard, page.page.locator(LINE)
    page.page.wait_for_timeout(500)
    page.show(page.node_of(SAMPLER))
    assert not line.is_visible()

    # a leaf is rerolled and pinned by keys; the price is there before it runs
    panel.focus()
    keys.press("Home")
    keys.press("End")
    keys.press("r")
    keys.press("-")
    (change,) = edits(page)["changes"]
    assert (change["do"], change["of"], len(change["prompts"])) == ("reroll", 8, 1)
    page.page.wait_for_function(
        "(line) => /1 change, \\d+ rows?/.test(document.querySelector(line).textContent)", arg=LINE
    )
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
    number = PROMPTS.index(selected(page))
    keys.press("e")
    page.page.locator(".hierdiff-inplace").fill("a <i>wolf</i>")
    keys.press("Enter")
    now = [*PROMPTS[:number], "a <i>wolf</i>", *PROMPTS[number + 1 :]]
    assert page.value_of("HierDiffPromptSet", "text") == "\n".join(now)
    assert "1 change" in line.inner_text()
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
    page.set_value(SAMPLER, "keep", True)
    page.run()
    panel, keys, menu = page.page.locator(TREE), page.page.keyboard, page.page.locator(MENU)
    page.page.wait_for_timeout(500)
    page.show(page.node_of(SAMPLER))
    panel.focus()
    keys.press("Home")
    keys.press("End")
    name = selected(page)
    keys.press("m")
    menu.locator("button", has_text="Variants × 4").click()
    number, variants = PROMPTS.index(name), "HierDiffVariants"
    assert [page.value_of(variants, each) for each in ("which", "count")] == [str(number), 4]
    assert page.value_of(variants, "part_at") == 0.5
    assert "reused " in run_and_wait(page)
    told = page.evaluate("(id) => app.nodeOutputs[id].hierdiff_edits[0]", str(page.node_of(SAMPLER)))
    assert told["names"] == [*PROMPTS[:number], *[PROMPTS[number]] * 5, *PROMPTS[number + 1 :]]
    assert len(set(told["keys"])) == 8
    assert told["rows"] - told["reused"] >= 4 * 3  # in its first of four steps a variant is what its prompt is
    page.screenshot(REPO_ROOT / "test_artifacts" / "browser" / "edits_variants.png")
