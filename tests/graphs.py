"""The four stages as a small graph for a server, and what comes back."""

import asyncio
import io
import json

import aiohttp
import numpy as np
from PIL import Image

BUNDLED = "emoji-kandinsky (bundled)"
FULL_SIZE = {"sample.width": 128, "sample.height": 128}  # what the model is for, in pixels
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
                "guidance": 4.0,
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
                "width": 64,  # half of what the model is for: a fourth of the time
                "height": 64,
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
    return changed(graph, changes)


def changed(graph, changes):
    """A graph with other inputs, {"node.input": value}."""
    for place, value in changes.items():
        name, key = place.split(".")
        graph[name]["inputs"][key] = value
    return graph


def pictures(server, entry, node):
    """Pictures that a node put into the history, as (H, W, 3) uint8 arrays."""
    refs = entry["outputs"][node]["images"]
    return [np.asarray(Image.open(io.BytesIO(server.view(ref))).convert("RGB")) for ref in refs]


async def messages_of(server, graph, stop_when=None):
    """JSON messages and binary events (type, data) that the browser would receive while a graph runs."""
    events, binary = [], []
    url = f"ws://127.0.0.1:{server.port}/ws?clientId=test"
    async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
        prompt_id = await asyncio.to_thread(server.queue, graph, "test")
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                binary.append((int.from_bytes(message.data[:4], "big"), message.data[4:]))
                continue
            event = json.loads(message.data)
            events.append(event)
            if stop_when and stop_when(event):
                await asyncio.to_thread(server.interrupt)
                stop_when = None
            ended = event["type"] in ("execution_success", "execution_error", "execution_interrupted")
            if ended and event["data"].get("prompt_id") == prompt_id:
                return events, binary


def said(events, name):
    """Texts that a node showed while a graph ran and when it was done, of the messages of `messages_of`."""
    return [e["data"]["text"] for e in events if e["type"] == "hierdiff.result" and e["data"]["node"] == name]


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
    return changed(graph, changes)


def custom_sampling(name, latent):
    """SamplerCustomAdvanced as node `name`, with what the Hierarchical KSampler of `native_graph` does by itself."""
    return {
        "one": node("HierDiffSharedNoise", noise_seed=1, plan=["plan", 0]),
        "which": node("KSamplerSelect", sampler_name="dpmpp_2m"),
        "sigmas": node("BasicScheduler", model=["model", 0], scheduler="normal", steps=6, denoise=1.0),
        name: node(
            "SamplerCustomAdvanced",
            noise=["one", 0],
            guider=["guider", 0],
            sampler=["which", 0],
            sigmas=["sigmas", 0],
            latent_image=latent,
        ),
    }


def guider_graph(**changes):
    """`native_graph` with SamplerCustomAdvanced and the Hierarchical Guider in place of the KSampler."""
    graph = native_graph()
    settings = graph.pop("sample")["inputs"]
    keys = ("model", "positive", "negative", "cfg", "plan", "micro_batch")
    graph["guider"] = node("HierDiffGuider", **{key: settings[key] for key in keys})
    return changed(graph | custom_sampling("sample", latent=["empty", 0]), changes)


def share_steps_graph(**changes):
    """`native_graph` with Share Steps and ComfyUI's KSampler in place of the Hierarchical KSampler."""
    graph = native_graph()
    settings = graph["sample"]["inputs"]
    graph["share"] = node("HierDiffShareSteps", **{key: settings.pop(key) for key in ("model", "plan", "micro_batch")})
    graph["sample"] = node("KSampler", **settings, model=["share", 0], steps=6)
    return changed(graph, changes)


def calibration_graph(**changes):
    """Calibrate Schedule on the bundled model, with few prompts and steps."""
    graph = {
        name: item for name, item in small_graph().items() if name in ("set", "load_prior", "embed", "load_decoder")
    }
    graph["calibrate"] = node(
        "HierDiffCalibrate",
        decoder=["load_decoder", 0],
        embeddings=["embed", 0],
        steps=6,
        seed=1,
        guidance=3.0,
        scheduler="DDPM",
        samples=3,
        resolution=3,
        width=128,
        height=128,
        name="small",
    )
    return changed(graph, changes)


def native_calibration_graph(**changes):
    """Calibrate Schedule for MODEL on Kandinsky 2.2 as MODEL, as few prompts and steps."""
    graph = native_graph()
    for name in ("sample", "decode", "save", "link", "plan"):
        del graph[name]
    graph["calibrate"] = node(
        "HierDiffCalibrateModel",
        model=["model", 0],
        positive=["model", 1],
        negative=["model", 2],
        embeddings=["embed", 0],
        latent_image=["empty", 0],
        steps=6,
        seed=1,
        cfg=3.0,
        sampler_name="euler",
        scheduler="normal",
        samples=3,
        resolution=3,
        name="small native",
    )
    return changed(graph, changes)
