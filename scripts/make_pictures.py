"""Make the still pictures of the README and of the template browser, from runs of the workflows on the bundled models.

python scripts/make_pictures.py
"""

import io

from comfyui_host import REPO_ROOT, ComfyServer
from demo import WORKFLOW, Results, collect, convert, load_workflow
from PIL import Image

IMAGES = REPO_ROOT / "docs" / "images"
FEW = "{tiger face|cat face|strawberry}, {noto|twemoji|flat|line art} style"
SCENE_TEMPLATES = ("hierdiff_any_model", "hierdiff_lora_set", "hierdiff_compare", "hierdiff_upscale")
README_WIDTH, THUMBNAIL, ICON = 1000, 512, 400


def run_quickstart(server, **changes):
    """Files of the quick start's results, by name, as PIL pictures; `changes` replace inputs of any node."""
    prompt = convert(server, load_workflow(WORKFLOW))
    for node in prompt.values():
        node["inputs"] |= {name: value for name, value in changes.items() if name in node["inputs"]}
    entry = server.run(prompt)
    files = collect(server, Results(prompt, entry["outputs"]))
    return {name: Image.open(io.BytesIO(data)).convert("RGB") for name, data in files.items() if name.endswith(".png")}


def run_template(server, name):
    """The contact sheets of a template on the bundled scene model."""
    prompt = convert(server, load_workflow(WORKFLOW.with_name(f"{name}.json")))
    outputs = server.run(prompt)["outputs"]
    sheets = [node_id for node_id, node in prompt.items() if node["class_type"] == "HierDiffContactSheet"]
    files = [file for node_id in sheets for file in outputs[node_id]["images"]]
    return [Image.open(io.BytesIO(server.view(file))).convert("RGB") for file in files]


def thumbnail(pictures):
    """The largest square of a picture, or the upper part of each of several, one below the other."""
    if len(pictures) == 1:
        return square(pictures[0], THUMBNAIL)
    canvas, height = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "white"), THUMBNAIL // len(pictures)
    for i, picture in enumerate(pictures):
        canvas.paste(narrowed(picture, THUMBNAIL).crop((0, 0, THUMBNAIL, height)), (0, i * height))
    return canvas


def narrowed(picture, width):
    return picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)


def square(picture, side):
    """The largest square from the top left corner, `side` pixels wide."""
    length = min(picture.size)
    return picture.crop((0, 0, length, length)).resize((side, side), Image.Resampling.LANCZOS)


def icon(pictures):
    """Four pictures of the set as one square."""
    canvas = Image.new("RGB", (ICON, ICON), "white")
    for i, picture in enumerate(pictures):
        canvas.paste(picture.resize((ICON // 2, ICON // 2), Image.Resampling.LANCZOS), (i % 2 * 200, i // 2 * 200))
    return canvas


def main():
    with ComfyServer() as server:
        made = run_quickstart(server)
        few = run_quickstart(server, text=FEW, shape="linear", metric="cosine")  # splits spread over the steps
        scenes = {name: run_template(server, name) for name in SCENE_TEMPLATES}
    IMAGES.mkdir(parents=True, exist_ok=True)
    narrowed(made["contact_sheet.png"], README_WIDTH).save(IMAGES / "contact_sheet.png", optimize=True)
    pictures = [picture for name, picture in made.items() if name[0].isdigit()]
    icon([pictures[i] for i in (6, 11, 15, 28)]).save(REPO_ROOT / "docs" / "icon.png", optimize=True)
    thumbnails = {"hierdiff_quickstart": [made["contact_sheet.png"]], "hierdiff_kandinsky22": [few["tree.png"]]}
    for name, pictures in (thumbnails | scenes).items():
        thumbnail(pictures).save(REPO_ROOT / "workflows" / f"{name}.jpg", quality=90)


if __name__ == "__main__":
    main()
