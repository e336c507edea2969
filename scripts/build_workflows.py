"""Write the workflows that the pack ships, from the descriptions below.

Node inputs, outputs and widget order come from a running server's /object_info, so they cannot drift from the nodes.

    python scripts/build_workflows.py
"""

import json
import re
import uuid

from comfyui_host import REPO_ROOT, ComfyServer
from set_templates import compare, lora_set, upscale

WORKFLOWS = REPO_ROOT / "workflows"
VERSION = "0.1.0"
COLUMN, GAP, TITLE = 330, 50, 30
# The pack's page fits a template to the window when it is opened (web/fit.js). The view is for pages without it: all of
# a template is seen at 1600 x 1000 pixels, between the page's bars. One that the page makes (it does so without "ds")
# tears Nodes 2.0 apart in front end 1.32.9.
TEMPLATE_COLUMNS = dict.fromkeys(range(6), 300) | {4: 330}
VIEW = {"scale": 0.6, "offset": [140, 230]}
FIT = "hierdiff_fit"
FRAME, FRAME_TITLE, FRAME_COLOR = 15, 44, "#6b8a99"  # around a column: its width at the sides, and its title's height
STAGE_COLORS = dict(re.findall(r'(\w+): "(#\w{6})"', (REPO_ROOT / "web" / "stages.js").read_text(encoding="utf-8")))

EMOJI = """# emoji name, style (one prompt per line; {a|b} gives all combinations)
{cat face|tiger face|wolf face|red apple|strawberry|fire engine}, {noto|twemoji|flat|3d|line art} style"""
PRODUCTS = """# one prompt per line; {a|b} gives all combinations
product photo of a ceramic {mug|teapot|vase|bowl}, {white|sage green|terracotta|cobalt blue} glaze, soft light"""

STAGE_TITLES = ["Start here", "1 Embed", "2 Cluster", "3 Plan", "4 Sample", "Images"]
NOTES = {
    "prior": """### Prior Embedding
A text-to-image *prior* predicts, for each prompt, the embedding of an image that would match it. Prompts whose images
will look alike get embeddings that are close together.""",
    "linkage": """### Ward Linkage
Clusters the embeddings into a tree. In the dendrogram, prompts that join low (on the right) are similar and can share
many steps.""",
    "schedule": """### Threshold Schedule
A threshold that falls over the steps cuts the tree into ever smaller clusters. Modes: **saving** = share of UNet rows
to save, **tau** = a height, as in the paper, **root share** = a share of the tree's height.""",
    "sensitivity": """### One slider
With shape **calibrated** and mode **saving**, **value** is all you have to choose: the rows go to the steps where
sharing would show. **Calibrate Schedule** measures the sensitivity once per model.""",
    "sampler": """### Hierarchical Branching Sampler
Each cluster has one latent. When a cluster splits, its latent is copied, and every prompt ends with its own image. The
latents go to ComfyUI's own **VAE Decode**.""",
}


def describe(prior, decoder, prompts, prior_guidance, metric, schedule, guidance, size, about, sensitivity=None):
    """Nodes of the four-stage graph: name -> (type, widget values, links, column, height, stage)."""
    plan_links = {"linkage": ("linkage", 0)}
    calibrated = {}
    if sensitivity:
        plan_links["sensitivity"] = ("sensitivity", 0)
        calibrated = {
            "sensitivity": ("HierDiffSensitivityLoader", [sensitivity], {}, 2, 366, "load"),
            "note_sensitivity": ("MarkdownNote", [NOTES["sensitivity"]], {}, 3, 150, None),
        }
    return {
        "about": ("MarkdownNote", [about], {}, 0, 400 if "hf download" in about else 220, None, "About"),
        "prompts": ("HierDiffPromptSet", [prompts], {}, 0, 360, "prompts"),
        "load_prior": ("HierDiffPriorLoader", [prior, "auto"], {}, 1, 130, "load"),
        "embed": (
            "HierDiffPriorEmbedding",
            ["", 25, prior_guidance, 0, "fixed", "per prompt"],
            {"prior": ("load_prior", 0), "prompts": ("prompts", 0)},
            1,
            390,
            "prompts",
        ),
        "note_prior": ("MarkdownNote", [NOTES["prior"]], {}, 1, 150, None),
        "load_decoder": ("HierDiffDecoderLoader", [decoder, "auto"], {}, 1, 130, "load"),
        "linkage": ("HierDiffWardLinkage", [metric], {"embeddings": ("embed", 0)}, 2, 450, "plan"),
        "note_linkage": ("MarkdownNote", [NOTES["linkage"]], {}, 2, 150, None),
        "schedule": ("HierDiffThresholdSchedule", schedule, plan_links, 3, 650, "plan"),
        "note_schedule": ("MarkdownNote", [NOTES["schedule"]], {}, 3, 150, None),
        **calibrated,
        "sampler": (
            "HierDiffBranchingSampler",
            [0, "fixed", guidance, "DDPM", size, size, 0, False, "breadth first", "auto", 0, 1],
            {"decoder": ("load_decoder", 0), "embeddings": ("embed", 0), "plan": ("schedule", 0)},
            4,
            880,
            "sample",
        ),
        "note_sampler": ("MarkdownNote", [NOTES["sampler"]], {}, 4, 150, None),
        "decode": ("VAEDecode", [], {"samples": ("sampler", 0), "vae": ("load_decoder", 1)}, 5, 50, "sample"),
        "sheet": (
            "HierDiffContactSheet",
            [0, "automatic"],
            {"images": ("decode", 0), "prompts": ("prompts", 0)},
            5,
            530,
            "sample",
        ),
        "save": ("SaveImage", ["HierDiff"], {"images": ("decode", 0)}, 5, 380, "sample"),
    }


# What users may choose in its place: a workflow that they save offers the download wherever it is missing.
CHECKPOINTS = [
    {
        "name": "v1-5-pruned-emaonly-fp16.safetensors",
        "url": "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
        "v1-5-pruned-emaonly-fp16.safetensors",
        "directory": "checkpoints",
    },
    {
        "name": "sd_xl_base_1.0.safetensors",
        "url": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/"
        "sd_xl_base_1.0.safetensors",
        "directory": "checkpoints",
    },
]
MODELS = {"HierDiffSceneLoader": CHECKPOINTS}

SCENES = """# two emoji and where they are (one prompt per line; {a|b} gives all combinations)
{a koala|a mushroom|a green apple} to the left of {a rocket|a teapot}, {flat|noto} style, on a blue background"""

ANY_MODEL_ABOUT = """## HierDiff with any model
Press **Run**: the small bundled model draws two emoji in a picture, 128×128 pixels at cfg 3. For your own model choose
its checkpoint in **Load Scene Model**, set its size, cfg and steps (SD 1.5: 512×512, cfg 7, 30), and write other
prompts. LoRAs go after the loader as usual; sampler and scheduler are ComfyUI's own."""

CLIP_NOTE = """### CLIP Embedding
Encodes each prompt: one row of conditioning, and a vector for clustering."""

KSAMPLER_NOTE = """### Hierarchical KSampler
ComfyUI's KSampler for all prompts. Samplers with one or two model calls per step (euler, heun, dpmpp_sde) cope best
with splits; multistep ones (such as dpmpp_2m) overshoot if clusters split late: see docs/samplers.md."""


def any_model():
    """Nodes of the graph for a native model, as in `describe`."""
    model, clip, vae = ("load", 0), ("load", 1), ("load", 2)
    return {
        "about": ("MarkdownNote", [ANY_MODEL_ABOUT], {}, 0, 260, None, "About"),
        "prompts": ("HierDiffPromptSet", [SCENES], {}, 0, 360, "prompts"),
        "load": ("HierDiffSceneLoader", ["emoji-scenes (bundled)"], {}, 1, 100, "load"),
        "embed": (
            "HierDiffClipEmbedding",
            ["auto"],
            {"clip": clip, "prompts": ("prompts", 0)},
            1,
            280,
            "prompts",
        ),
        "negative": ("CLIPTextEncode", [""], {"clip": clip}, 1, 120, "prompts"),
        "note_embed": ("MarkdownNote", [CLIP_NOTE], {}, 1, 120, None),
        "linkage": ("HierDiffWardLinkage", ["chord"], {"embeddings": ("embed", 1)}, 2, 510, "plan"),
        "note_linkage": ("MarkdownNote", [NOTES["linkage"]], {}, 2, 150, None),
        "schedule": (
            "HierDiffThresholdSchedule",
            [20, "saving", 0.15, 1, "power", 4.0],
            {"linkage": ("linkage", 0)},
            3,
            680,
            "plan",
        ),
        "note_schedule": ("MarkdownNote", [NOTES["schedule"]], {}, 3, 150, None),
        "empty": ("EmptyLatentImage", [128, 128, 1], {}, 4, 110, "load"),
        "sampler": (
            "HierDiffKSampler",
            [0, "fixed", 3.0, "euler", "simple", 1.0, 0],
            {
                "model": model,
                "positive": ("embed", 0),
                "negative": ("negative", 0),
                "latent_image": ("empty", 0),
                "plan": ("schedule", 0),
            },
            4,
            620,
            "sample",
        ),
        "note_sampler": ("MarkdownNote", [KSAMPLER_NOTE], {}, 4, 170, None),
        "decode": ("VAEDecode", [], {"samples": ("sampler", 0), "vae": vae}, 5, 50, "sample"),
        "sheet": (
            "HierDiffContactSheet",
            [0, "automatic"],
            {"images": ("decode", 0), "prompts": ("prompts", 0)},
            5,
            440,
            "sample",
        ),
        "save": ("SaveImage", ["HierDiff"], {"images": ("decode", 0)}, 5, 420, "sample"),
    }


def frames(built, titles, widths):
    """A frame around each column, with its title."""
    groups, left = [], 0
    lowest = max(node["pos"][1] + node["size"][1] for node in built)
    for number, title in enumerate(titles):
        width = widths.get(number, COLUMN)
        top = -TITLE - FRAME_TITLE
        box = [left - FRAME, top, width + 2 * FRAME, lowest - top + FRAME]
        groups.append(
            {
                "id": number + 1,
                "title": title,
                "bounding": box,
                "color": FRAME_COLOR,
                "font_size": 24,
                "flags": {},
            }
        )
        left += width + GAP
    return groups


def build(nodes, object_info, widths):
    """Nodes and links in ComfyUI's file format 0.4; `widths` of columns that are not COLUMN wide, by their number."""
    ids = {name: i for i, name in enumerate(nodes, start=1)}
    links, built, heights = [], [], {}
    for order, (name, (type_, values, inputs, column, height, stage, *title)) in enumerate(nodes.items()):
        y = heights.get(column, 0)
        heights[column] = y + height + TITLE + GAP
        node = {
            "id": ids[name],
            "type": type_,
            "pos": [sum(widths.get(i, COLUMN) + GAP for i in range(column)), y],
            "size": [widths.get(column, COLUMN), height],
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "properties": {},
            "widgets_values": values,
        }
        if title:
            node["title"] = title[0]
        if stage:
            node |= {"color": STAGE_COLORS[stage]}
        if type_ != "MarkdownNote":
            describe_sockets(node, object_info[type_], {key: ids[source] for key, (source, _) in inputs.items()})
            for slot in node["inputs"]:
                if slot["name"] in inputs:
                    source, output = inputs[slot["name"]]
                    slot["link"] = len(links) + 1
                    position = node["inputs"].index(slot)
                    links.append([slot["link"], ids[source], output, ids[name], position, slot["type"]])
        built.append(node)
    for link, source, output, *_ in links:
        outputs = next(node for node in built if node["id"] == source)["outputs"]
        outputs[output]["links"] = [*(outputs[output]["links"] or []), link]
    return built, links


def describe_sockets(node, info, linked):
    """Fill in a node's sockets and its properties from the server's description."""
    pack = {"cnr_id": "hierdiff", "ver": VERSION} if node["type"].startswith("HierDiff") else {"cnr_id": "comfy-core"}
    node["properties"] = {**pack, "Node name for S&R": node["type"]}
    if node["type"] in MODELS:
        node["properties"]["models"] = MODELS[node["type"]]
    for kind in ("required", "optional"):
        for name in info["input_order"].get(kind, []):
            type_, options = (*info["input"][kind][name], {})[:2]
            widget = isinstance(type_, list) or type_ in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
            if widget and not options.get("forceInput"):
                continue
            shape = {"shape": 7} if kind == "optional" else {}
            node["inputs"].append({"name": name, "type": type_, "link": None, **shape})
    for i, type_ in enumerate(info["output"]):
        shape = {"shape": 6} if info["output_is_list"][i] else {}
        node["outputs"].append({"name": info["output_name"][i], "type": type_, "links": None, **shape})


def graph(name, nodes, object_info, widths=None, titles=()):
    """A workflow as the page saves it; `name` gives it an id of its own, `titles` its columns frames."""
    built, links = build(nodes, object_info, widths or {})
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"hierdiff/{name}")),
        "revision": 0,
        "last_node_id": len(built),
        "last_link_id": len(links),
        "nodes": built,
        "links": links,
        "groups": frames(built, titles, widths or {}) if titles else [],
        "config": {},
        "extra": {"ds": VIEW, FIT: True} if titles else {"ds": VIEW},
        "version": 0.4,
    }


def write(name, nodes, object_info, titles):
    path = WORKFLOWS / f"{name}.json"
    made = graph(name, nodes, object_info, TEMPLATE_COLUMNS, titles)
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path.relative_to(REPO_ROOT))


QUICKSTART_ABOUT = """## HierDiff quick start
Uses the small bundled model, so there is nothing to download. Press **Run**: it makes 30 emoji for 40 % of the UNet
rows of 30 separate runs.

The bundled model needs a decoder guidance of 2 to 4 and 128×128 pixels; the prior's settings are Kandinsky's own."""

KANDINSKY_ABOUT = """## HierDiff with Kandinsky 2.2
The paper's settings: 40 steps, cosine, τ = 1, a straight line, guidance 10, DDPM. Once they work, try **chord** in Ward
Linkage, and **saving** with a **calibrated** shape (Calibrate Schedule).

First download the model, in the ComfyUI folder:

hf download kandinsky-community/kandinsky-2-2-prior --local-dir models/diffusers/kandinsky-2-2-prior

hf download kandinsky-community/kandinsky-2-2-decoder --local-dir models/diffusers/kandinsky-2-2-decoder"""


def main():
    WORKFLOWS.mkdir(exist_ok=True)
    bundled = "emoji-kandinsky (bundled)"
    with ComfyServer() as server:
        info = server.object_info()
    quickstart = describe(
        bundled,
        bundled,
        EMOJI,
        4.0,
        "chord",
        [40, "saving", 0.6, 1, "calibrated", 2.0],
        3.0,
        128,
        QUICKSTART_ABOUT,
        sensitivity=bundled,
    )
    kandinsky = describe(
        "kandinsky-2-2-prior",
        "kandinsky-2-2-decoder",
        PRODUCTS,
        4.0,
        "cosine",
        [40, "tau", 1.0, 1, "linear", 2.0],
        10.0,
        512,
        KANDINSKY_ABOUT,
    )
    write("hierdiff_quickstart", quickstart, info, STAGE_TITLES)
    write("hierdiff_kandinsky22", kandinsky, info, STAGE_TITLES)
    write("hierdiff_any_model", any_model(), info, STAGE_TITLES)
    write("hierdiff_lora_set", lora_set(), info, ["Start here", "1 Draw the set", "2 Look at it", "3 Save it"])
    write("hierdiff_compare", compare(), info, ["Start here", "1 Shared", "2 Unshared", "3 Compare"])
    second = ["2 Enlarge", "3 Second pass", "Images"]
    write("hierdiff_upscale", upscale(), info, ["Start here", "1 First pass", *second])


if __name__ == "__main__":
    main()
