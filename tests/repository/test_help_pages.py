"""The help pages: what Markdown makes of their lines, and numbers that must be those of the examples."""

import importlib
import json
import re

import numpy as np
import pytest
from comfyui_host import REPO_ROOT

from hierdiff_core import (
    GuidanceCourse,
    build_plan,
    embed_prompts,
    falling_shape,
    load_prior,
    tau_for_saving,
    thresholds_at,
    ward_linkage,
)
from hierdiff_core.prompts.prompt_set import parse_prompts

DOCS = REPO_ROOT / "web" / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))
MARKER = re.compile(r"\s*(?P<marker>\d{1,9}[.)]|[-+*]|#{1,6}|>|=+|-{2,}|~{3,})(?P<rest>\s.*|)$")
MEANT = re.compile(r"[*`\[「“]|[A-Z]|[^\x00-\x7f]")  # how the pages' own items begin


def accidents(text):
    """(number, line) of lines that become an item, a heading or a quotation by the way in which the text is wrapped."""
    found, before, fenced = [], "", False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fenced, before = not fenced, ""
            continue
        begun = not fenced and MARKER.match(line)
        if begun and before.strip():
            earlier = MARKER.match(before)
            indented = len(line) - len(line.lstrip())
            ended = before.rstrip().endswith((".", ";", ":", ","))  # the item before
            item = begun["marker"] == "-" and (ended or MEANT.match(begun["rest"].strip()))
            # an item after an item or after lines that belong to one; a paragraph of its own has no such neighbour
            follows = earlier or before.startswith(" ") or indented
            if not (item and follows):
                found.append((number, line))
        before = line
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_no_line_becomes_a_list_or_a_heading_by_wrapping(page):
    assert accidents(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("workflow", sorted((REPO_ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_no_line_of_a_templates_note_does_either(workflow):
    nodes = json.loads(workflow.read_text(encoding="utf-8"))["nodes"]
    notes = [node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"]
    assert notes
    for note in notes:
        assert accidents(note) == []
        assert "`" not in note  # Nodes 2.0 of front end 1.32.9 shows code blue on blue


@pytest.mark.parametrize(
    "text",
    [
        "  - *power*: an exponent (0.1 to\n    20) and more",
        "a line\n20) more",
        "a sum of a\n+ b",
        "the number\n# 3",
        "from 3\n- 5 steps",
        "- one item from 3\n  - 5 steps",
        "a heading\n===",
        "less or\n> more",
        "- item one\n1. more",
    ],
)
def test_accidents_of_wrapping_are_found(text):
    assert len(accidents(text)) == 1


def test_lists_that_are_meant_are_none():
    page = "# Title\n\nText:\n\n- **a**: of\n  two lines\n  - *b*: nested\n- **c**;\n- small\n\n```\n# code\n- x\n```"
    assert accidents(page) == []


# --- Numbers


@pytest.fixture(scope="module")
def example():
    """Heights and clusters of the pages' example: its settings and the bundled model make the pictures too."""
    nodes = importlib.import_module("help_examples").STAGES
    negative, steps, guidance, seed, *_ = nodes["embed"][1]
    prompts = parse_prompts(nodes["prompts"][1][0])
    embeddings = embed_prompts(
        load_prior(), prompts, negative_prompt=negative, num_steps=steps, guidance=guidance, seed=seed
    )
    return prompts, ward_linkage(embeddings.positive, *nodes["linkage"][1]), nodes["schedule"][1]


def example_text(node, language):
    path = DOCS / f"{node}.md" if language == "en" else DOCS / node / f"{language}.md"
    text = re.split(r"^## (?:Example|示例)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    return " ".join(text.split())


def in_order(text, *numbers):
    """Whether the numbers stand in a text, each after the one before."""
    return re.search(".*".join(rf"(?<![\d.]){re.escape(str(number))}(?![\d.]\d)" for number in numbers), text)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_page_of_ward_linkage_tells_the_heights_of_its_picture(example, language):
    prompts, Z, _ = example
    text = example_text("HierDiffWardLinkage", language)
    first = {prompts[int(i)].split(",")[0] for i in Z[0, :2]}
    assert first == {"red apple"}
    assert re.search("two apples join first|两个苹果最先", text)
    faces = next(height for *_, height, size in Z if size == 4)
    assert in_order(text, f"{Z[0, 2]:.2f}", f"{faces:.2f}", f"{Z[-1, 2]:.2f}")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_page_of_threshold_schedule_tells_the_clusters_of_its_picture(example, language):
    _, Z, (steps, mode, saving, private_steps, shape, power) = example
    falling = falling_shape(steps, shape, private_steps, power=power)
    plan, more = (build_plan(Z, thresholds_at(tau_for_saving(Z, falling, share), falling)) for share in (saving, 0.6))
    clusters = plan.clusters_per_step
    text = example_text("HierDiffThresholdSchedule", language)
    assert (mode, plan.num_prompts) == ("saving", 6)
    assert f"{plan.nfe} rows instead of {plan.nfe_standard}" in text
    together, alone = np.count_nonzero(clusters == 1), int(np.argmax(clusters == 6)) + 1
    half_way = {2: ("two half-way", "中间两个"), 3: ("three half-way", "中间三个")}[int(clusters[steps // 2])]
    assert any(words in text for words in half_way)
    assert in_order(text, together, alone)
    assert in_order(text, 0.6, more.nfe)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_page_of_plan_guidance_tells_the_passes_of_its_picture(example, language):
    _, Z, (steps, _, saving, private_steps, shape, power) = example
    falling = falling_shape(steps, shape, private_steps, power=power)
    plan = build_plan(Z, thresholds_at(tau_for_saving(Z, falling, saving), falling))
    course = GuidanceCourse(*importlib.import_module("help_examples").GUIDED["guidance"][1])
    text = example_text("HierDiffPlanGuidance", language)
    assert in_order(text, steps, saving, course.end)
    assert f"passes: {course.passes(plan)} instead of {2 * plan.nfe_standard}" in text


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    ("node", "nodes"),
    [("HierDiffBranchingSampler", "STAGES"), ("HierDiffKSampler", "NATIVE"), ("HierDiffShareSteps", "SHARED")],
)
def test_pages_of_the_samplers_tell_the_rows_of_their_pictures(example, node, nodes, language):
    _, Z, _ = example
    steps, _, saving, private_steps, shape, power = getattr(importlib.import_module("help_examples"), nodes)[
        "schedule"
    ][1]
    falling = falling_shape(steps, shape, private_steps, power=power)
    plan = build_plan(Z, thresholds_at(tau_for_saving(Z, falling, saving), falling))
    text = example_text(node, language)
    assert in_order(text, plan.nfe)
    assert in_order(text, plan.nfe_standard)
