"""The page as users see it: a real Chromium, a real server, the front end that ComfyUI ships and the newest one.

Each test leaves a screenshot in test_artifacts/browser.
"""

import contextlib
import copy
import importlib
import json
import re
import uuid
from importlib import metadata

import numpy as np
import pytest
from comfyui_host import REPO_ROOT
from comfyui_page import FRONT_END, QUIET, ROOT_GRAPH, ComfyPage
from comfyui_page import PLOT_PANEL as PLOT
from comfyui_page import TREE_PANEL as TREE
from trees import synthetic_run

from hierdiff_core import falling_shape, tau_for_saving

pytestmark = [pytest.mark.host, pytest.mark.browser]

ARTIFACTS = REPO_ROOT / "test_artifacts" / "browser"
WORKFLOWS = REPO_ROOT / "workflows"
SAMPLER, SCHEDULE = "HierDiffBranchingSampler", "HierDiffThresholdSchedule"
FEW = "{cat face|tiger face|red apple}, {noto|flat} style"
BUNDLED = "emoji-kandinsky (bundled)"
SIDE = 64  # of most pictures, in pixels: half of what the bundled model is for takes a fourth of the time


# --- Servers, pages, workflows ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(web):
    return web


def template(name, **values):
    """A shipped workflow with an id of its own and other values in its widgets: {"NodeType.index": value}."""
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    workflow["id"] = str(uuid.uuid4())
    for key, value in values.items():
        node_type, index = key.split(".")
        (node,) = [node for node in workflow["nodes"] if node["type"] == node_type]
        node["widgets_values"][int(index)] = value
    return workflow


def small(seed=0, steps=12, **values):
    """The quick start with six small pictures in few steps; another seed is drawn anew."""
    changes = {"HierDiffPromptSet.0": FEW, "HierDiffPriorEmbedding.1": 5, f"{SAMPLER}.0": seed, f"{SCHEDULE}.0": steps}
    changes |= {f"{SAMPLER}.4": SIDE, f"{SAMPLER}.5": SIDE}
    return template("hierdiff_quickstart", **{**changes, **values})


def open_small(page, **changes):
    page.drop("small.json", json.dumps(small(**changes)).encode(), "application/json")


def states(page, selector=TREE):
    return page.evaluate(
        "(selector) => [...document.querySelectorAll(selector)].map((panel) => ({...panel.dataset}))", selector
    )


def until(page, state, selector=TREE, timeout=120_000):
    """Wait for a tree in this state."""
    page.page.wait_for_function(
        "([selector, state]) => [...document.querySelectorAll(selector)].some((p) => p.dataset.state === state)",
        arg=[selector, state],
        timeout=timeout,
    )


def until_step(page, step):
    """Wait for a tree that has come so far."""
    page.page.wait_for_function(
        "([selector, step]) => Number(document.querySelector(selector)?.dataset.step) >= step",
        arg=[TREE, step],
        timeout=60_000,
    )


def colours_drawn(page, selector):
    """How many colours a panel's picture has."""
    return page.evaluate(
        """(selector) => {
            const canvas = document.querySelector(`${selector} canvas`);
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return new Set(new Uint32Array(data.buffer)).size;
        }""",
        selector,
    )


def rows_of(entry, node):
    """(rows, standard) of Threshold Schedule's text in the history."""
    text = entry["outputs"][str(node)]["text"][0]
    return tuple(map(int, re.search(r"(\d+) rows instead of (\d+)", text).groups()))


REPORTING = {
    "HierDiffPromptSet",
    "HierDiffPriorEmbedding",
    "HierDiffWardLinkage",
    "HierDiffSensitivityLoader",
    "HierDiffContactSheet",
    SCHEDULE,
    SAMPLER,
}


def said(page):
    """{node type: what it says} of the nodes that say anything."""
    found = page.evaluate(
        """() => app.graph.nodes.flatMap((node) => (node.widgets ?? []).flatMap((widget) =>
            [widget.element, ...(widget.element?.querySelectorAll?.(".hierdiff-result") ?? [])]
                .filter((element) => element?.matches?.(".hierdiff-result:not([hidden])"))
                .map((element) => [node.type, element.innerText])))"""
    )
    assert len(found) == len(dict(found))  # never twice
    return dict(found)


def position(page, node_type):
    """Of the only node of a type, in the graph's units."""
    (node,) = [node for node in page.serialized()["nodes"] if node["type"] == node_type]
    return node["pos"]


def heights_of_nodes(page):
    """On the screen, as the graph's units."""
    return page.evaluate(
        """() => [...document.querySelectorAll("[data-node-id]")].sort((a, b) => a.dataset.nodeId - b.dataset.nodeId)
            .map((element) => element.offsetHeight)"""
    )


def show_synthetic(page, leaves, steps=20):
    """Open the small workflow and let its sampler hear of a run that never was."""
    workflow = small()
    page.load_graph(workflow)
    messages = synthetic_run(leaves, steps, str(page.node_of(SAMPLER)), workflow["id"])
    for message in messages:
        page.evaluate("(m) => window.comfyAPI.api.api.dispatchCustomEvent('hierdiff.tree', m)", message)
    until(page, "done")
    page.show(page.node_of(SAMPLER), zoom=1.2)
    page.settle(900)
    return messages


# --- Templates, dropped onto the canvas and run ----------------------------------------------------------------------


def watched(page):
    """Queue the open workflow, note the numbers of its tree on the way, and wait until it is done."""
    prompt_id, seen = page.queue(), []
    while not page.server.get(f"/history/{prompt_id}"):
        seen += [int(state["step"]) for state in states(page) if state["state"] == "running"]
        page.settle(60)
    page.server.wait(prompt_id, 10)
    until(page, "done")
    return seen


def test_quick_start_grows_a_tree(open_page):
    page = open_page(shared=True)
    page.drop_workflow(WORKFLOWS / "hierdiff_quickstart.json")
    assert [state["state"] for state in states(page)] == ["none"]
    page.set_value("HierDiffPromptSet", "text", "{cat face|tiger face|red apple}, {noto|flat|3d|pixel} style")
    page.set_value(SCHEDULE, "steps", 20)  # with the size a tenth of the time
    for side in ("width", "height"):
        page.set_value(SAMPLER, side, SIDE)
    seen = watched(page)
    assert seen == sorted(seen)
    assert len({step for step in seen if 0 < step < 20}) >= 3  # it grew while it was sampled
    (state,) = states(page)
    assert (state["state"], state["step"]) == ("done", "20")
    panel = page.page.locator(TREE)
    assert re.search(r"96 .* 240 .*60\.0 %", panel.inner_text())
    page.show(page.node_of(SAMPLER), page.node_of(SCHEDULE))
    page.settle(800)
    assert colours_drawn(page, TREE) > 500  # pictures of the branches among them


def test_kandinsky_template_runs_once_its_models_are_there(open_page):
    """The bundled model stands in for Kandinsky 2.2, which is not here."""
    page = open_page(shared=True)
    page.drop_workflow(WORKFLOWS / "hierdiff_kandinsky22.json")
    for node, name, value in [
        ("HierDiffPromptSet", "text", FEW),
        ("HierDiffPriorLoader", "model", BUNDLED),
        ("HierDiffDecoderLoader", "model", BUNDLED),
        (SAMPLER, "guidance", 3.0),
        ("HierDiffPriorEmbedding", "steps", 5),
        (SAMPLER, "width", SIDE),
        (SAMPLER, "height", SIDE),
        (SCHEDULE, "steps", 10),
    ]:
        page.set_value(node, name, value)
    watched(page)
    assert states(page)[0]["step"] == "10"


@pytest.fixture(scope="module")
def checkpoint(pack, tmp_path_factory):
    """Random weights in SD 1.5's shapes."""
    path = tmp_path_factory.mktemp("checkpoint") / "v1-5-pruned-emaonly-fp16.safetensors"
    importlib.import_module("large_models").write_sd15_checkpoint(path)
    yield path
    path.unlink()


def test_template_for_any_model_runs_with_a_checkpoint(open_page, web, checkpoint, request):
    folder = web.base_dir / "models" / "checkpoints"
    folder.mkdir(exist_ok=True)
    (folder / checkpoint.name).symlink_to(checkpoint)
    request.addfinalizer((folder / checkpoint.name).unlink)  # or the page's default graph, which names it, would run
    page = open_page(shared=True)
    page.drop_workflow(WORKFLOWS / "hierdiff_any_model.json")
    page.set_value("HierDiffSceneLoader", "model_name", checkpoint.name)
    page.set_value("HierDiffPromptSet", "text", "a {red|green|blue} mug")
    page.set_value(SCHEDULE, "steps", 5)
    page.set_value("EmptyLatentImage", "width", 64)
    page.set_value("EmptyLatentImage", "height", 64)
    connect(page, "HierDiffSceneLoader", 2, "HierDiffKSampler", "vae")
    watched(page)
    assert states(page)[0]["step"] == "5"
    page.page.locator(TREE).focus()
    page.page.keyboard.press("Home")
    page.page.keyboard.press("End")
    picture = opened_picture(page)
    assert "type=temp" in picture["src"]  # decoded for the tree
    assert picture["sides"] == [64, 64]
    assert picture["note"] == ""
    page.page.keyboard.press("Escape")


def connect(page, source, output, target, name):
    """Draw a link to an input."""
    page.evaluate(
        """([source, output, target, name]) => {
            const [from, to] = [source, target].map((type) => app.graph.nodes.find((node) => node.type === type));
            from.connect(output, to, to.inputs.findIndex((input) => input.name === name));
        }""",
        [source, output, target, name],
    )


# --- The tree under pointer and keys ---------------------------------------------------------------------------------


LIGHTBOX = ".hierdiff-lightbox"


def opened_picture(page):
    """Open what is selected in the tree; the lightbox's picture, once it is there."""
    page.page.keyboard.press("Enter")
    return shown_picture(page)


def shown_picture(page):
    """Once it is there, and the title says its size."""
    page.page.wait_for_function(
        """(box) => {
            const [image, title] = ["img", "h2"].map((name) => document.querySelector(`${box} ${name}`));
            const size = `${image?.naturalWidth} × ${image?.naturalHeight}`;
            return image?.naturalWidth > 0 && title.textContent.endsWith(size);
        }""",
        arg=LIGHTBOX,
    )
    return page.page.locator(LIGHTBOX).evaluate(
        """(box) => {
            const [image, words] = [box.querySelector("img"), (name) => box.querySelector(name).textContent];
            return {
                src: image.src, sides: [image.naturalWidth, image.naturalHeight], title: words("h2"),
                text: words(".hierdiff-lightbox-text"), note: words(".hierdiff-lightbox-note"),
                strip: box.querySelectorAll(".hierdiff-lightbox-strip:not([hidden]) > button").length,
            };
        }"""
    )


# What a picture is that is dragged out of the page.
DRAG_OUT = """(image) => {
    const dataTransfer = new DataTransfer();
    image.dispatchEvent(new DragEvent("dragstart", { dataTransfer, bubbles: true }));
    return dataTransfer.getData("DownloadURL");
}"""


def test_leaf_and_branch_open_over_the_page_and_all_of_it_works_by_keys(open_page):
    page = open_page(shared=True)
    show_synthetic(page, leaves=12)
    view, keys, box = page.page.locator(f"{TREE} .hierdiff-view"), page.page.keyboard, page.page.locator(LIGHTBOX)
    place = view.bounding_box()
    view.click(position={"x": place["width"] * 0.9, "y": place["height"] - 12})  # the last leaf's text
    last = shown_picture(page)
    assert (last["strip"], last["title"].split(" · ")[1]) == (12, "12 of 12")
    assert "small preview" in last["note"]
    keys.press("ArrowLeft")
    assert shown_picture(page)["text"] != last["text"]
    keys.press("End")
    assert shown_picture(page)["text"] == last["text"]
    for _ in range(20):
        keys.press("Tab")
        assert box.evaluate("(box) => box.contains(document.activeElement)")
    with page.page.expect_download() as download:
        keys.press("s")
    assert last["text"] in download.value.suggested_filename
    keys.press("c")
    box.locator("[role='status']", has_text="Copied").wait_for()
    assert box.locator("img").evaluate(DRAG_OUT).startswith("image/png:")
    keys.press("Escape")
    box.wait_for(state="detached")
    assert page.page.locator(TREE).evaluate("(panel) => document.activeElement === panel")

    keys.press("Home")
    keys.press("ArrowLeft")
    branch = opened_picture(page)
    assert branch["strip"] > 1
    assert "at its split" in branch["note"]
    keys.press("Enter")
    assert shown_picture(page)["title"].split(" · ")[1] == f"1 of {branch['strip']}"
    page.page.locator(f"{LIGHTBOX} .hierdiff-lightbox-strip button").nth(1).click()
    assert shown_picture(page)["title"].split(" · ")[1] == f"2 of {branch['strip']}"
    keys.press("Escape")
    assert shown_picture(page)["title"] == branch["title"]
    nodes = page.evaluate("app.graph.nodes.length")
    keys.press("Delete")  # no key reaches the graph
    assert page.evaluate("app.graph.nodes.length") == nodes
    box.locator("button", has_text="Close").click()
    box.wait_for(state="detached")


def rows_seen(page):
    return page.page.locator(TREE).evaluate(
        "(panel) => ((view) => view.scrollHeight / view.clientHeight)(panel.querySelector('.hierdiff-view'))"
    )


def test_hundreds_of_leaves_are_searched_folded_and_zoomed(open_page):
    page = open_page(shared=True)
    show_synthetic(page, leaves=300)
    panel, keys = page.page.locator(TREE), page.page.keyboard
    search = panel.locator("input[type='search']")
    search.fill("NUMBER 299 ")
    assert panel.locator(".hierdiff-count").inner_text() == "1"
    bar = panel.locator(".hierdiff-bar")
    assert bar.evaluate("(bar) => bar.scrollWidth <= bar.clientWidth")  # no button is cut off
    search.press("Enter")
    assert "prompt number 299 of many" in panel.locator("[aria-live]").inner_text()
    assert rows_seen(page) > 3  # its row can be read
    nodes = page.evaluate("app.graph.nodes.length")
    search.press("Backspace")  # a letter of the search, not the node
    search.press("Escape")
    assert page.evaluate("app.graph.nodes.length") == nodes
    assert search.input_value() == ""

    keys.press("0")
    assert rows_seen(page) == 1
    view = panel.locator(".hierdiff-view").bounding_box()
    page.page.mouse.move(view["x"] + 100, view["y"] + 60)
    zoom = page.evaluate("app.canvas.ds.scale")
    keys.down("Alt")
    page.page.mouse.wheel(0, -600)
    keys.up("Alt")
    page.settle(200)
    assert rows_seen(page) > 2
    assert page.evaluate("app.canvas.ds.scale") == zoom
    before = panel.locator(".hierdiff-view").evaluate("(view) => view.scrollTop")
    page.page.mouse.down()
    page.page.mouse.move(view["x"] + 100, view["y"] + 10, steps=3)
    page.page.mouse.up()
    assert panel.locator(".hierdiff-view").evaluate("(view) => view.scrollTop") > before + 20
    assert page.page.locator(LIGHTBOX).count() == 0  # that was no click

    panel.locator("button", has_text="Fold").click()
    assert int(states(page)[0]["seen"]) < 100
    panel.locator("button", has_text="Unfold").click()
    assert states(page)[0]["seen"] == "300"
    panel.focus()
    keys.press("Home")
    keys.press("Space")
    assert int(states(page)[0]["seen"]) < 300
    keys.press("ArrowRight")
    assert states(page)[0]["seen"] == "300"


def test_pointer_and_keys_tell_the_prompts_of_a_branch(open_page):
    page = open_page(shared=True)
    show_synthetic(page, leaves=6)
    view = page.page.locator(f"{TREE} .hierdiff-view")
    box = view.bounding_box()
    page.page.mouse.move(box["x"] + 30, box["y"] + box["height"] / 2)  # the trunk
    tip = page.page.locator(".hierdiff-tip")
    tip.wait_for(state="visible")
    assert "6 prompts" in tip.inner_text()
    assert "prompt number 3 of many" in tip.inner_text()
    view.click(position={"x": 20, "y": 40})
    root = page.page.locator(TREE)
    assert root.evaluate("(panel) => document.activeElement === panel")
    heard = root.locator("[aria-live]")
    page.page.keyboard.press("Home")
    assert heard.inner_text().count("style") == 6
    page.page.keyboard.press("End")
    assert heard.inner_text().count("style") == 1
    first = heard.inner_text()
    page.page.keyboard.press("ArrowDown")
    assert heard.inner_text().count("style") == 1
    assert heard.inner_text() != first
    page.page.keyboard.press("ArrowLeft")
    assert heard.inner_text().count("style") > 1
    page.page.keyboard.press("Escape")
    tip.wait_for(state="hidden")
    view.click(position={"x": 20, "y": 40}, button="right")
    page.page.locator(".litecontextmenu:visible", has_text="Collapse").wait_for()  # the node's own menu
    hooks = ("onDrawBackground", "onDrawForeground", "getExtraMenuOptions")
    own = "([id, hooks]) => hooks.filter((name) => Object.hasOwn(app.graph.getNodeById(id), name))"
    assert page.evaluate(own, [page.node_of(SAMPLER), hooks]) == []  # other extensions' hooks of the type still work


def test_rows_scroll_under_the_wheel_and_the_graph_zooms_elsewhere(open_page):
    page = open_page(shared=True)
    show_synthetic(page, leaves=60)
    page.page.locator(f"{TREE} .hierdiff-rows").click()
    page.settle(300)
    view = page.page.locator(f"{TREE} .hierdiff-view")
    box = view.bounding_box()
    page.page.mouse.move(box["x"] + 100, box["y"] + 60)
    zoom = page.evaluate("app.canvas.ds.scale")
    page.page.mouse.wheel(0, 200)
    page.settle(300)
    assert view.evaluate("(element) => element.scrollTop") > 50
    assert page.evaluate("app.canvas.ds.scale") == zoom
    page.page.locator(f"{TREE} .hierdiff-rows").click()  # the whole tree: nothing to scroll
    page.page.mouse.move(box["x"] + 100, box["y"] + 60)
    page.page.mouse.wheel(0, 200)
    page.settle(300)
    assert page.evaluate("app.canvas.ds.scale") != zoom


# --- Stopped, reloaded, several, hidden ------------------------------------------------------------------------------


def test_cancel_in_mid_run_stops_the_tree(open_page):
    page = open_page(shared=True)
    open_small(page, seed=2, steps=400)
    prompt_id = page.queue()
    until_step(page, 2)
    page.evaluate("app.extensionManager.command.execute('Comfy.Interrupt')")
    until(page, "stopped")
    (state,) = states(page)
    assert 2 <= int(state["step"]) < 400
    assert f"step {state['step']} of 400" in page.page.locator(TREE).inner_text()
    messages = [name for name, _ in page.server.get(f"/history/{prompt_id}")[prompt_id]["status"]["messages"]]
    assert messages[-1] == "execution_interrupted"


def test_page_that_is_loaded_again_goes_on_with_the_tree(open_page):
    page = open_page()
    open_small(page, seed=3, steps=400)
    page.queue()
    until_step(page, 2)
    before = int(states(page)[0]["step"])
    page.settle(1500)  # the page saves its workflows now and then
    page.load()
    until_step(page, 1)
    (state,) = states(page)
    assert state["state"] == "running"
    assert int(state["step"]) >= before
    assert colours_drawn(page, TREE) > 50
    now = int(states(page)[0]["step"])
    until_step(page, now + 1)
    page.evaluate("app.extensionManager.command.execute('Comfy.Interrupt')")
    until(page, "stopped")


def with_second_sampler(workflow):
    """The workflow with a copy of its sampler, whose latents nobody decodes: a preview shows its report."""
    (sampler,) = [node for node in workflow["nodes"] if node["type"] == SAMPLER]
    other, node, link = copy.deepcopy(sampler), workflow["last_node_id"], workflow["last_link_id"]
    other |= {"id": node + 1, "pos": [sampler["pos"][0], sampler["pos"][1] + 1200]}
    other["widgets_values"][0] += 100
    for output in other["outputs"]:
        output["links"] = []
    for slot, socket in enumerate(other["inputs"]):
        if socket.get("link") is None:
            continue
        link += 1
        old = next(item for item in workflow["links"] if item[0] == socket["link"])
        workflow["links"].append([link, old[1], old[2], node + 1, slot, old[5]])
        source = next(item for item in workflow["nodes"] if item["id"] == old[1])
        source["outputs"][old[2]]["links"].append(link)
        socket["link"] = link
    (decode,) = [item for item in workflow["nodes"] if item["type"] == "VAEDecode"]
    shown = copy.deepcopy(next(item for item in workflow["nodes"] if item["type"] == "SaveImage"))
    shown |= {"id": node + 2, "pos": [shown["pos"][0], shown["pos"][1] + 1200]}
    slot = next(i for i, socket in enumerate(shown["inputs"]) if socket["name"] == "images")
    shown["inputs"][slot]["link"] = link + 1
    tree = next(i for i, output in enumerate(other["outputs"]) if output["name"] == "tree")
    other["outputs"][tree]["links"] = [link + 1]
    workflow["links"].append([link + 1, node + 1, tree, node + 2, slot, "IMAGE"])
    workflow["nodes"] += [other, shown]
    workflow |= {"last_node_id": node + 2, "last_link_id": link + 1}
    assert decode
    return workflow, node + 1


def test_two_samplers_have_a_tree_each_and_a_collapsed_one_does_not_mind(open_page):
    page = open_page(shared=True)
    workflow, second = with_second_sampler(small(seed=6))
    page.drop("two.json", json.dumps(workflow).encode(), "application/json")
    assert [state["state"] for state in states(page)] == ["none", "none"]
    first = page.evaluate(
        "([type, other]) => app.graph.nodes.find((n) => n.type === type && n.id !== other).id", [SAMPLER, second]
    )
    page.evaluate("(id) => app.graph.getNodeById(id).collapse()", first)
    page.run()
    until(page, "done")
    page.evaluate("(id) => app.graph.getNodeById(id).collapse()", first)  # opens it again
    page.show(first, second)
    page.settle(800)
    assert [(state["state"], state["step"]) for state in states(page)] == [("done", "12")] * 2


def test_tree_of_a_run_depth_first_grows_subtree_by_subtree(open_page):
    """In pieces of at least 16 branches: the first are done before others begin."""
    page = open_page(shared=True)
    settings = {"HierDiffPromptSet.0": "{cat face|tiger face|red apple|tulip}, {noto|flat|3d|pixel|paper} style"}
    settings |= {f"{SCHEDULE}.0": 8, f"{SAMPLER}.8": "depth first", f"{SAMPLER}.4": SIDE, f"{SAMPLER}.5": SIDE}
    page.drop("depth.json", json.dumps(template("hierdiff_quickstart", **settings)).encode(), "application/json")
    page.evaluate(
        """() => {
            window.heard = [];
            window.comfyAPI.api.api.addEventListener("hierdiff.tree", ({ detail }) => window.heard.push(detail));
        }"""
    )
    page.run()
    until(page, "done")
    page.show(page.node_of(SAMPLER))
    page.settle(500)
    begin, *messages, end = page.evaluate("window.heard")
    stops = [stop for _, stop, _, _ in begin["branches"]]
    assert end["reached"] == stops
    assert end["rows"] < end["standard"] == 20 * 8
    halfway = [message["reached"] for message in messages if "reached" in message]
    assert any(8 in reached and 0 in reached for reached in halfway)  # some prompts are done, some not begun
    assert colours_drawn(page, TREE) > 500


def test_sampler_in_a_subgraph_grows_its_tree_inside(open_page):
    page = open_page(shared=True)
    open_small(page, seed=7)
    page.evaluate(
        """(type) => {
            const node = app.graph.nodes.find((node) => node.type === type);
            const { subgraph, node: outer } = app.graph.convertToSubgraph(new Set([node]));
            window.outer = outer ?? app.graph.nodes.find((node) => node.subgraph === subgraph);
        }""",
        SAMPLER,
    )
    page.run()
    page.evaluate("app.canvas.openSubgraph(window.outer.subgraph, window.outer)")
    until(page, "done")
    page.settle(500)
    page.show()
    page.settle(800)
    assert {state["step"] for state in states(page) if state["state"] == "done"} == {"12"}


@pytest.mark.parametrize(
    ("example", "sampler"), [("HierDiffGuider", "SamplerCustomAdvanced"), ("HierDiffShareSteps", "KSampler")]
)
def test_sampler_of_the_host_gets_tree_and_report_with_its_first_run(open_page, example, sampler):
    page = open_page(shared=True)
    page.drop_workflow(REPO_ROOT / "web" / "docs" / example / "example.webp")
    assert states(page) == []
    page.run()
    until(page, "done")
    page.show(page.node_of(sampler))
    page.settle(800)
    assert colours_drawn(page, TREE) > 300
    assert re.match(r"6 pictures in [\d.]+ s; full sampling: about [\d.]+ s$", said(page)[sampler])


def test_pack_works_without_its_scripts(browser, web):
    web.post("/settings", QUIET)
    with contextlib.closing(browser.new_context(viewport={"width": 1600, "height": 1000})) as window:
        page = ComfyPage(window.new_page(), web)
        page.page.route(re.compile(r"/extensions/HierDiff/.*\.js"), lambda route: route.abort())
        page.page.goto(web.url)
        page.page.wait_for_function("window.app?.graph && window.app.extensionManager")
        page.settle(1500)
        page.load_graph(small(seed=8))
        entry = page.run()
        assert len(entry["outputs"][str(page.node_of("SaveImage"))]["images"]) == 6
        assert states(page) == []


# --- What nodes say --------------------------------------------------------------------------------------------------

HOSTILE = [
    "cat <img src=x onerror=window.hacked=1>",
    "a < b, <b>bold</b>",
    "<svg onload=window.hacked=1><script>window.hacked=1</script></svg>",
    "[[here|javascript:window.hacked=1]] <a href='javascript:window.hacked=1'>link</a>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
]


def test_texts_with_markup_are_shown_as_they_are(open_page):
    """Prompts, and the name of a model that is refused; where they are lines, labels and tips."""
    page = open_page()  # a dialog is left open
    workflow = small(seed=21, steps=6, **{"HierDiffPromptSet.0": "\n".join(HOSTILE)})
    (sampler,) = [node for node in workflow["nodes"] if node["type"] == SAMPLER]
    sampler["title"] = HOSTILE[0]
    page.load_graph(workflow)
    page.run()
    until(page, "done")
    text = said(page)["HierDiffPromptSet"]
    for prompt in HOSTILE:
        assert prompt in text.replace("\n", " ")
    page.show(page.node_of(SAMPLER), zoom=1.2)
    page.settle(500)
    box = page.page.locator(f"{TREE} .hierdiff-view").bounding_box()
    page.page.mouse.move(box["x"] + 30, box["y"] + box["height"] / 2)
    tip = page.page.locator(".hierdiff-tip")
    tip.wait_for(state="visible")
    assert all(prompt in tip.inner_text() for prompt in HOSTILE)
    ours = "document.querySelectorAll('.hierdiff-panel, .hierdiff-result, .hierdiff-tip')"
    assert (
        page.evaluate(f"[...{ours}].flatMap((e) => [...e.querySelectorAll('img, svg, a, b, iframe, script')]).length")
        == 0
    )
    page.set_value("HierDiffPriorLoader", "model", HOSTILE[0])
    page.evaluate("app.queuePrompt(0)")  # refused: the page tells why
    page.settle(1500)
    assert page.evaluate("window.hacked") is None
    page.errors.clear()  # the page's own words on the refusal


def test_results_stay_and_come_back(open_page):
    """After the run, folded or not, in another tab, after a reload, out of the host's cache, out of the history."""
    page, workflow = open_page(), small(seed=22, steps=14)
    page.load_graph(workflow)
    entry = page.run()
    until(page, "done")
    page.settle(1200)
    known = said(page)
    assert set(known) == REPORTING
    report = entry["outputs"][str(page.node_of(SAMPLER))]["text"][0].splitlines()
    warnings = [line for line in report if line.startswith("⚠")]
    assert warnings
    assert report[0] not in warnings
    assert known[SAMPLER].split("\n") == [*warnings, report[0]]  # folded, warnings first
    page.show(page.node_of(SAMPLER))
    page.settle(300)
    page.page.locator(f"{TREE} .hierdiff-fold").click()
    assert set(report) == set(said(page)[SAMPLER].split("\n"))
    known = said(page)
    page.settle(1500)  # the page saves its workflows now and then

    page.load()
    until(page, "done")
    page.page.wait_for_selector(PLOT)
    assert said(page) == known
    (node,) = [node for node in page.serialized()["nodes"] if node["type"] == SAMPLER]
    assert node["properties"]["hierdiff_folded"] is False

    window = open_page()
    window.load_graph(workflow)
    assert said(window) == {}
    cached = window.run()
    assert str(page.node_of(SAMPLER)) not in cached["outputs"]
    until(window, "done", timeout=60_000)
    window.page.wait_for_selector(PLOT)
    assert set(said(window)) == REPORTING
    window.evaluate(
        "async ([workflow, outputs]) => { await app.loadGraphData(workflow); app.nodeOutputs = outputs }",
        [workflow, entry["outputs"]],
    )
    assert said(window)[SAMPLER] == "\n".join([*warnings, report[0]])
    window.page.wait_for_selector(PLOT)
    assert int(states(window, PLOT)[0]["rows"]) == rows_of(entry, window.node_of(SCHEDULE))[0]


def to_next_tab(page):
    """Id of the workflow in it."""
    shown = page.serialized()["id"]
    page.evaluate("app.extensionManager.command.execute('Workspace.NextOpenedWorkflow')")
    page.page.wait_for_function(f"(shown) => {ROOT_GRAPH}.id !== shown", arg=shown)
    page.settle(500)
    return page.serialized()["id"]


def test_template_that_is_opened_twice_knows_nothing_of_the_first(open_page):
    page = open_page()
    quick_start = "app.extensionManager.command.execute('HierDiff.Open.quickstart')"
    page.evaluate(quick_start)
    page.page.wait_for_selector(TREE)
    page.settle(500)
    first = page.serialized()["id"]
    page.set_value(SCHEDULE, "steps", 10)
    page.set_value("HierDiffPromptSet", "text", FEW)
    for side in ("width", "height"):
        page.set_value(SAMPLER, side, SIDE)
    page.run()
    until(page, "done")
    other = to_next_tab(page)  # from the first tab the newest front end opens it there again
    page.evaluate(quick_start)
    page.page.wait_for_function(f"(other) => {ROOT_GRAPH}.id !== other", arg=other)
    page.page.wait_for_selector(TREE)
    page.settle(1000)
    second = page.serialized()["id"]
    assert second not in (first, other)
    assert said(page) == {}
    assert [state["state"] for state in states(page)] == ["none"]
    assert states(page, PLOT) == []
    while to_next_tab(page) != first:
        assert page.serialized()["id"] != second  # all tabs seen
    until(page, "done", timeout=60_000)
    assert set(said(page)) >= {SCHEDULE, SAMPLER, "HierDiffContactSheet"}
    assert len(states(page, PLOT)) == 1


# --- The budget, dragged ---------------------------------------------------------------------------------------------


def test_budget_follows_the_pointer_and_the_next_run_spends_it(open_page):
    page = open_page(shared=True)
    open_small(page, seed=9, steps=20)
    entry = page.run()
    node = page.node_of(SCHEDULE)
    page.page.wait_for_selector(PLOT)
    (before,) = states(page, PLOT)
    assert int(before["rows"]) == rows_of(entry, node)[0]
    page.show(node, zoom=1.2)
    page.settle(600)
    box = page.page.locator(f"{PLOT} canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 3
    page.page.mouse.move(x, y)
    page.page.mouse.down()
    page.page.mouse.move(x, y + box["height"] * 0.12, steps=6)
    (during,) = states(page, PLOT)
    page.page.mouse.up()
    assert float(during["saved"]) > float(before["saved"])
    assert page.value_of(SCHEDULE, "value") == pytest.approx(float(during["saved"]), abs=0.05)
    entry = page.run()
    assert rows_of(entry, node)[0] == int(during["rows"])
    assert states(page, PLOT)[0]["rows"] == during["rows"]


def test_panels_work_in_nodes_2(open_page):
    """Where the page draws nodes as elements instead of on a canvas."""
    page = open_page(settings={"Comfy.VueNodes.Enabled": True})
    open_small(page, seed=13, steps=16)
    heights = heights_of_nodes(page)
    page.run()
    until(page, "done")
    page.settle(1000)
    pictures = (
        "(id) => [...document.querySelectorAll(`[data-node-id='${id}'] img`)].filter((i) => i.offsetHeight).length"
    )
    assert page.evaluate(pictures, page.node_of(SCHEDULE)) == page.evaluate(pictures, page.node_of(SAMPLER)) == 0
    assert page.evaluate(pictures, page.node_of("HierDiffContactSheet")) == 1
    assert set(said(page)) == REPORTING
    assert heights_of_nodes(page) == pytest.approx(heights, abs=8)  # they stay clear of the notes below them
    page.show(page.node_of(SCHEDULE), page.node_of(SAMPLER), zoom=0.8)
    page.settle(1000)
    assert colours_drawn(page, TREE) > 300
    # alone: both together fit at a zoom at which the page leaves out details and does not take the mouse
    page.show(page.node_of(SAMPLER), zoom=0.8)
    page.settle(1000)
    zoom = page.evaluate("app.canvas.ds.scale")
    page.page.locator(f"{TREE} .hierdiff-view").hover()
    page.page.keyboard.down("Alt")
    page.page.mouse.wheel(0, -600)
    page.page.keyboard.up("Alt")
    page.settle(200)
    assert rows_seen(page) > 1.5
    assert page.evaluate("app.canvas.ds.scale") == zoom
    page.page.locator(TREE).focus()
    page.page.keyboard.press("Home")
    page.page.keyboard.press("End")
    picture = opened_picture(page)
    assert (picture["sides"], picture["strip"], picture["note"]) == ([SIDE, SIDE], 6, "")
    page.page.keyboard.press("Escape")
    page.show(page.node_of(SCHEDULE), zoom=0.8)
    page.settle(1000)
    before, place = float(states(page, PLOT)[0]["saved"]), position(page, SCHEDULE)
    box = page.page.locator(f"{PLOT} canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.page.mouse.move(x, y)
    page.page.mouse.down()
    page.page.mouse.move(x, y - box["height"] * 0.2, steps=6)
    page.page.mouse.up()
    assert position(page, SCHEDULE) == place  # the node does not go along
    assert float(states(page, PLOT)[0]["saved"]) < before - 0.05
    assert page.value_of(SCHEDULE, "value") == pytest.approx(float(states(page, PLOT)[0]["saved"]), abs=0.08)


def test_plot_counts_the_rows_that_the_plan_has(open_page):
    """For every mode and shape, by the mathematics of the library, on the tree of one run."""
    page = open_page(shared=True)
    open_small(page, seed=12, steps=15)
    entry = page.run()
    (data,) = entry["outputs"][str(page.node_of(SCHEDULE))]["hierdiff_schedule"]
    heights = np.array(data["heights"])
    page.set_value(SCHEDULE, "private_steps", 2)
    for shape in ("linear", "power", "calibrated"):
        page.set_value(SCHEDULE, "shape", shape)
        weights = data["weights"] if shape == "calibrated" else None
        falling = falling_shape(15, shape, 2, power=2.0, weights=weights, metric=data["metric"])
        page.settle(500)
        for mode, value in (("tau", 0.9), ("root share", 0.7), ("saving", 0.5)):
            page.set_value(SCHEDULE, "mode", mode)
            page.set_value(SCHEDULE, "value", value)
            tau = tau_for_saving(chain(heights), falling, value) if mode == "saving" else value
            tau = tau * heights[-1] if mode == "root share" else tau
            rows = sum(len(heights) + 1 - (heights <= tau * share).sum() for share in falling)
            assert states(page, PLOT)[0]["rows"] == str(rows), (shape, mode)


def chain(heights):
    """A linkage matrix with these heights: each merge adds one leaf."""
    n = len(heights) + 1
    return np.array([[n + j - 1 if j else 0, j + 1, height, j + 2] for j, height in enumerate(heights)], dtype=float)


def test_budget_moves_by_keys_and_not_where_it_is_linked(open_page):
    page = open_page(shared=True)
    open_small(page, seed=10, steps=20)
    page.run()
    page.page.wait_for_selector(PLOT)
    page.show(page.node_of(SCHEDULE), zoom=1.2)
    before = float(states(page, PLOT)[0]["saved"])
    page.page.locator(PLOT).focus()
    page.page.keyboard.press("PageUp")
    assert float(states(page, PLOT)[0]["saved"]) < before - 0.05
    assert page.page.locator(f"{PLOT} [aria-live]").inner_text()
    page.evaluate(
        """(type) => {
            const source = LiteGraph.createNode("PrimitiveFloat");
            app.graph.add(source);
            const node = app.graph.nodes.find((node) => node.type === type);
            source.connect(0, node, node.inputs.findIndex((input) => input.name === "value"));
        }""",
        SCHEDULE,
    )
    held = page.value_of(SCHEDULE, "value")
    page.page.locator(PLOT).focus()
    page.page.keyboard.press("PageDown")
    assert page.value_of(SCHEDULE, "value") == held


# --- Help, languages, colours, motion --------------------------------------------------------------------------------


def open_help(page, node_type):
    """Select a node and press the (i) above it."""
    page.evaluate(
        """(type) => {
            const node = app.graph.nodes.find((node) => node.type === type);
            (app.canvas.selectNode ?? app.canvas.select).call(app.canvas, node);
        }""",
        node_type,
    )
    page.show(page.node_of(node_type), zoom=0.5, margin=120)
    page.page.locator("[data-testid='info-button']").click()


@pytest.mark.parametrize(("language", "title"), [("en", "Threshold Schedule"), ("zh", "阈值调度")])
def test_help_page_shows_text_and_picture_in_the_users_language(open_page, language, title):
    page = open_page(shared=True, settings={"Comfy.Locale": language})
    page.load_graph(small())
    open_help(page, SCHEDULE)
    heading = page.page.locator(".node-help-content h1").first
    heading.wait_for(state="visible", timeout=60_000)
    assert title in heading.inner_text()
    picture = page.page.locator(".node-help-content img[src*='example.webp']").first
    picture.scroll_into_view_if_needed()
    page.page.wait_for_function("(image) => image.complete && image.naturalWidth > 300", arg=picture.element_handle())


def test_help_pictures_open_their_workflows(open_page, repo_root):
    page = open_page(shared=True)
    pictures = sorted((repo_root / "web" / "docs").glob("*/example.webp"))
    assert len(pictures) == len(json.loads((repo_root / "node_list.json").read_text(encoding="utf-8")))
    for picture in pictures:
        page.drop_workflow(picture)
        types = {node["type"] for node in page.serialized()["nodes"]}
        assert picture.parent.name in types
        ours = "app.graph.nodes.filter((node) => node.type.startsWith('HierDiff'))"
        assert page.evaluate(f"{ours}.filter((node) => node.has_errors).map((node) => node.type)") == []


@pytest.mark.parametrize("language", ["en", "zh"])
def test_panels_and_menu_speak_the_users_language(open_page, language, repo_root):
    texts = json.loads((repo_root / "locales" / language / "main.json").read_text(encoding="utf-8"))["hierdiff"]
    page = open_page(shared=True, settings={"Comfy.Locale": language})
    page.load_graph(small())
    assert texts["tree"]["waiting"] in page.page.locator(TREE).inner_text()
    labels = page.evaluate(
        """app.extensionManager.command.commands.filter((c) => c.id.startsWith('HierDiff.')).map((c) => c.label)"""
    )
    templates = ("quickstart", "any_model", "lora_set", "compare", "upscale", "kandinsky22", "all")
    assert labels == [*(texts["menu"][name] for name in templates), texts["unpack"]]


def test_nodes_are_named_in_chinese_where_the_front_end_can(open_page, web):
    """Before 1.33.13 it loses what custom nodes bring for other languages: names stay English (locales/README.md)."""
    installed = tuple(map(int, metadata.version(FRONT_END).split(".")))
    can = web.front_end == "newest" or installed >= (1, 33, 13)
    page = open_page(shared=True, settings={"Comfy.Locale": "zh"})
    title = page.evaluate("(type) => LiteGraph.createNode(type).title", SCHEDULE)
    assert title == ("阈值调度" if can else "Threshold Schedule")


def test_menu_opens_each_template(open_page):
    page = open_page()
    names = [path.stem.removeprefix("hierdiff_") for path in sorted(WORKFLOWS.glob("*.json"))]
    assert len(names) == 6
    for name in names:
        shipped = json.loads((WORKFLOWS / f"hierdiff_{name}.json").read_text(encoding="utf-8"))
        page.evaluate("(id) => app.extensionManager.command.execute(id)", f"HierDiff.Open.{name}")
        page.page.wait_for_function(f"(id) => {ROOT_GRAPH}.id === id", arg=shipped["id"])
    page.evaluate("app.extensionManager.command.execute('HierDiff.BrowseTemplates')")
    page.page.locator("text=hierdiff_quickstart").last.wait_for(state="visible", timeout=60_000)
    thumbnails = "[...document.images].filter((image) => image.naturalWidth === 512).length"
    page.page.wait_for_function(f"() => {thumbnails} === 6")


# --- HierDiff Set ----------------------------------------------------------------------------------------------------

SET = "HierDiffSet"
MENU_OF = """(type) => {
    const node = app.graph.nodes.find((node) => node.type === type);
    app.canvas.selectItems([node]);
    return app.collectNodeMenuItems(node).map((item) => item?.content);
}"""


@pytest.mark.parametrize("nodes_2", [False, True])
def test_set_is_drawn_by_its_slider_and_unpacked(open_page, nodes_2):
    page = open_page(shared=True, settings={"Comfy.VueNodes.Enabled": nodes_2})
    small = {"0": "a koala to the left of a {rocket|teapot}, flat style", "2": 64, "3": 64, "4": 4}
    page.load_graph(template("hierdiff_lora_set", **{f"{SET}.{index}": value for index, value in small.items()}))
    page.page.locator(".hierdiff-marks button", has_text="balanced").click()
    assert page.value_of(SET, "saving") == 2
    page.set_value(SET, "saving", 1)
    pressed = page.page.locator(".hierdiff-marks button[aria-pressed='true']")
    assert pressed.all_inner_texts() == ["safe"]
    if not nodes_2:  # what is run does not depend on how nodes are drawn
        watched(page)
        (state,) = states(page)
        assert (state["state"], state["step"]) == ("done", "4")
        assert said(page)[SET].startswith("saving 1 (safe): ")
        assert said(page)["HierDiffContactSheet"] == "2 images"
    before = page.serialized()
    assert "Unpack into nodes" in page.evaluate(MENU_OF, SET)
    page.evaluate("app.extensionManager.command.execute('HierDiff.UnpackSet')")
    page.page.wait_for_function("app.graph.nodes.some((node) => node.type === 'HierDiffSavingPlan')")
    after = page.serialized()
    types = [node["type"] for node in after["nodes"]]
    assert SET not in types
    assert types.count("HierDiffKSampler") == types.count("HierDiffPromptSet") == 1
    assert page.value_of("HierDiffKSampler", "cfg") == 3
    if not nodes_2:
        prompt = page.evaluate("app.graphToPrompt().then(({ output }) => output)")
        assert page.server.run(prompt)["outputs"][str(page.node_of("HierDiffContactSheet"))]["text"] == ["2 images"]
    page.screenshot(ARTIFACTS / f"unpacked_{nodes_2}.png")
    page.settle(300)
    page.evaluate("app.extensionManager.command.execute('Comfy.Undo')")
    page.page.wait_for_function("(type) => app.graph.nodes.some((node) => node.type === type)", arg=SET)
    assert sorted(n["type"] for n in page.serialized()["nodes"]) == sorted(n["type"] for n in before["nodes"])
    assert page.value_of(SET, "saving") == 1


def test_new_nodes_have_the_colour_of_their_stage_and_saved_ones_keep_theirs(open_page):
    page = open_page(shared=True)
    made = "(type) => { const n = LiteGraph.createNode(type); app.graph.add(n); return n.color }"
    colours = {
        name: page.evaluate(made, name) for name in ("HierDiffPriorLoader", "HierDiffPromptSet", SCHEDULE, SAMPLER)
    }
    assert None not in colours.values()
    assert len(set(colours.values())) == 4
    workflow = small()
    for node in workflow["nodes"]:
        node.pop("color", None)
        node.pop("bgcolor", None)
    page.load_graph(workflow)
    assert page.evaluate("app.graph.nodes.filter((n) => n.type.startsWith('HierDiff') && n.color).length") == 0


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_panels_follow_the_theme(open_page, theme):
    page = open_page(shared=True, settings={"Comfy.ColorPalette": theme})
    show_synthetic(page, leaves=12)
    ink, ground = page.page.locator(TREE).evaluate(
        "(panel) => [getComputedStyle(panel).color, getComputedStyle(panel).backgroundColor]"
    )
    light = [sum(map(int, re.findall(r"\d+", value)[:3])) / 765 for value in (ink, ground)]
    assert abs(light[0] - light[1]) > 0.4  # legible
    assert (light[1] > 0.5) == (theme == "light")


def test_tree_does_not_move_for_those_who_want_less_motion(open_page):
    page = open_page(shared=True)
    page.page.emulate_media(reduced_motion="reduce")
    workflow = small()
    page.load_graph(workflow)
    begin, *progress = synthetic_run(leaves=40, steps=20, node=str(page.node_of(SAMPLER)), workflow=workflow["id"])
    frames = page.evaluate(GROW_AND_COUNT, [begin, progress[:1], TREE])
    page.page.emulate_media(reduced_motion="null")
    assert frames <= 3


def test_tree_of_500_leaves_is_drawn_and_scrolled(open_page):
    page = open_page(shared=True)
    show_synthetic(page, leaves=500)
    page.page.locator(f"{TREE} .hierdiff-rows").click()
    view = page.page.locator(f"{TREE} .hierdiff-view")
    assert view.evaluate("(element) => element.scrollHeight / element.clientHeight") > 10
    view.evaluate("(element) => { element.scrollTop = element.scrollHeight / 2 }")
    page.settle(400)
    assert colours_drawn(page, TREE) > 500


# Sends a run's messages and counts the frames in which the picture changed during the next second.
GROW_AND_COUNT = """async ([begin, progress, selector]) => {
    const { api } = window.comfyAPI.api;
    for (const message of [begin, ...progress]) api.dispatchCustomEvent("hierdiff.tree", message);
    const canvas = document.querySelector(`${selector} canvas`);
    const until = performance.now() + 1000;
    let [last, changes] = [null, 0];
    while (performance.now() < until) {
        await new Promise((next) => requestAnimationFrame(next));
        const now = canvas.toDataURL();
        if (now !== last) changes++;
        last = now;
    }
    return changes;
}"""


# --- Prompts as a table ----------------------------------------------------------------------------------------------

TABLE_NODE, TABLE = "HierDiffPromptTable", ".hierdiff-table"
VUE = {"Comfy.VueNodes.Enabled": True}


def open_table(page, text=""):
    """A table with a node behind it that shows its texts."""
    page.evaluate(
        """(text) => {
            const [table, shown] = ["HierDiffPromptTable", "PreviewAny"].map((type) => LiteGraph.createNode(type));
            Object.assign(table, { pos: [100, 100] });
            Object.assign(shown, { pos: [800, 100] });
            app.graph.add(table);
            app.graph.add(shown);
            table.connect(1, shown, 0);
            if (text) table.widgets.find((widget) => widget.name === "table").value = text;
        }""",
        text,
    )
    page.page.wait_for_selector(f"{TABLE} input[data-column=prompt]", state="attached")
    page.show()
    page.settle(200)


def cell(page, row, column):
    """The cell of a row, which counts from 1."""
    return page.page.locator(f"{TABLE} .hierdiff-table-row").filter(
        has=page.page.locator(f".hierdiff-table-number:text-is('{row}')")
    ).locator(f"input[data-column={column}]")  # fmt: skip


def counted(page, **wanted):
    """Wait until the server has counted this many problems or pictures."""
    for name, value in wanted.items():
        page.page.wait_for_selector(f"{TABLE}[data-{name}='{value}']", timeout=10_000)


def paste(page, row, column, text):
    cell(page, row, column).evaluate(
        """(cell, text) => {
            const clipboardData = new DataTransfer();
            clipboardData.setData("text/plain", text);
            cell.focus();
            cell.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
        }""",
        text,
    )


def kept(page):
    """The lines of the text that the node keeps, without the header."""
    return page.value_of(TABLE_NODE, "table").split("\n")[1:]


@pytest.mark.parametrize("settings", [{}, VUE], ids=["classic", "nodes2"])
def test_a_table_is_typed_pasted_checked_and_run(open_page, settings):
    page, fruit = open_page(shared=True, settings=settings), "pear" if settings else "apple"  # nothing from the cache
    open_table(page)
    keys = page.page.keyboard
    cell(page, 1, "prompt").click()
    keys.type(f"a {{red|green}} <b>{fruit}</b>")
    keys.press("Tab")
    keys.press("Tab")
    keys.type("7.5")
    problem = page.page.locator(".hierdiff-table-problem")  # on the way there are others: a brace that is still open
    problem.filter(has_text="row 1: seed must be a whole number").wait_for()
    counted(page, problems=1)
    assert "'7.5'" in cell(page, 1, "seed").get_attribute("title")
    assert cell(page, 1, "seed").get_attribute("aria-invalid") == "true"
    keys.press("Backspace")
    keys.press("Backspace")
    counted(page, problems=0, pictures=2)
    keys.press("Enter")  # below the last: a new row
    paste(page, 2, "prompt", 'a dog\tblurry\t12\t2\t"ohwx\tdog"\r\na cat\r\n')
    counted(page, pictures=5)
    assert page.page.locator(f"{TABLE} .hierdiff-status").inner_text() == "Prompts: 4 · pictures: 5"
    cell(page, 3, "prompt").click()
    keys.press("Alt+ArrowUp")
    keys.press("Alt+Shift+ArrowDown")
    cell(page, 4, "on").uncheck()
    assert kept(page) == [
        f"\ta {{red|green}} <b>{fruit}</b>\t\t7\t\t",
        "\ta cat\t\t\t\t",
        "\ta cat\t\t\t\t",
        'no\ta dog\tblurry\t12\t2\t"ohwx\tdog"',
    ]
    page.page.locator(f"{TABLE} [data-action=remove]").click()
    counted(page, pictures=4)
    shown = page.run()["outputs"][str(page.node_of(TABLE_NODE))]
    assert shown["prompts"] == [f"a red <b>{fruit}</b>", f"a green <b>{fruit}</b>", "a cat", "a cat"]
    assert "⚠ 1 of 4 prompts is equal to an earlier one" in shown["text"][0]
    assert page.page.locator(f"{TABLE} b").count() == 0


def test_a_table_is_opened_saved_and_brought_back_by_a_workflow(open_page):
    page = open_page(shared=True)
    open_table(page, '[{"prompt": "a cat", "seed": 3, "caption": "cat"}, "a {red|blue} dog"]')  # by hand, or by the API
    counted(page, pictures=3)
    assert [cell(page, 1, name).input_value() for name in ("prompt", "seed", "caption")] == ["a cat", "3", "cat"]
    with page.page.expect_file_chooser() as chooser:
        page.page.locator(f"{TABLE} [data-action=import]").click()
    content = "seed;text;negative prompt\n18446744073709551615;a fish, big;dark\n".encode("utf-16")
    chooser.value.set_files([{"name": "more.csv", "mimeType": "text/csv", "buffer": content}])
    counted(page, pictures=4)
    assert cell(page, 3, "prompt").input_value() == "a fish, big"
    with page.page.expect_download() as download:
        page.page.locator(f"{TABLE} [data-action=export]").select_option("jsonl")
    assert download.value.suggested_filename == "prompts.jsonl"
    lines = [json.loads(line) for line in download.value.path().read_text(encoding="utf-8").splitlines()]
    assert lines[2] == {"prompt": "a fish, big", "negative": "dark", "seed": 2**64 - 1}
    workflow = page.serialized()
    page.load_graph({**workflow, "id": str(uuid.uuid4())})
    counted(page, pictures=4)
    assert [cell(page, row, "prompt").input_value() for row in (1, 2, 3)] == [
        "a cat",
        "a {red|blue} dog",
        "a fish, big",
    ]
    page.set_value(TABLE_NODE, "table", '[{"prompt": "a", ')  # no table: it is mended as text
    counted(page, problems=1)
    assert "not JSON" in page.page.locator(".hierdiff-table-problem").inner_text()
    page.page.locator(".hierdiff-table-text").fill("a cat\na dog")
    counted(page, pictures=2)
    page.page.locator(f"{TABLE} [data-action=as_text]").click()
    assert cell(page, 2, "prompt").input_value() == "a dog"


def test_of_ten_thousand_rows_those_in_sight_are_there(open_page):
    page = open_page(shared=True)
    open_table(page, "\n".join(f"prompt {i}" for i in range(10_000)))
    counted(page, pictures=10_000)
    assert page.page.locator(f"{TABLE} .hierdiff-table-row").count() < 60
    page.page.locator(f"{TABLE} .hierdiff-view").evaluate("(view) => (view.scrollTop = view.scrollHeight)")
    cell(page, 10_000, "prompt").click()
    page.page.keyboard.press("Enter")
    page.page.keyboard.type("one more")
    counted(page, problems=1)
    problem = page.page.locator(".hierdiff-table-problem").inner_text()
    assert "row" in problem or "rows" in problem
    assert cell(page, 10_001, "prompt").input_value() == "one more"


# --- Seconds, and compare with unshared ------------------------------------------------------------------------------

COMPARE = "dialog.hierdiff-compare"


def compare_from_menu(page, node_type=SAMPLER):
    """What a right click on the sampler offers."""
    label = page.evaluate(
        """(type) => {
            const node = app.graph.nodes.find((node) => node.type === type);
            const [item] = app.extensions.find((e) => e.name === "hierdiff").getNodeMenuItems(node);
            item.callback();
            return item.content;
        }""",
        node_type,
    )
    page.page.wait_for_selector(COMPARE)
    return label


def until_compared(page, state="done"):
    page.page.wait_for_selector(f'{COMPARE}[data-state="{state}"]', timeout=120_000)


def line(page):
    """Where the line between the two pictures is, in percent."""
    return int(page.page.locator(f"{COMPARE} .hierdiff-ab-stage").get_attribute("data-at"))


@pytest.mark.parametrize("nodes", ["classic", "2.0"])
def test_seconds_are_told_and_a_prompt_is_compared_with_itself_unshared(open_page, server, nodes):
    page = open_page(shared=True, settings={"Comfy.VueNodes.Enabled": nodes == "2.0"})
    open_small(page, seed=77)
    page.run()
    until(page, "done")
    bar = page.page.locator(f"{TREE} .hierdiff-status").inner_text()
    assert re.match(r"^[\d.]+ (s|min)( \d+ s)? · full sampling", bar)
    before = page.serialized()
    assert compare_from_menu(page) == "Compare with unshared"
    until_compared(page)
    dialog = page.page.locator(COMPARE)
    assert re.search(r"(No visible|Slight|Visible) difference · [\d.]+ % of the pixels", dialog.inner_text())
    shared, unshared = (
        dialog.locator(f".hierdiff-ab-{name}").evaluate(
            "(picture) => picture.decode().then(() => picture.naturalWidth)"
        )
        for name in ("shared", "unshared")
    )
    assert shared == unshared == SIDE
    # the keys move the line at once, and the pointer takes it along
    assert line(page) == 50
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("ArrowRight")
    assert line(page) == 54
    page.page.keyboard.press("Home")
    assert line(page) == 0
    box = dialog.locator(".hierdiff-ab-stage").bounding_box()
    page.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 50)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 50)
    page.page.mouse.up()
    assert abs(line(page) - 80) <= 1
    # another prompt, which is cancelled on its way
    dialog.locator("select").select_option(index=3)
    dialog.locator("button", has_text="Cancel").click()
    until_compared(page, "cancelled")
    dialog.locator("select").select_option(index=4)
    until_compared(page)
    page.page.keyboard.press("Escape")
    page.page.wait_for_selector(COMPARE, state="detached")
    after = page.serialized()
    assert [after[key] for key in ("nodes", "links")] == [before[key] for key in ("nodes", "links")]
    assert not server.get("/queue")["queue_running"]
