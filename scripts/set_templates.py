"""The templates that are built around HierDiff Set, as nodes for build_workflows.py."""

LORA_ABOUT = """## A training set for a LoRA
Press **Run**: twelve images of one subject, each with its prompt as a caption, in a folder of ComfyUI's output folder.

For your own model choose its checkpoint in **Load Scene Model**, and set its size, cfg and steps in **HierDiff Set**
(SD 1.5: 512×512, cfg 7, 30). LoRAs go between the two. **saving** says how much compute to save; right-click the node
and choose **Unpack into nodes** to see what it does."""
SUBJECT = """# one subject in many pictures (one prompt per line; {a|b} gives all combinations)
a koala to the {left|right} of a {rocket|teapot|mushroom}, {flat|noto} style, on a blue background"""

COMPARE_ABOUT = """## Shared and unshared, side by side
Press **Run**: the same prompts are drawn twice with the same seed, once with shared steps and once without.

Move **saving** in the left HierDiff Set: 1 is safe, 2 balanced, 3 a draft. Before anything was measured for your model
all three share the first steps alone: set **measure** to *measure first*, once. That takes as long as about a hundred
images; the cost is shown first."""

UPSCALE_ABOUT = """## Two passes
Press **Run**: the first pass draws the set small, the second one draws each image again at one and a half times the
size. Steps are shared in the first pass, where the images are laid out. In the second each prompt begins with an image
of its own, so nothing is shared.

**denoise** of the second pass: less keeps more of the first."""

LOADER = ("HierDiffSceneLoader", ["emoji-scenes (bundled)"], {}, 0, 110, "load")
LOADED = {"model": ("load", 0), "clip": ("load", 1), "vae": ("load", 2)}


def one_set(text, saving, column, height, **links):
    """A HierDiff Set on the bundled scene model, which wants 128×128 pixels at cfg 3."""
    values = [text, "", 128, 128, 20, 3.0, "euler", "simple", 0, "fixed", "use what is known", 0, saving]
    return ("HierDiffSet", values, {**LOADED, **links}, column, height, "sample")


def lora_set():
    """A set of one subject, saved with captions."""
    made = {"images": ("set", 0), "prompts": ("set", 1)}
    name = "{index:02d}_{prompt}"
    return {
        "about": ("MarkdownNote", [LORA_ABOUT], {}, 0, 330, None),
        "load": LOADER,
        "set": one_set(SUBJECT, 1.0, 1, 800),
        "save": ("HierDiffSaveSet", ["HierDiff LoRA set", "png", "txt", name], made, 2, 330, "sample"),
        "sheet": ("HierDiffContactSheet", [0], made, 2, 390, "sample"),
    }


def compare():
    """The same set with and without shared steps."""
    few = SUBJECT.replace("{flat|noto}", "noto")
    return {
        "about": ("MarkdownNote", [COMPARE_ABOUT], {}, 0, 290, None),
        "load": LOADER,
        "prompts": ("HierDiffPromptSet", [few], {}, 0, 380, "prompts"),
        "set": one_set("", 1.0, 1, 800, prompts=("prompts", 0)),
        "unshared": one_set("", 0.0, 2, 800, prompts=("prompts", 0)),
        "sheet": (
            "HierDiffContactSheet",
            [3],
            {"images": ("set", 0), "prompts": ("set", 1)},
            3,
            360,
            "sample",
            "Shared",
        ),
        "unshared_sheet": (
            "HierDiffContactSheet",
            [3],
            {"images": ("unshared", 0), "prompts": ("unshared", 1)},
            3,
            360,
            "sample",
            "Unshared",
        ),
    }


def upscale():
    """A small set with shared steps, and each of its images again at a larger size."""
    model, clip, vae = LOADED["model"], LOADED["clip"], LOADED["vae"]
    second = {
        "model": model,
        "positive": ("embed", 0),
        "negative": ("negative", 0),
        "latent_image": ("encode", 0),
        "plan": ("set", 2),
    }
    return {
        "about": ("MarkdownNote", [UPSCALE_ABOUT], {}, 0, 300, None),
        "load": LOADER,
        "set": one_set(SUBJECT.replace("{flat|noto}", "noto"), 1.0, 1, 800),
        "larger": ("ImageScaleBy", ["lanczos", 1.5], {"image": ("set", 0)}, 2, 90, "sample"),
        "encode": ("VAEEncode", [], {"pixels": ("larger", 0), "vae": vae}, 2, 60, "sample"),
        "embed": ("HierDiffClipEmbedding", ["auto"], {"clip": clip, "prompts": ("set", 1)}, 2, 240, "prompts"),
        "negative": ("CLIPTextEncode", [""], {"clip": clip}, 2, 120, "prompts"),
        "sampler": (
            "HierDiffKSampler",
            [0, "fixed", 3.0, "euler", "simple", 0.4, 0],
            second,
            3,
            800,
            "sample",
        ),
        "decode": ("VAEDecode", [], {"samples": ("sampler", 0), "vae": vae}, 4, 60, "sample"),
        "sheet": ("HierDiffContactSheet", [0], {"images": ("decode", 0), "prompts": ("set", 1)}, 4, 330, "sample"),
        "save": ("SaveImage", ["HierDiff/large"], {"images": ("decode", 0)}, 4, 250, "sample"),
    }
