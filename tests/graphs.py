"""The four stages as a small graph for a server, and what comes back."""

import io

import numpy as np
from PIL import Image

BUNDLED = "emoji-kandinsky (bundled)"
PROMPTS = "{cat face|tiger face|red apple}, {noto|flat} style"


def small_graph(**changes):
    """The four stages on the bundled model, few prompts and steps; `changes` are {"node.input": value}."""
    graph = {
        "set": {"class_type": "HierDiffPromptSet", "inputs": {"text": PROMPTS}},
        "load_prior": {"class_type": "HierDiffPriorLoader", "inputs": {"model": BUNDLED, "precision": "auto"}},
        "embed": {
            "class_type": "HierDiffPriorEmbedding",
            "inputs": {
                "prior": ["load_prior", 0],
                "prompts": ["set", 0],
                "negative_prompt": "",
                "steps": 5,
                "guidance": 1.0,
                "seed": 1,
                "noise": "per prompt",
            },
        },
        "link": {"class_type": "HierDiffWardLinkage", "inputs": {"embeddings": ["embed", 0], "metric": "cosine"}},
        "plan": {
            "class_type": "HierDiffThresholdSchedule",
            "inputs": {"linkage": ["link", 0], "steps": 6, "mode": "saving", "value": 0.4, "private_steps": 1},
        },
        "load_decoder": {"class_type": "HierDiffDecoderLoader", "inputs": {"model": BUNDLED, "precision": "auto"}},
        "sample": {
            "class_type": "HierDiffBranchingSampler",
            "inputs": {
                "decoder": ["load_decoder", 0],
                "embeddings": ["embed", 0],
                "plan": ["plan", 0],
                "seed": 1,
                "guidance": 3.0,
                "scheduler": "DDPM",
                "width": 128,
                "height": 128,
                "micro_batch": 0,
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["load_decoder", 1]}},
        "sheet": {
            "class_type": "HierDiffContactSheet",
            "inputs": {"images": ["decode", 0], "prompts": ["set", 0], "columns": 0},
        },
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "test"}},
    }
    for place, value in changes.items():
        node, name = place.split(".")
        graph[node]["inputs"][name] = value
    return graph


def pictures(server, entry, node):
    """Pictures that a node put into the history, as (H, W, 3) uint8 arrays."""
    refs = entry["outputs"][node]["images"]
    return [np.asarray(Image.open(io.BytesIO(server.view(ref))).convert("RGB")) for ref in refs]


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def native_graph(**changes):
    """Prompts, plan, and the Hierarchical KSampler on Kandinsky 2.2 as MODEL."""
    graph = small_graph()
    for name in ("sample", "sheet"):
        del graph[name]
    graph["model"] = node("HierDiffKandinskyModel", decoder=["load_decoder", 0], embeddings=["embed", 0])
    graph["empty"] = node("EmptyLatentImage", width=128, height=128, batch_size=1)
    graph["sample"] = node(
        "HierDiffKSampler",
        model=["model", 0],
        positive=["model", 1],
        negative=["model", 2],
        latent_image=["empty", 0],
        plan=["plan", 0],
        seed=1,
        cfg=3.0,
        sampler_name="dpmpp_2m",
        scheduler="normal",
        denoise=1.0,
        micro_batch=0,
    )
    for place, value in changes.items():
        name, key = place.split(".")
        graph[name]["inputs"][key] = value
    return graph
