"""What Pays Here? and Load Advice in a real server, on the bundled model."""

import asyncio

import pytest
from comfyui_host import PromptFailed
from graphs import FULL_SIZE, changed, messages_of, native_graph, node, pictures, said, small_graph

pytestmark = pytest.mark.host
ASKED = {"goal": "no visible loss", "value": 20.0, "samples": 3, "measure": "looks the same"}


def advised_graph(**changes):
    """The Hierarchical KSampler with the plan of What Pays Here?, on Kandinsky 2.2 as MODEL."""
    graph = native_graph()
    shared = ("model", "positive", "negative", "latent_image", "seed", "cfg", "scheduler")
    sampler = {key: graph["sample"]["inputs"][key] for key in shared}
    settings = {"linkage": ["link", 0], "sampler_name": "euler", "steps": 4, "vae": ["load_decoder", 1], **ASKED}
    graph["advise"] = node("HierDiffAdvisor", **sampler, **settings, name="native")
    graph["sample"]["inputs"] |= {"plan": ["advise", 0], "sampler_name": "euler"}
    del graph["plan"]
    return changed(graph, changes)


def advised_kandinsky_graph(**changes):
    graph = small_graph(**FULL_SIZE)
    del graph["plan"]
    settings = {"scheduler": "DDPM", "steps": 4, "guidance": 3.0, "width": 128, "height": 128, "seed": 1}
    links = {"decoder": ["load_decoder", 0], "embeddings": ["embed", 0], "linkage": ["link", 0]}
    graph["advise"] = node("HierDiffAdvisorKandinsky", **links, **settings, **ASKED, name="decoder")
    graph["sample"]["inputs"]["plan"] = ["advise", 0]
    return changed(graph, changes)


def text(entry, name):
    return entry["outputs"][name]["text"][0]


def files(server, folder="hierdiff_advice"):
    return sorted(path.name for path in (server.base_dir / "output" / folder).glob("*"))


@pytest.fixture(scope="module")
def measured(comfyui):
    """Events and history of a measurement of a MODEL, and the name of its file."""
    events, _ = asyncio.run(messages_of(comfyui, advised_graph()))
    assert events[-1]["type"] == "execution_success"
    (name,) = [name for name in files(comfyui) if name.startswith("native_")]
    return events, comfyui.wait(events[-1]["data"]["prompt_id"]), name


def test_cost_comes_first_then_progress_then_what_pays(comfyui, measured):
    events, entry, name = measured
    shown = said(events, "advise")
    assert shown[0].startswith("measuring takes at most ")
    assert any(words.startswith("drawing: full sampling … 0 of at most ") for words in shown)
    assert shown[-1] == text(entry, "advise")
    assert f"saved as {name}; press R to see it in Load Advice" in shown[-1]
    bars = [e["data"] for e in events if e["type"] == "progress" and e["data"]["node"] == "advise"]
    assert {"value", "max"} <= bars[0].keys()
    (plot,) = pictures(comfyui, entry, "advise")
    assert plot.std() > 5


def test_sampler_and_tree_say_what_was_measured(measured):
    events, entry, _ = measured
    (begin,) = [e["data"] for e in events if e["type"] == "hierdiff.tree" and e["data"]["kind"] == "begin"]
    verdict = begin["measured"]["verdict"]
    assert verdict in ("none", "slight", "visible")
    words = {"none": "no visible loss", "slight": "slight loss", "visible": "visible loss"}[verdict]
    assert f"measured on this model: {words} (looks the same)" in text(entry, "sample")


def test_loaded_advice_plans_other_prompts_and_holds_for_its_sampler_alone(comfyui, measured):
    *_, name = measured
    assert name in comfyui.object_info()["HierDiffLoadAdvice"]["input"]["required"]["advice"][1]["options"]
    graph = advised_graph(**{"set.text": "dog face, noto style\nred apple, noto style\nbus, flat style"})
    graph["advise"] = node("HierDiffLoadAdvice", advice=name, linkage=["link", 0])
    entry = comfyui.run(graph)
    assert "measured on this model: " in text(entry, "sample")
    entry = comfyui.run(changed(graph, {"sample.sampler_name": "heun"}))
    assert "but with sampler euler, not heun: run What Pays Here?" in text(entry, "sample")
    entry = comfyui.run(changed(graph, {"sample.sampler_name": "euler", "sample.cfg": 5.0}))
    assert "but with cfg 3, not 5: run What Pays Here?" in text(entry, "sample")


def test_kandinsky_is_cancelled_goes_on_and_is_drawn_as_advised(comfyui):
    def third(event):
        own = event["type"] == "hierdiff.result" and event["data"]["node"] == "advise"
        return own and "drawing: " in event["data"]["text"] and "… 0 of" not in event["data"]["text"]

    events, _ = asyncio.run(messages_of(comfyui, advised_kandinsky_graph(), third))
    assert events[-1]["type"] == "execution_interrupted"
    assert not any(name.startswith("decoder_") for name in files(comfyui))
    kept = files(comfyui, "hierdiff_trials")
    assert kept
    entry = comfyui.run(advised_kandinsky_graph())
    assert files(comfyui, "hierdiff_trials") == kept
    assert "measured on this model: " in text(entry, "sample")
    again = comfyui.run(advised_kandinsky_graph(**{"advise.seed": 2}))
    assert "from decoder_" in text(again, "advise")
    assert "nothing was drawn" in text(again, "advise")
    other = comfyui.run(advised_kandinsky_graph(**{"advise.seed": 2, "sample.guidance_end": 0.5}))
    assert "but with the plan's guidance, not the sampler's own interval" in text(other, "sample")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set.text": "cat face"}, "there is one prompt: nothing can be shared"),
        ({"set.text": "cat face\ncat face"}, "all 2 prompts are equal"),
        ({"advise.width": 100}, "width must be a multiple of 64 pixels; got 100"),
        ({"advise.name": "a/b"}, "name must be a plain file name"),
    ],
)
def test_bad_input_is_refused_with_the_fix(comfyui, changes, message):
    with pytest.raises(PromptFailed, match=message) as failure:
        comfyui.run(advised_kandinsky_graph(**changes))
    assert failure.value.node_id == "advise"
