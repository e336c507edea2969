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
Press **Run**: the first pass draws the set small, the second one draws each image again, one and a half times as large.
Steps are shared in the first pass, where the images are laid out. In the second each prompt begins with an image of its
own: **saving** is 0 there.

**denoise** of the second pass: less keeps more of the first."""

LOADER = ("HierDiffSceneLoader", ["emoji-scenes (bundled)"], {}, 0, 110, "load")
LOADED = {"model": ("load", 0), "clip": ("load", 1), "vae": ("load", 2)}


def one_set(text, saving, column, height, denoise=1.0, title="HierDiff Set", **links):
    """A HierDiff Set on the bundled scene model, which wants 128×128 pixels at cfg 3."""
    sampling = [128, 128, 20, 3.0, "euler", "simple", 0, "fixed"]
    values = [text, "", *sampling, "use what is known", denoise, 0, saving]
    return ("HierDiffSet", values, {**LOADED, **links}, column, height, "sample", title)


def lora_set():
    """A set of one subject, saved with captions."""
    made = {"images": ("set", 0), "prompts": ("set", 1)}
    name = "{index:02d}_{prompt}"
    return {
        "about": ("MarkdownNote", [LORA_ABOUT], {}, 0, 320, None, "About"),
        "load": LOADER,
        "set": one_set(SUBJECT, 1.0, 1, 810),
        "sheet": ("HierDiffContactSheet", [0, "automatic"], made, 2, 520, "sample"),
        "save": ("HierDiffSaveSet", ["HierDiff LoRA set", "png", "txt", name], made, 3, 620, "sample"),
    }


def compare():
    """The same set with and without shared steps."""
    few = SUBJECT.replace("{flat|noto}", "noto")
    return {
        "about": ("MarkdownNote", [COMPARE_ABOUT], {}, 0, 290, None, "About"),
        "load": LOADER,
        "prompts": ("HierDiffPromptSet", [few], {}, 0, 250, "prompts"),
        "set": one_set("", 1.0, 1, 810, prompts=("prompts", 0)),
        "unshared": one_set("", 0.0, 2, 810, title="HierDiff Set, unshared", prompts=("prompts", 0)),
        "sheet": (
            "HierDiffContactSheet",
            [3],
            {"images": ("set", 0), "prompts": ("set", 1)},
            3,
            365,
            "sample",
            "Shared",
        ),
        "unshared_sheet": (
            "HierDiffContactSheet",
            [3],
            {"images": ("unshared", 0), "prompts": ("unshared", 1)},
            3,
            365,
            "sample",
            "Unshared",
        ),
    }


def upscale():
    """A small set with shared steps, and each of its images again at a larger size."""
    larger = {"prompts": ("set", 1), "latent_image": ("encode", 0)}
    made = {"images": ("second", 0), "prompts": ("second", 1)}
    return {
        "about": ("MarkdownNote", [UPSCALE_ABOUT], {}, 0, 320, None, "About"),
        "load": LOADER,
        "set": one_set(SUBJECT.replace("{flat|noto}", "noto"), 1.0, 1, 810),
        "larger": ("ImageScaleBy", ["lanczos", 1.5], {"image": ("set", 0)}, 2, 90, "sample"),
        "encode": ("VAEEncode", [], {"pixels": ("larger", 0), "vae": LOADED["vae"]}, 2, 60, "sample"),
        "second": one_set("", 0.0, 3, 810, denoise=0.4, title="HierDiff Set, second pass", **larger),
        "sheet": ("HierDiffContactSheet", [3], made, 4, 350, "sample"),
        "save": ("SaveImage", ["HierDiff/large"], {"images": ("second", 0)}, 4, 380, "sample"),
    }
