"""Film the growing tree of the README: twelve prompts, sampled in ComfyUI's own page.

python scripts/make_animation.py
"""

import io
import tempfile
from pathlib import Path

from comfyui_host import REPO_ROOT, ComfyServer
from comfyui_page import TREE_PANEL, chromium, comfyui_page
from help_examples import BEGIN, PICTURES, STAGES, TREE, Example
from make_pictures import FEW
from PIL import Image

FILM = REPO_ROOT / "docs" / "images" / "growing_tree.webp"
SAMPLER = "HierDiffBranchingSampler"
PANEL = (780, 430)  # CSS pixels
STEPS, STEPS_BEFORE = 40, 5  # of the film, and of the run that prepares the node
FRAME, FIRST, LAST = 110, 600, 3000  # milliseconds that a picture is shown
# A pack of its own in the server: it waits at each step, so that the page has time for a picture of it. Not before
# there is a file `slow` beside it. The seconds of a run that waits are nobody's: the page is told none, and nothing of
# what was measured, which would lie over all else.
SLOW = """
import time
from pathlib import Path

import comfy.utils
from server import PromptServer

quick = comfy.utils.ProgressBar.update_absolute

def slow(self, *args, **kwargs):
    if Path(__file__).with_name("slow").exists():
        time.sleep(2)
    return quick(self, *args, **kwargs)

comfy.utils.ProgressBar.update_absolute = slow
send = PromptServer.send_sync

def send_untimed(self, event, data, *args, **kwargs):
    if event == "hierdiff.tree":
        data = {**data, "seconds": None, "measured": None}
    return send(self, event, data, *args, **kwargs)

PromptServer.send_sync = send_untimed
NODE_CLASS_MAPPINGS = {}
"""
# Gives the panel its size; what a node has to spare, the panel shares with the text below it.
RESIZE = """([type, panel, width, height]) => {
    const node = app.graph.nodes.find((node) => node.type === type);
    const { offsetWidth, offsetHeight } = document.querySelector(panel);
    node.setSize([node.size[0] + width - offsetWidth, node.size[1] + 2 * (height - offsetHeight)]);
}"""
CHANGED = """([panel, { step, state }]) => {
    const { dataset } = document.querySelector(panel);
    return dataset.step !== step || dataset.state !== state;
}"""
SPLITS = {  # they spread over the steps
    "prompts": ("HierDiffPromptSet", [FEW], {}, "prompts"),
    "linkage": ("HierDiffWardLinkage", ["cosine"], {"embeddings": ("embed", 0)}, "plan"),
    "schedule": (
        "HierDiffThresholdSchedule",
        [STEPS, "saving", 0.6, 1, "linear", 2.0],
        {"linkage": ("linkage", 0)},
        "plan",
    ),
}


def workflow(object_info):
    """The four stages with twelve prompts."""
    columns = [BEGIN, TREE, {"schedule": 570}, {"load_decoder": 102, "sampler": 1000}, PICTURES]
    return Example(STAGES | SPLITS, columns, "", {3: 800}).workflow("film", object_info)


def prepare(page, object_info):
    """Run once, so that the node has all its parts, and give the panel its size; returns the clip."""
    page.load_graph(workflow(object_info))
    page.set_value("HierDiffThresholdSchedule", "steps", STEPS_BEFORE)
    page.run()
    page.set_value("HierDiffThresholdSchedule", "steps", STEPS)
    page.show(page.node_of(SAMPLER))
    page.page.wait_for_timeout(1000)
    for _ in range(2):
        page.evaluate(RESIZE, [SAMPLER, TREE_PANEL, *PANEL])
        page.show(page.node_of(SAMPLER))
        page.page.wait_for_timeout(500)
    return page.page.locator(TREE_PANEL).bounding_box()


def film(page, clip):
    """The panel at each step, and last when all is done, as PIL pictures: {(step, state): picture}."""
    frames, seen = {}, {"step": str(STEPS_BEFORE), "state": "done"}
    page.queue()
    while not frames or seen["state"] == "running":
        page.page.wait_for_function(CHANGED, arg=[TREE_PANEL, seen], timeout=60_000)
        seen = page.page.locator(TREE_PANEL).evaluate(
            "(panel) => ({ step: panel.dataset.step, state: panel.dataset.state })"
        )
        picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
        frames[int(seen["step"]), seen["state"]] = picture
    return frames


def save(frames):
    """As an animated WebP, a quarter of the size of a GIF."""
    frames.pop((STEPS, "running"), None)  # the last pictures are still to come
    pictures = list(frames.values())
    durations = [FIRST, *[FRAME] * (len(pictures) - 2), LAST]
    pictures[0].save(FILM, save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=80, method=6)
    print(f"{FILM.relative_to(REPO_ROOT)}: {len(pictures)} pictures, {FILM.stat().st_size // 1024} KB")


def main():
    with tempfile.TemporaryDirectory() as base_dir:
        packs = Path(base_dir) / "custom_nodes"
        packs.mkdir()
        (packs / "slow.py").write_text(SLOW)
        with ComfyServer(base_dir=Path(base_dir)) as server, chromium() as browser:
            info = server.object_info()
            window = {
                "viewport": {"width": 1300, "height": 1300},
                "device_scale_factor": 1.25,
                "reduced_motion": "reduce",
            }
            with comfyui_page(browser, server, **window) as page:
                clip = prepare(page, info)
                (packs / "slow").touch()
                frames = film(page, clip)
    save(frames)


if __name__ == "__main__":
    main()
