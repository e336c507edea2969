"""Threshold Schedule and the templates in a real page: what is seen and said."""

import contextlib
import json
import uuid

import pytest
from comfyui_host import REPO_ROOT
from comfyui_page import PLOT_PANEL as PLOT
from playwright.sync_api import TimeoutError as NotThere

pytestmark = pytest.mark.browser

WORKFLOWS = REPO_ROOT / "workflows"
ARTIFACTS = REPO_ROOT / "test_artifacts" / "browser"
SCHEDULE = "HierDiffThresholdSchedule"
TEMPLATES = ("quickstart", "kandinsky22", "any_model", "lora_set", "compare", "upscale")
WINDOWS = [(1600, 1000), (1280, 720)]


# --- The plot in the node


def small(seed):
    """The quick start with four prompts in six steps; another seed is not cached."""
    workflow = json.loads((WORKFLOWS / "hierdiff_quickstart.json").read_text(encoding="utf-8"))
    workflow["id"] = str(uuid.uuid4())
    changes = {"HierDiffPromptSet": "{cat face|red apple}, {noto|flat} style", SCHEDULE: 6}
    for node in workflow["nodes"]:
        if node["type"] in changes:
            node["widgets_values"][0] = changes[node["type"]]
        if node["type"] == "HierDiffPriorEmbedding":
            node["widgets_values"][3] = seed
    return workflow


def run_plan(page):
    """Run what Threshold Schedule needs, and it; no picture is drawn."""
    page.evaluate(
        """(kept) => {
            const gone = app.graph.nodes.filter((node) => !kept.includes(node.type));
            for (const node of gone) app.graph.remove(node);
            const preview = LiteGraph.createNode("PreviewImage");
            app.graph.add(preview);
            app.graph.nodes.find((node) => node.type === "HierDiffThresholdSchedule").connect(1, preview, 0);
        }""",
        [
            "HierDiffPromptSet",
            "HierDiffPriorLoader",
            "HierDiffPriorEmbedding",
            "HierDiffWardLinkage",
            "HierDiffSensitivityLoader",
            SCHEDULE,
        ],
    )
    page.run()
    page.page.wait_for_selector(PLOT)


def state(page):
    return page.page.locator(PLOT).evaluate("(panel) => ({...panel.dataset})")


@pytest.mark.parametrize("nodes_2", [False, True])
def test_plot_warns_of_pictures_that_look_alike_and_tells_what_was_not_run_yet(open_page, nodes_2):
    page = open_page(shared=True, settings={"Comfy.VueNodes.Enabled": nodes_2})
    page.load_graph(small(seed=70 + nodes_2))
    run_plan(page)
    page.show(page.node_of(SCHEDULE), zoom=1.0)
    page.settle(400)
    status = page.page.locator(f"{PLOT} .hierdiff-status")
    assert (state(page)["alike"], state(page)["changed"]) == ("true", "false")
    grey = status.evaluate("(bar) => getComputedStyle(bar).color")
    assert status.locator("div").first.evaluate("(line) => getComputedStyle(line).color") != grey
    assert page.page.locator(PLOT).inner_text().count("⚠ expect about 1") == 1  # in the report
    assert "⚠" not in status.inner_text()
    page.set_value(SCHEDULE, "value", 0.55)
    assert (state(page)["alike"], state(page)["changed"]) == ("true", "true")
    assert " of 4" in status.inner_text()
    page.set_value(SCHEDULE, "value", 0.4)
    assert (state(page)["alike"], state(page)["changed"]) == ("false", "true")
    assert "Changed since the last run" in status.inner_text()
    report = page.page.locator(f"{PLOT} .hierdiff-result")
    assert float(report.evaluate("(report) => getComputedStyle(report).opacity")) < 0.6
    page.set_value(SCHEDULE, "value", 0.99)
    assert "99.0 % is out of reach: 62.5 % at most" in status.inner_text()
    page.set_value(SCHEDULE, "value", 0.6)
    assert state(page)["changed"] == "false"
    assert float(report.evaluate("(report) => getComputedStyle(report).opacity")) == 1
    parts = "(bar) => [bar, ...bar.querySelectorAll('div')].map((part) => [part.scrollWidth, part.clientWidth])"
    assert all(wanted <= room + 1 for wanted, room in status.evaluate(parts))
    assert "Distortion" in status.inner_text()


# --- Templates as they open


SEEN = """() => {
    const canvas = app.canvas.canvas.getBoundingClientRect();
    const { scale, offset } = app.canvas.ds;
    const title = LiteGraph.NODE_TITLE_HEIGHT;
    const hidden = [];
    for (const node of app.graph.nodes) {
        const [left, top] = [node.pos[0] + 4, node.pos[1] - title + 4];
        const [right, bottom] = [node.pos[0] + node.size[0] - 4, node.pos[1] + node.size[1] - 4];
        for (const [x, y] of [[left, top], [right, top], [left, bottom], [right, bottom]]) {
            const place = [canvas.left + (x + offset[0]) * scale, canvas.top + (y + offset[1]) * scale];
            const found = document.elementFromPoint(...place);
            if (!found?.closest("#graph-canvas, .lg-node, .dom-widget")) hidden.push([node.type, ...place]);
        }
    }
    return hidden;
}"""


@pytest.fixture
def models_of_templates(server):
    """Their names alone: newer pages lay a message over the nodes where one is missing."""
    made = []
    for path in (WORKFLOWS / f"hierdiff_{name}.json" for name in TEMPLATES):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            if node["type"] == "CheckpointLoaderSimple":
                made.append(server.base_dir / "models" / "checkpoints" / node["widgets_values"][0])
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    yield
    for path in made:
        path.unlink()


@pytest.mark.parametrize("nodes_2", [False, True])
def test_templates_open_between_the_pages_bars(open_page, models_of_templates, nodes_2):
    page = open_page(settings={"Comfy.VueNodes.Enabled": nodes_2})
    for number, name in enumerate(TEMPLATES):
        width, height = WINDOWS[number % 2]
        page.page.set_viewport_size({"width": width, "height": height})
        shipped = json.loads((WORKFLOWS / f"hierdiff_{name}.json").read_text(encoding="utf-8"))
        page.evaluate("(id) => app.extensionManager.command.execute(id)", f"HierDiff.Open.{name}")
        page.page.wait_for_function("(id) => app.graph.id === id", arg=shipped["id"])
        page.settle(1500)
        assert page.evaluate(SEEN) == [], name
        assert len(page.evaluate("app.graph.groups.map((group) => group.title)")) == len(shipped["groups"])
        assert "hierdiff_fit" not in page.serialized()["extra"]  # a copy keeps the view that it is saved with
        page.screenshot(ARTIFACTS / f"template_{name}_{width}{'_nodes_2' if nodes_2 else ''}.png")
        if nodes_2:
            labels = page.page.locator(".lg-node .lg-node-widget p.truncate")
            ours = labels.evaluate_all(
                "(labels) => labels.filter((p) => p.scrollWidth > p.clientWidth + 1).map((p) => p.textContent)"
            )
            assert set(ours) <= {"filename_prefix", "sampler_name", "latent_image", "upscale_method"}  # the host's own


# --- Search


@pytest.mark.parametrize(
    ("words", "node"),
    [("prompt list", "Prompt Set"), ("clustering", "Ward Linkage"), ("budget", "Threshold Schedule")],
)
def test_nodes_are_found_by_other_words_in_the_pages_search(open_page, words, node):
    page = open_page(shared=True)
    box = page.page.locator("input[type='text']:not([role='spinbutton']):visible").last  # not the number of runs
    found = page.page.get_by_text(node, exact=True).first
    for _ in range(12):  # on a busy machine the page takes no clicks yet, or the box is there before it looks
        with contextlib.suppress(NotThere):
            if not box.is_visible():
                page.page.mouse.dblclick(800, 700)
                box.wait_for(state="visible", timeout=5_000)
            box.fill("")
            box.press_sequentially(words, delay=20)
            found.wait_for(state="visible", timeout=5_000)
            page.page.keyboard.press("Escape")  # the next test's page
            box.wait_for(state="hidden", timeout=5_000)
            return
    raise AssertionError(f"{words!r} does not find {node!r}")
