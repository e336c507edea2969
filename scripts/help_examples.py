"""The workflows of the help pages' examples: which nodes, where they stand, and which the picture shows.

A node is (type, widget values, links, stage), as in build_workflows.py; its column and its height come from `Example`.
"""

from typing import NamedTuple

from build_workflows import graph

BUNDLED = "emoji-kandinsky (bundled)"
PROMPTS = "{cat face|tiger face|red apple}, {noto|flat} style"

# The four stages on the bundled model, which wants decoder guidance 3 and 128 pixels.
STAGES = {
    "prompts": ("HierDiffPromptSet", [PROMPTS], {}, "prompts"),
    "load_prior": ("HierDiffPriorLoader", [BUNDLED, "auto"], {}, "load"),
    "embed": (
        "HierDiffPriorEmbedding",
        ["", 25, 4.0, 0, "fixed", "per prompt"],
        {"prior": ("load_prior", 0), "prompts": ("prompts", 0)},
        "prompts",
    ),
    "linkage": ("HierDiffWardLinkage", ["chord"], {"embeddings": ("embed", 0)}, "plan"),
    "schedule": (
        "HierDiffThresholdSchedule",
        [40, "saving", 0.5, 1, "linear", 2.0],
        {"linkage": ("linkage", 0)},
        "plan",
    ),
    "load_decoder": ("HierDiffDecoderLoader", [BUNDLED, "auto"], {}, "load"),
    "sampler": (
        "HierDiffBranchingSampler",
        [0, "fixed", 3.0, "DDPM", 128, 128, 0, False, "breadth first", "auto", 0, 1],
        {"decoder": ("load_decoder", 0), "embeddings": ("embed", 0), "plan": ("schedule", 0)},
        "sample",
    ),
    "decode": ("VAEDecode", [], {"samples": ("sampler", 0), "vae": ("load_decoder", 1)}, "sample"),
    "preview": ("PreviewImage", [], {"images": ("decode", 0)}, "sample"),
}


def planned_by(name, nodes=STAGES):
    """The sampler of some nodes, with the plan that another one gives."""
    kind, values, links, stage = nodes["sampler"]
    return (kind, values, {**links, "plan": (name, 0)}, stage)


TABLE = STAGES | {
    "prompts": (
        "HierDiffPromptTable",
        [
            "on\tprompt\tnegative\tseed\tpictures\tcaption\n\tcat face, noto style\t\t\t\t\n"
            "\tred apple, flat style\tgreen\t7\t\tohwx apple\n\ttiger face, noto style\t\t12\t2\t"
        ],
        {},
        "prompts",
    ),
}
SHEET = STAGES | {
    "sheet": ("HierDiffContactSheet", [0, "automatic"], {"images": ("decode", 0), "prompts": ("prompts", 0)}, "sample"),
}
SAVED = STAGES | {
    "save": (
        "HierDiffSaveSet",
        ["emoji", "png", "txt", "{index:02d} {prompt}"],
        {"prompts": ("prompts", 0), "latent": ("sampler", 0), "vae": ("load_decoder", 1)},
        "sample",
    )
}
DRAWN = STAGES | {
    "saving": (
        "HierDiffSaveAsDrawn",
        ["emoji", "png", "txt", "{index:02d} {prompt}", "{prompt}", False, 0],
        {"prompts": ("prompts", 0)},
        "sample",
    ),
    "sampler": (
        "HierDiffBranchingSampler",
        [0, "fixed", 3.0, "DDPM", 128, 128, 0, False, "depth first", "auto", 0, 1],
        {**STAGES["sampler"][2], "saving": ("saving", 0)},
        "sample",
    ),
}
GUIDED = STAGES | {
    "guidance": ("HierDiffPlanGuidance", [0.0, 0.6, 1.0, 0, 0.0], {"plan": ("schedule", 0)}, "plan"),
    "sampler": planned_by("guidance"),
}
COMPARED = STAGES | {
    "alone": ("HierDiffUnshared", [0], {"plan": ("schedule", 0)}, "sample"),
    "sampler_alone": planned_by("alone"),
    "decode_alone": ("VAEDecode", [], {"samples": ("sampler_alone", 0), "vae": ("load_decoder", 1)}, "sample"),
    "compare": ("HierDiffCompare", [], {"shared": ("decode", 0), "unshared": ("decode_alone", 0)}, "sample"),
}
PICKED = STAGES | {
    "pick": ("HierDiffPick", ["0, 2-3", 600], {"images": ("decode", 0), "prompts": ("prompts", 0)}, "sample"),
    "sheet": ("HierDiffContactSheet", [0, "off"], {"images": ("pick", 0), "prompts": ("pick", 3)}, "sample"),
}
KEPT = STAGES | {
    "trunk": ("HierDiffTrunk", ["emoji", 2, 1], {}, "sample"),
    "sampler": (
        "HierDiffBranchingSampler",
        [0, "fixed", 3.0, "DDPM", 128, 128, 0, False, "breadth first", "auto", 0, 1, True, "", 1],
        {**STAGES["sampler"][2], "trunk": ("trunk", 0)},
        "sample",
    ),
}
SHARDED = STAGES | {
    "shard": ("HierDiffPlanShard", [2, 3], {"plan": ("schedule", 0), "prompts": ("prompts", 0)}, "plan"),
    "sampler": planned_by("shard"),
    "sheet": ("HierDiffContactSheet", [0, "off"], {"images": ("decode", 0), "prompts": ("shard", 1)}, "sample"),
}
WORKING = STAGES | {
    "workers": ("HierDiffWorkers", [2, ""], {}, "sample"),
    "sampler": (
        "HierDiffBranchingSampler",
        STAGES["sampler"][1],
        {**STAGES["sampler"][2], "workers": ("workers", 0)},
        "sample",
    ),
}
VARIED = STAGES | {
    "variants": ("HierDiffVariants", ["0, 4", 2, 0.6], {"prompts": ("prompts", 0)}, "prompts"),
    "embed": (*STAGES["embed"][:2], {**STAGES["embed"][2], "prompts": ("variants", 0)}, *STAGES["embed"][3:]),
}
MEASURED = STAGES | {
    "sensitivity": ("HierDiffSensitivityLoader", [BUNDLED], {}, "load"),
    "schedule": (
        "HierDiffThresholdSchedule",
        [40, "saving", 0.6, 1, "calibrated", 2.0],
        {"linkage": ("linkage", 0), "sensitivity": ("sensitivity", 0)},
        "plan",
    ),
}
CALIBRATED_SCHEDULE = (
    "HierDiffThresholdSchedule",
    [20, "saving", 0.5, 1, "calibrated", 2.0],
    {"linkage": ("linkage", 0), "sensitivity": ("calibrate", 0)},
    "plan",
)
CALIBRATED = STAGES | {
    "calibrate": (
        "HierDiffCalibrate",
        [20, 0, 3.0, "DDPM", 4, 6, 128, 128, "sensitivity"],
        {"decoder": ("load_decoder", 0), "embeddings": ("embed", 0)},
        "plan",
    ),
    "schedule": CALIBRATED_SCHEDULE,
}

# Kandinsky 2.2 as MODEL, for ComfyUI's own samplers
CONDITIONED = {"model": ("model", 0), "positive": ("model", 1), "negative": ("model", 2)}
NATIVE = STAGES | {
    "schedule": (
        "HierDiffThresholdSchedule",
        [20, "saving", 0.5, 1, "linear", 2.0],
        {"linkage": ("linkage", 0)},
        "plan",
    ),
    "model": ("HierDiffKandinskyModel", [], {"decoder": ("load_decoder", 0), "embeddings": ("embed", 0)}, "load"),
    "empty": ("EmptyLatentImage", [128, 128, 1], {}, "load"),
    "sampler": (
        "HierDiffKSampler",
        [0, "fixed", 3.0, "euler", "normal", 1.0, 0],
        {**CONDITIONED, "latent_image": ("empty", 0), "plan": ("schedule", 0)},
        "sample",
    ),
}
PLAIN = NATIVE | {
    "empty": ("EmptyLatentImage", [128, 128, 6], {}, "load"),
    "sampler": (
        "KSampler",
        [0, "fixed", 20, 3.0, "euler", "normal", 1.0],
        {**CONDITIONED, "latent_image": ("empty", 0)},
        "sample",
    ),
}
CUSTOM = NATIVE | {
    "guider": ("HierDiffGuider", [3.0, 0], {**CONDITIONED, "plan": ("schedule", 0)}, "sample"),
    "noise": ("HierDiffSharedNoise", [0, "fixed"], {"plan": ("schedule", 0)}, "sample"),
    "which": ("KSamplerSelect", ["euler"], {}, "sample"),
    "sigmas": ("BasicScheduler", ["normal", 20, 1.0], {"model": ("model", 0)}, "sample"),
    "sampler": (
        "SamplerCustomAdvanced",
        [],
        {
            "noise": ("noise", 0),
            "guider": ("guider", 0),
            "sampler": ("which", 0),
            "sigmas": ("sigmas", 0),
            "latent_image": ("empty", 0),
        },
        "sample",
    ),
}
SHARED = NATIVE | {
    "share": ("HierDiffShareSteps", [0], {"model": ("model", 0), "plan": ("schedule", 0)}, "sample"),
    "sampler": (
        "KSampler",
        [0, "fixed", 20, 3.0, "euler", "normal", 1.0],
        {**CONDITIONED, "model": ("share", 0), "latent_image": ("empty", 0)},
        "sample",
    ),
}
CALIBRATED_MODEL = NATIVE | {
    "calibrate": (
        "HierDiffCalibrateModel",
        [20, 0, 3.0, "euler", "normal", 4, 6, "sensitivity"],
        {**CONDITIONED, "embeddings": ("embed", 0), "latent_image": ("empty", 0)},
        "plan",
    ),
    "schedule": CALIBRATED_SCHEDULE,
}
ADVISED_MODEL = NATIVE | {
    "advisor": (
        "HierDiffAdvisor",
        ["euler", "normal", 20, 3.0, 0, "no visible loss", 3.0, 4, "looks as good", "use it", "advice", False],
        {
            **CONDITIONED,
            "latent_image": ("empty", 0),
            "linkage": ("linkage", 0),
            "vae": ("load_decoder", 1),
        },
        "plan",
    ),
    "sampler": planned_by("advisor", NATIVE),
}
ADVISED = STAGES | {
    "advisor": (
        "HierDiffAdvisorKandinsky",
        ["DDPM", 20, 3.0, 128, 128, 0, "no visible loss", 3.0, 4, "looks as good", "use it", "advice"],
        {"decoder": ("load_decoder", 0), "embeddings": ("embed", 0), "linkage": ("linkage", 0)},
        "plan",
    ),
    "sampler": planned_by("advisor"),
}
LOADED = NATIVE | {
    "advice": ("HierDiffLoadAdvice", ["advice.json"], {"linkage": ("linkage", 0)}, "load"),
    "sampler": planned_by("advice", NATIVE),
}
SAVING = NATIVE | {
    "plan": (
        "HierDiffSavingPlan",
        ["euler", "normal", 20, 3.0, 1.0],
        {"model": ("model", 0), "linkage": ("linkage", 0), "latent_image": ("empty", 0)},
        "plan",
    ),
    "sampler": planned_by("plan", NATIVE),
}
CHECKPOINT = NATIVE | {
    "load": ("CheckpointLoaderSimple", ["v1-5-pruned-emaonly-fp16.safetensors"], {}, "load"),
    "embed": ("HierDiffClipEmbedding", ["auto"], {"clip": ("load", 1), "prompts": ("prompts", 0)}, "prompts"),
    "negative": ("CLIPTextEncode", ["blurry, text, watermark"], {"clip": ("load", 1)}, "prompts"),
    "linkage": ("HierDiffWardLinkage", ["chord"], {"embeddings": ("embed", 1)}, "plan"),
    "empty": ("EmptyLatentImage", [512, 512, 1], {}, "load"),
    "sampler": (
        "HierDiffKSampler",
        [0, "fixed", 7.0, "euler", "normal", 1.0, 0],
        {
            "model": ("load", 0),
            "positive": ("embed", 0),
            "negative": ("negative", 0),
            "latent_image": ("empty", 0),
            "plan": ("schedule", 0),
        },
        "sample",
    ),
    "decode": ("VAEDecode", [], {"samples": ("sampler", 0), "vae": ("load", 2)}, "sample"),
}
# The bundled scene model, which wants cfg 3 and 128 pixels, as any checkpoint is used
SCENES = {
    "load": ("HierDiffSceneLoader", ["emoji-scenes (bundled)"], {}, "load"),
    "empty": ("EmptyLatentImage", [128, 128, 4], {}, "load"),
    "positive": (
        "CLIPTextEncode",
        ["a koala to the left of a rocket, flat style, on a blue background"],
        {"clip": ("load", 1)},
        "prompts",
    ),
    "negative": ("CLIPTextEncode", [""], {"clip": ("load", 1)}, "prompts"),
    "sampler": (
        "KSampler",
        [0, "fixed", 20, 3.0, "euler", "simple", 1.0],
        {"model": ("load", 0), "positive": ("positive", 0), "negative": ("negative", 0), "latent_image": ("empty", 0)},
        "sample",
    ),
    "decode": ("VAEDecode", [], {"samples": ("sampler", 0), "vae": ("load", 2)}, "sample"),
    "preview": ("PreviewImage", [], {"images": ("decode", 0)}, "sample"),
}

WHOLE_SET = {
    "load": SCENES["load"],
    "set": (
        "HierDiffSet",
        [
            "a {koala|mushroom} to the left of a {rocket|teapot}, flat style, on a blue background",
            "",
            *[128, 128, 20, 3.0, "euler", "simple", 0, "fixed"],
            *["use what is known", 1.0, 0, 1.0],
        ],
        {"model": ("load", 0), "clip": ("load", 1), "vae": ("load", 2)},
        "sample",
    ),
    "sheet": ("HierDiffContactSheet", [2], {"images": ("set", 0), "prompts": ("set", 1)}, "sample"),
}


class Example(NamedTuple):
    """One example.

    Attributes
    ----------
    nodes : by name
    columns : from left to right, the nodes of each with their heights
    shown : names of the nodes in the picture
    widths : of columns that are not as wide as usual, by number
    until : the last node that runs; None runs all
    """

    nodes: dict
    columns: list
    shown: str
    widths: dict
    until: str | None = None

    def ids(self):
        """Ids of the nodes by name."""
        return {name: i for i, name in enumerate((name for column in self.columns for name in column), start=1)}

    def workflow(self, node, object_info):
        """The workflow as the page saves it."""
        placed = {}
        for number, column in enumerate(self.columns):
            for name, height in column.items():
                *what, stage = self.nodes[name]
                placed[name] = (*what, number, height, stage)
        return graph(f"example/{node}", placed, object_info, self.widths)


# What stands left of the picture, and right of it: every example is a whole workflow.
BEGIN = {"prompts": 350, "load_prior": 82}
TREE = {"embed": 290, "linkage": 380}
FROM_DECODER = {"load_decoder": 102, **TREE}
LATENTS = {"load_decoder": 102, "sampler": 768}
PICTURES = {"decode": 46, "preview": 258}


def compared(shown, width, height):
    """Shared and unshared side by side; width and height of Compare."""
    columns = [
        BEGIN,
        {**TREE, "load_decoder": 102},
        {"schedule": 570, "alone": 150},
        {"sampler": 768},
        {"sampler_alone": 768},
        {"decode": 46, "decode_alone": 46, "compare": height},
    ]
    return Example(COMPARED, columns, shown, {2: 440, 3: 440, 4: 440, 5: width})


EXAMPLES = {
    "HierDiffPromptSet": Example(
        STAGES,
        [{"prompts": 350, "load_prior": 82}, {"embed": 350}, {"linkage": 380}, {"schedule": 570}, LATENTS, PICTURES],
        "prompts embed",
        {0: 380, 1: 390},
    ),
    "HierDiffPromptTable": Example(
        TABLE,
        [{"prompts": 460, "load_prior": 82}, {"embed": 350}, {"linkage": 380}, {"schedule": 590}, LATENTS, PICTURES],
        "prompts embed",
        {0: 620, 1: 390},
    ),
    "HierDiffVariants": Example(
        VARIED,
        [
            {"prompts": 350, "load_prior": 82},
            {"variants": 430},
            {"embed": 350},
            {"linkage": 380},
            {"schedule": 570},
            LATENTS,
            PICTURES,
        ],
        "prompts variants embed",
        {0: 380, 1: 390, 2: 390},
    ),
    "HierDiffPriorLoader": Example(
        STAGES,
        [{"load_prior": 82, "prompts": 350}, {"embed": 440}, {"linkage": 380}, {"schedule": 570}, LATENTS, PICTURES],
        "load_prior prompts embed",
        {0: 360, 1: 400},
    ),
    "HierDiffPriorEmbedding": Example(
        STAGES,
        [{"load_prior": 82, "prompts": 350}, {"embed": 440}, {"linkage": 440}, {"schedule": 570}, LATENTS, PICTURES],
        "load_prior prompts embed linkage",
        {0: 340, 1: 390, 2: 420},
    ),
    "HierDiffWardLinkage": Example(
        STAGES,
        [BEGIN, {"embed": 400}, {"linkage": 400}, {"schedule": 570}, LATENTS, PICTURES],
        "embed linkage",
        {1: 390, 2: 560},
    ),
    "HierDiffThresholdSchedule": Example(
        STAGES,
        [BEGIN, {"embed": 290}, {"linkage": 440}, {"schedule": 558}, LATENTS, PICTURES],
        "linkage schedule",
        {2: 420, 3: 520},
    ),
    "HierDiffPlanGuidance": Example(
        GUIDED,
        [BEGIN, {"embed": 290}, {"linkage": 440}, {"schedule": 620, "guidance": 260}, LATENTS, PICTURES],
        "schedule guidance",
        {3: 460},
    ),
    "HierDiffBranchingSampler": Example(
        STAGES,
        [BEGIN, TREE, {"load_decoder": 102, "schedule": 590}, {"sampler": 868}, PICTURES],
        "load_decoder schedule sampler",
        {2: 400, 3: 560},
    ),
    "HierDiffUnshared": compared("schedule alone sampler_alone", 400, 420),
    "HierDiffCompare": compared("sampler_alone decode decode_alone compare", 440, 520),
    "HierDiffTrunk": Example(
        KEPT,
        [BEGIN, TREE, {"load_decoder": 102, "schedule": 530, "trunk": 170}, {"sampler": 880}, PICTURES],
        "trunk sampler decode preview",
        {2: 360, 3: 420},
    ),
    "HierDiffPlanShard": Example(
        SHARDED,
        [
            BEGIN,
            TREE,
            {"load_decoder": 102, "schedule": 530, "shard": 460},
            {"sampler": 808},
            {"decode": 46, "sheet": 594},
        ],
        "schedule shard sampler",
        {2: 400, 3: 420, 4: 400},
    ),
    "HierDiffWorkers": Example(
        WORKING,
        [BEGIN, TREE, {"load_decoder": 102, "schedule": 530, "workers": 150}, {"sampler": 808}, PICTURES],
        "workers sampler decode preview",
        {2: 360, 3: 420},
    ),
    "HierDiffPick": Example(
        PICKED,
        [
            BEGIN,
            TREE,
            {"load_decoder": 102, "schedule": 530},
            {"sampler": 808},
            {"decode": 46, "pick": 560},
            {"sheet": 594},
        ],
        "decode pick sheet",
        {2: 360, 3: 420, 4: 420, 5: 400},
    ),
    "HierDiffDecoderLoader": Example(
        STAGES,
        [BEGIN, TREE, {"load_decoder": 102, "schedule": 530}, {"sampler": 808}, PICTURES],
        "load_decoder schedule sampler decode preview",
        {2: 360, 3: 420},
    ),
    "HierDiffContactSheet": Example(
        SHEET,
        [BEGIN, TREE, {"schedule": 570}, {"load_decoder": 102}, {"sampler": 768}, {"decode": 46, "sheet": 594}],
        "sampler decode sheet",
        {4: 420, 5: 480},
    ),
    "HierDiffSaveSet": Example(
        SAVED,
        [BEGIN, TREE, {"schedule": 570}, {"load_decoder": 102, "sampler": 690}, {"save": 668}],
        "load_decoder sampler save",
        {3: 400, 4: 480},
    ),
    "HierDiffSaveAsDrawn": Example(
        DRAWN,
        [BEGIN, TREE, {"schedule": 570}, {"load_decoder": 102, "saving": 260}, LATENTS, PICTURES],
        "load_decoder saving sampler decode preview",
        {3: 400, 4: 480},
    ),
    "HierDiffSensitivityLoader": Example(
        MEASURED,
        [BEGIN, {"embed": 290}, {"linkage": 380}, {"sensitivity": 500}, {"schedule": 622}, LATENTS, PICTURES],
        "sensitivity schedule",
        {3: 460, 4: 500},
    ),
    "HierDiffCalibrate": Example(
        CALIBRATED,
        [
            BEGIN,
            {"load_decoder": 102, "embed": 380},
            {"calibrate": 654, "linkage": 380},
            {"schedule": 622},
            {"sampler": 768},
            PICTURES,
        ],
        "load_decoder embed calibrate schedule",
        {1: 390, 2: 440, 3: 440},
    ),
    "HierDiffCalibrateModel": Example(
        CALIBRATED_MODEL,
        [
            BEGIN,
            {"load_decoder": 102, "embed": 290},
            {"model": 155, "empty": 106},
            {"calibrate": 676, "linkage": 380},
            {"schedule": 622},
            {"sampler": 600},
            PICTURES,
        ],
        "model empty calibrate schedule",
        {2: 390, 3: 440, 4: 440},
    ),
    "HierDiffAdvisor": Example(
        ADVISED_MODEL,
        [
            BEGIN,
            FROM_DECODER,
            {"model": 155, "empty": 106},
            {"advisor": 810},
            {"sampler": 780},
            PICTURES,
        ],
        "model empty advisor sampler",
        {2: 390, 3: 560, 4: 440},
    ),
    "HierDiffAdvisorKandinsky": Example(
        ADVISED,
        [BEGIN, TREE, {"load_decoder": 102}, {"advisor": 780}, {"sampler": 868}, PICTURES],
        "load_decoder advisor sampler",
        {2: 360, 3: 560, 4: 440},
    ),
    "HierDiffLoadAdvice": Example(
        LOADED,
        [
            BEGIN,
            {"load_decoder": 102, "embed": 290},
            {"linkage": 100, "model": 155, "empty": 106},
            {"advice": 120},
            {"sampler": 600},
            PICTURES,
        ],
        "linkage advice sampler",
        {2: 300, 3: 320, 4: 440},
        until="linkage",  # there is no advice before somebody has measured some
    ),
    "HierDiffSavingPlan": Example(
        SAVING,
        [
            BEGIN,
            {"load_decoder": 102, "embed": 290},
            {"linkage": 380, "model": 155, "empty": 106},
            {"plan": 420},
            {"sampler": 780},
            PICTURES,
        ],
        "linkage model empty plan sampler",
        {2: 390, 3: 400, 4: 560},
    ),
    "HierDiffSet": Example(
        WHOLE_SET,
        [{"load": 102}, {"set": 940}, {"sheet": 520}],
        "load set sheet",
        {0: 340, 1: 480, 2: 440},
    ),
    "HierDiffKandinskyModel": Example(
        PLAIN,
        [BEGIN, {"load_decoder": 102, "embed": 290}, {"model": 155, "empty": 106}, {"sampler": 262}, PICTURES],
        "model empty sampler decode preview",
        {2: 390},
    ),
    "HierDiffKSampler": Example(
        NATIVE,
        [BEGIN, FROM_DECODER, {"model": 155, "empty": 106, "schedule": 530}, {"sampler": 780}, PICTURES],
        "model empty schedule sampler",
        {2: 390, 3: 560},
    ),
    "HierDiffShareSteps": Example(
        SHARED,
        [
            BEGIN,
            FROM_DECODER,
            {"model": 155, "schedule": 570},
            {"share": 186, "empty": 106},
            {"sampler": 640},
            PICTURES,
        ],
        "share empty sampler decode preview",
        {3: 300, 4: 440},
    ),
    "HierDiffGuider": Example(
        CUSTOM,
        [
            BEGIN,
            FROM_DECODER,
            {"model": 155, "schedule": 570},
            {"guider": 210, "noise": 110, "which": 60, "sigmas": 110, "empty": 110},
            {"sampler": 440, **PICTURES},
        ],
        "guider noise which sigmas empty sampler decode preview",
        {3: 300, 4: 520},
    ),
    "HierDiffSharedNoise": Example(
        CUSTOM,
        [
            BEGIN,
            FROM_DECODER,
            {"model": 155, "schedule": 570},
            {"empty": 106, "which": 58, "sigmas": 106},
            {"noise": 110, "guider": 210},
            {"sampler": 400},
            PICTURES,
        ],
        "noise guider sampler decode preview",
        {4: 300, 5: 440},
    ),
    "HierDiffClipEmbedding": Example(
        CHECKPOINT,
        [
            {"load": 100, "prompts": 350},
            {"embed": 180, "negative": 120, "empty": 106},
            {"linkage": 90, "schedule": 460},
            {"sampler": 560},
            PICTURES,
        ],
        "load prompts embed negative empty linkage schedule sampler",
        {0: 340, 1: 330, 2: 300, 3: 360},
        until="embed",  # its numbers are those of SD 1.5's shapes; what follows depends on the weights
    ),
    "HierDiffSceneLoader": Example(
        SCENES,
        [
            {"load": 102, "empty": 106},
            {"positive": 120, "negative": 120},
            {"sampler": 262},
            PICTURES,
        ],
        "load empty positive negative sampler decode preview",
        {0: 360},
    ),
}
