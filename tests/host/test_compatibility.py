"""What users combine with Share Steps works as it would without, or is refused by name: the table of the docs.

Everything runs in this process, on tiny models with random weights. Two things decide: without sharing each prompt gets
what the host gives it alone; and prompts that are equal in pairs, and all equal in the first steps, are shared without
loss.
"""

import importlib
import os
import re

import pytest
import torch
from compat_host import PATCHES
from compat_inputs import CONDITIONING, GUIDERS, LATENTS, SAMPLERS
from compat_packs import FOREIGN
from compat_runs import Kit, changes, outcomes

pytestmark = pytest.mark.host

SECTIONS = {
    "Nodes that change a MODEL": PATCHES,
    "Guiders and sampler nodes": GUIDERS,
    "Samplers": SAMPLERS,
    "Conditioning": CONDITIONING,
    "Latents and masks": LATENTS,
    "What nodes of other packs do": FOREIGN,
}
FEATURES = [feature for features in SECTIONS.values() for feature in features]
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->"
BY_ROW = [*CONDITIONING, *LATENTS, *FOREIGN]  # may take what is a row's by its number in a call
DOCUMENTED_ON = "0.3.75"  # newer versions have more nodes, and other messages
LONGEST = 160  # of a message in the table

# Nodes that take and give a MODEL, a GUIDER or a SAMPLER, and are not run here.
ELSEWHERE = {
    "DiffControlNetLoader": "loads a file",
    "SamplerDPMAdaptative": "refused, see the table of samplers",
    "SamplerSASolver": "see sa_solver in the table of samplers",
    "KSamplerSelect": "the table of samplers",
    "ModelSamplingStableCascade": "as the other ModelSampling nodes; too slow on a CPU",
    "LoraLoader": "loads a file; what it does to a MODEL is in the table",
    "LoraLoaderModelOnly": "loads a file; what it does to a MODEL is in the table",
    "LoraModelLoader": "as LoraLoader",
    "HypernetworkLoader": "loads a file; what it does to a MODEL is in the table",
    "TorchCompileModel": "compiles: minutes on a CPU",
    "TrainLoraNode": "trains",
    "WanContextWindowsManual": "as ContextWindowsManual, for video",
    "wanBlockSwap": "does nothing",
    "ChromaRadianceOptions": "an option of one model",
    "QwenImageDiffsynthControlnet": "for one model",
    "USOStyleReference": "for one model",
    "UNetTemporalAttentionMultiply": "for video models; as the other multipliers",
}
MERGES = re.compile("ModelMerge")  # of weights, as ModelMergeSimple


@pytest.fixture(scope="module")
def kit(pack):
    import comfy.utils

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them only wait for each other on tensors this small
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.utils, "PROGRESS_BAR_ENABLED", False)
        yield Kit(pack)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def found(kit):
    """The outcomes of a feature, each made once."""
    known = {}

    def find(feature):
        if feature.name not in known:
            known[feature.name] = outcomes(kit, feature, in_twos=feature in BY_ROW)
        return known[feature.name]

    return find


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_works_as_it_would_without_or_is_refused_by_name(kit, found, feature):
    for outcome in found(feature):
        if outcome.result == "refused":
            assert feature.refused, outcome
            assert re.search(feature.refused, outcome.message), outcome
        else:
            assert outcome.result == "yes", outcome


@pytest.mark.parametrize("feature", [each for each in FEATURES if not each.inert], ids=lambda feature: feature.name)
def test_changes_the_picture(kit, feature):
    assert changes(kit, feature)


def test_every_node_of_the_host_that_changes_a_model_is_here(kit, found):
    for feature in FEATURES:
        found(feature)
    unknown = []
    for name, node in kit.nodes.items():
        sockets = [
            value[0] for part in node.INPUT_TYPES().values() if isinstance(part, dict) for value in part.values()
        ]
        gives = set(node.RETURN_TYPES)
        if ("MODEL" in sockets and gives & {"MODEL", "GUIDER"}) or "SAMPLER" in gives:
            unknown.append(name)
    assert kit.used.isdisjoint(ELSEWHERE)
    if is_documented_version():
        assert [name for name in unknown if not (name in kit.used or name in ELSEWHERE or MERGES.match(name))] == []


def is_documented_version():
    return importlib.import_module("comfyui_version").__version__ == DOCUMENTED_ON


def cell(outcome, feature):
    """What the table says of an outcome."""
    if outcome.result == "yes":
        return "as the host's batch" if feature.batch else "yes"
    return {"refused": "refused", "fails": "**fails**"}.get(outcome.result, "**no**")


def message(outcomes_of):
    """The message of the first outcome that has one, shortened."""
    text = next((outcome.message for outcome in outcomes_of if outcome.message), "").replace("|", "\\|")
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


def table_of(found):
    lines = []
    for title, features in SECTIONS.items():
        lines += ["", f"### {title}", "", "| | equal at τ = 0 | shared without loss | message |", "|---|---|---|---|"]
        for feature in features:
            none, shared = found(feature)
            cells = feature.name, cell(none, feature), cell(shared, feature), message((none, shared))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines[1:], ""])


def test_table_in_the_docs_is_this_one(found, repo_root):
    page = repo_root / "docs" / "compatibility.md"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    documented, after = rest.split(END)
    made = table_of(found)
    if not is_documented_version():
        assert rows_in(documented) == rows_in(made)
    elif os.environ.get("HIERDIFF_WRITE_DOCS"):
        page.write_text(before + BEGIN + made + END + after, encoding="utf-8", newline="\n")
    else:
        assert documented == made, "run HIERDIFF_WRITE_DOCS=1 python -m pytest tests/host/test_compatibility.py"


def rows_in(table):
    """What the rows of a table are about."""
    return [line.split(" | ")[0] for line in table.splitlines()]
