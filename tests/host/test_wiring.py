"""Links from nodes of other packs into our choices and numbers, as the host's own sampler takes them."""

import pytest
from comfyui_host import ComfyServer, HttpFailed, PromptFailed
from graphs import node
from other_pack import write_pack

pytestmark = pytest.mark.host

# Everything but what is tried is missing: a link that is refused is told in the same breath.
LINKED = "Return type mismatch between linked nodes"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wiring")
    write_pack(folder)
    with ComfyServer(base_dir=folder) as running:
        yield running


def refused_links(server, node_id, name, source, value="euler"):
    """Details of the link from another pack's node that the host refuses, for a node without its other inputs."""
    graph = {
        "other": node(source, value=value, number=0),
        "ours": node(node_id, **{name: ["other", 0]}),
        "show": node("PreviewAny", source=["ours", 0]),
    }
    with pytest.raises(HttpFailed) as failure:
        server.queue(graph)
    errors = failure.value.body["node_errors"]["ours"]["errors"]
    assert errors  # the other inputs
    return [error["details"] for error in errors if error["message"] == LINKED]


COMBOS = [
    ("HierDiffKSampler", "sampler_name", "OtherSamplers"),
    ("HierDiffKSampler", "sampler_name", "OtherSomeSamplers"),
    ("HierDiffKSampler", "sampler_name", "OtherNoList"),
    ("HierDiffKSampler", "sampler_name", "OtherCombo"),
    ("HierDiffKSampler", "sampler_name", "OtherAny"),
    ("HierDiffKSampler", "sampler_name", "OtherStar"),
    ("HierDiffKSampler", "scheduler", "OtherSchedulers"),
    ("HierDiffCalibrateModel", "sampler_name", "OtherSamplers"),
    ("HierDiffCalibrateModel", "scheduler", "OtherSchedulers"),
    ("HierDiffWardLinkage", "metric", "OtherMetrics"),
    ("HierDiffKSampler", "seed", "OtherInt"),
    ("HierDiffKSampler", "seed", "OtherAny"),
    ("HierDiffKSampler", "cfg", "OtherFloat"),
    ("HierDiffPriorEmbedding", "negative_prompt", "OtherString"),
]


@pytest.mark.parametrize(("node_id", "name", "source"), COMBOS)
def test_outputs_of_other_packs_can_be_wired_to_our_choices(server, node_id, name, source):
    assert refused_links(server, node_id, name, source) == []


@pytest.mark.parametrize(
    ("node_id", "name", "source"),
    [
        ("HierDiffKSampler", "sampler_name", "OtherCheckpoints"),
        ("HierDiffKSampler", "sampler_name", "OtherMetrics"),
        ("HierDiffKSampler", "sampler_name", "OtherString"),
        ("HierDiffKSampler", "seed", "OtherFloat"),
        ("HierDiffKSampler", "seed", "OtherSamplers"),
        ("HierDiffKSampler", "plan", "OtherSamplers"),
    ],
)
def test_what_does_not_belong_together_is_refused_when_queued(server, node_id, name, source):
    (refused,) = refused_links(server, node_id, name, source)
    assert refused.startswith(f"{name}, received_type(")


def linkage_graph(source, value):
    """Ward Linkage of the bundled prior's embeddings, with a metric that comes through a link."""
    return {
        "set": node("HierDiffPromptSet", text="{a|b|c} cat"),
        "prior": node("HierDiffPriorLoader", model="emoji-kandinsky (bundled)", precision="auto"),
        "embed": node(
            "HierDiffPriorEmbedding",
            **{"prior": ["prior", 0], "prompts": ["set", 0], "negative_prompt": "", "steps": 2, "guidance": 1.0},
            **{"seed": 1, "noise": "per prompt"},
        ),
        "other": node(source, value=value, number=0),
        "link": node("HierDiffWardLinkage", embeddings=["embed", 0], metric=["other", 0]),
        "show": node("PreviewAny", source=["link", 0]),
    }


def test_the_value_of_a_link_is_checked_as_ever(server):
    assert "show" in server.run(linkage_graph("OtherMetrics", "cosine"))["outputs"]
    with pytest.raises(PromptFailed, match=r"metric must be one of .*got 'a metric of another pack'"):
        server.run(linkage_graph("OtherMetrics", "a metric of another pack"))


def test_the_page_gets_the_same_choices_as_ever(server):
    info = server.object_info()
    ours, theirs = (info[name]["input"]["required"] for name in ("HierDiffKSampler", "KSampler"))
    for name in ("sampler_name", "scheduler"):
        kind, options = ours[name]
        assert kind == "COMBO"
        assert options["options"] == theirs[name][0]
