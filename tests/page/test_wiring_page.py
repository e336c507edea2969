"""Links that users draw in the page from nodes of other packs into our choices and numbers, and what is queued then."""

import pytest
from comfyui_host import ComfyServer
from comfyui_page import newest_front_end
from other_pack import write_pack

pytestmark = [pytest.mark.host, pytest.mark.browser]


@pytest.fixture(scope="module", params=["installed", "newest"])
def server(request, tmp_path_factory):
    """With each front end, and a pack of somebody else."""
    extra = ("--front-end-root", str(newest_front_end())) if request.param == "newest" else ()
    folder = tmp_path_factory.mktemp(request.param)
    write_pack(folder)
    with ComfyServer(base_dir=folder, extra_args=extra, env={"OMP_NUM_THREADS": "1"}) as running:
        running.front_end = request.param
        yield running


# Ours beside the host's own sampler: each gets the same links, one at a time.
WIRE = """async ([source, targets]) => {
    const made = (type) => { const node = LiteGraph.createNode(type); app.graph.add(node); return node; };
    const found = {};
    for (const [type, name] of targets) {
        const [theirs, ours] = [made(source), made(type)];
        const link = theirs.connect(0, ours, ours.inputs.findIndex((input) => input.name === name));
        const { output } = await app.graphToPrompt();
        const widget = ours.widgets.find((each) => each.name === name);
        const value = output[ours.id].inputs[name];
        found[type] = {
            linked: link !== null && Array.isArray(value) && value[0] === String(theirs.id),
            choices: widget.options.values?.length ?? null,
        };
        app.graph.remove(theirs);
        app.graph.remove(ours);
    }
    return found;
}"""


@pytest.mark.parametrize(
    ("source", "name", "linked"),
    [
        ("OtherSamplers", "sampler_name", True),
        ("OtherSomeSamplers", "sampler_name", True),
        ("OtherCombo", "sampler_name", True),
        ("OtherStar", "sampler_name", True),
        ("OtherSchedulers", "scheduler", True),
        ("OtherString", "sampler_name", False),
        ("OtherInt", "seed", True),
        ("OtherFloat", "seed", False),
    ],
)
def test_page_links_other_packs_to_our_choices_as_to_the_hosts(open_page, source, name, linked):
    page = open_page(shared=True)
    found = page.evaluate(WIRE, [source, [["HierDiffKSampler", name], ["KSampler", name]]])
    assert found["HierDiffKSampler"] == found["KSampler"]
    assert found["HierDiffKSampler"]["linked"] == linked
    assert (found["HierDiffKSampler"]["choices"] or 0) > 5 or name == "seed"
