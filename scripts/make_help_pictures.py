"""Make the pictures of the help pages: the examples, run in ComfyUI's own page.

Each picture carries its workflow, and opens it when it is dragged onto the canvas.

    python scripts/make_help_pictures.py [node id ...]
"""

import argparse
import io
import json
import sys

from comfyui_host import REPO_ROOT, ComfyServer
from comfyui_page import chromium, comfyui_page
from help_examples import EXAMPLES
from PIL import Image
from workflow_api import to_api

DOCS = REPO_ROOT / "web" / "docs"
WIDEST, QUALITY = 1080, 82
WINDOW = {"viewport": {"width": 2000, "height": 1300}, "device_scale_factor": 2}
SETTINGS = {"Comfy.NodeBadge.NodeSourceBadgeMode": "None"}


def save(picture, workflow, path):
    """As a WebP with the workflow in its EXIF, as ComfyUI's page reads it."""
    exif = Image.Exif()
    exif[0x010F] = "workflow:" + json.dumps(workflow, ensure_ascii=True, separators=(",", ":"))  # Make
    width = min(WIDEST, picture.width)
    picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    path.parent.mkdir(exist_ok=True)
    picture.save(path, quality=QUALITY, method=6, exif=exif)


def check_sizes(page, workflow):
    """Refuse a node without room for its result: the page makes it larger, and it lies over the next one."""
    sizes = {item["id"]: item["size"] for item in page.serialized()["nodes"]}
    for item in workflow["nodes"]:
        if sizes[item["id"]] != item["size"]:
            raise RuntimeError(f"{item['type']} needs the size {sizes[item['id']]}, not {item['size']}")


def write_checkpoint(server, name):
    """A stand-in for a checkpoint: the shapes of SD 1.5, random weights (tests/large_models.py)."""
    sys.path[:0] = [str(REPO_ROOT / "tests"), str(server.comfyui_dir)]
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    from large_models import write_sd15_checkpoint

    write_sd15_checkpoint(server.base_dir / "models" / "checkpoints" / name)


def run_until(page, workflow, node_id, object_info):
    """Run a node and what it needs, with a preview behind it that the page does not know of."""
    prompt = to_api(workflow, object_info)
    needed, waiting = {}, [str(node_id)]
    while waiting:
        name = waiting.pop()
        needed[name] = prompt[name]
        waiting += [value[0] for value in prompt[name]["inputs"].values() if isinstance(value, list)]
    needed["preview"] = {"class_type": "PreviewAny", "inputs": {"source": [str(node_id), 0]}}
    page.server.run(needed)


def photograph(page, node, object_info):
    """Run an example in the page and save the picture of the nodes that it is about."""
    example = EXAMPLES[node]
    workflow, ids = example.workflow(node, object_info), example.ids()
    page.server.free()
    page.page.wait_for_timeout(1000)  # or the next run is quicker, and its nodes say nothing
    page.load_graph(workflow)
    if example.until:
        run_until(page, workflow, ids[example.until], object_info)
    else:
        page.run()
    check_sizes(page, workflow)
    clip = page.show(*(ids[name] for name in example.shown.split()), margin=20)
    page.page.wait_for_timeout(1500)  # the pictures of the results are loaded
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    save(picture, workflow, DOCS / node / "example.webp")


def main():
    parser = argparse.ArgumentParser(description="Make the pictures of the help pages.")
    parser.add_argument("nodes", nargs="*", default=list(EXAMPLES))
    nodes = parser.parse_args().nodes
    with ComfyServer() as server, chromium() as browser:
        if "HierDiffClipEmbedding" in nodes:
            write_checkpoint(server, EXAMPLES["HierDiffClipEmbedding"].nodes["load"][1][0])
        info = server.object_info()
        with comfyui_page(browser, server, settings=SETTINGS, **WINDOW) as page:
            for node in nodes:
                photograph(page, node, info)
                print(node, (DOCS / node / "example.webp").stat().st_size // 1024, "KB", flush=True)


if __name__ == "__main__":
    main()
