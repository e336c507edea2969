"""The converter from the front end's workflows to prompts, rule by rule."""

import pytest
from workflow_api import WorkflowError, to_api, widget_places


def node_info(required=None, optional=None, **more):
    """An /object_info entry with the given inputs."""
    inputs = {"required": required or {}, "optional": optional or {}}
    order = {section: list(specs) for section, specs in inputs.items()}
    return {"input": inputs, "input_order": order, "display_name": "", **more}


OBJECT_INFO = {
    "Source": node_info({"width": ["INT", {"default": 64}]}, display_name="A source"),
    "Sampler": node_info(
        {
            "image": ["IMAGE", {}],
            "noise": ["INT", {"control_after_generate": True}],
            "method": ["COMBO", {"options": ["euler", "heun"]}],
        },
        {"note": ["STRING", {"multiline": True}], "extra": ["FLOAT", {"forceInput": True}], "plan": ["HIERDIFF_PLAN"]},
    ),
    "Filter": node_info({"image": ["IMAGE"], "mask": ["MASK"], "strength": ["FLOAT", {}]}),
    "Save": node_info({"images": ["IMAGE"], "prefix": ["STRING", {}]}),
}


def slot(name, kind="IMAGE", link=None, widget=False):
    return {"name": name, "type": kind, "link": link, **({"widget": {"name": name}} if widget else {})}


def node(node_id, kind, inputs=(), values=(), outputs=("IMAGE",), **more):
    shown = [{"name": name, "type": name} for name in outputs]
    return {"id": node_id, "type": kind, "inputs": list(inputs), "outputs": shown, "widgets_values": values, **more}


def workflow(*nodes, links=()):
    return {"version": 0.4, "nodes": list(nodes), "links": [list(link) for link in links]}


def source(node_id=1, **more):
    return node(node_id, "Source", values=[64], **more)


def save(link, node_id=9):
    return node(node_id, "Save", [slot("images", link=link)], ["out"])


def test_values_go_to_widgets_by_the_order_of_the_schema():
    sampler = node(2, "Sampler", [slot("image", link=1)], [7, "randomize", "heun", "hello"])
    prompt = to_api(workflow(source(), sampler, links=[(1, 1, 0, 2, 0, "IMAGE")]), OBJECT_INFO)
    assert prompt == {
        "1": {"class_type": "Source", "inputs": {"width": 64}, "_meta": {"title": "A source"}},
        "2": {
            "class_type": "Sampler",
            "inputs": {"image": ["1", 0], "noise": 7, "method": "heun", "note": "hello"},
            "_meta": {"title": "Sampler"},
        },
    }


def test_input_order_rules_over_the_order_of_the_specs():
    info = node_info({"b": ["INT", {}], "a": ["INT", {}]})
    info["input_order"]["required"] = ["a", "b"]
    prompt = to_api(workflow(node(1, "N", values=[1, 2])), {"N": info})
    assert prompt["1"]["inputs"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("name", "spec", "places"),
    [
        ("n", ["INT", {}], ["n"]),
        ("n", ["INT", {"control_after_generate": True}], ["n", None]),
        ("seed", ["INT", {}], ["seed", None]),
        ("noise_seed", ["INT"], ["noise_seed", None]),
        ("seed", ["INT", {"control_after_generate": False}], ["seed"]),
        ("seed", ["FLOAT", {}], ["seed"]),
        ("c", [["x", "y"], {}], ["c"]),
        ("c", ["COMBO", {"options": [], "control_after_generate": True}], ["c", None, None]),
        ("c", [["x.png"], {"image_upload": True}], ["c", None]),
        ("s", ["STRING", {"forceInput": True}], []),
        ("s", ["STRING,IMAGE", {"widgetType": "STRING"}], ["s"]),
        ("s", ["STRING,IMAGE", {}], []),
        ("p", ["HIERDIFF_PLAN", {}], []),
    ],
)
def test_places_of_an_input(name, spec, places):
    assert widget_places(node_info({name: spec})) == places


def test_the_upload_button_stands_between_required_and_optional_widgets():
    info = node_info({"file": [["x.png"], {"image_upload": True}], "size": ["INT"]}, {"fit": ["BOOLEAN"]})
    assert widget_places(info) == ["file", "size", None, "fit"]


def test_a_linked_widget_keeps_its_place_among_the_values():
    sampler = node(2, "Sampler", [slot("noise", "INT", link=1, widget=True)], [7, "fixed", "heun", "hello"])
    links = [(1, 1, 0, 2, 0, "INT")]
    inputs = to_api(workflow(source(outputs=("INT",)), sampler, links=links), OBJECT_INFO)["2"]["inputs"]
    assert inputs == {"noise": ["1", 0], "method": "heun", "note": "hello"}


def test_an_unlinked_widget_socket_uses_the_value():
    sampler = node(2, "Sampler", [slot("noise", "INT", widget=True)], [7, "fixed", "heun", ""])
    assert to_api(workflow(sampler), OBJECT_INFO)["2"]["inputs"]["noise"] == 7


def test_values_may_be_given_by_name():
    sampler = node(2, "Sampler", values={"method": "heun", "noise": 3, "preview": {"hidden": True}})
    assert to_api(workflow(sampler), OBJECT_INFO)["2"]["inputs"] == {"method": "heun", "noise": 3}


def test_a_list_value_is_wrapped_so_that_it_is_not_read_as_a_link():
    prompt = to_api(workflow(node(1, "N", values=[["1", 0]])), {"N": node_info({"c": [["1"], {}]})})
    assert prompt["1"]["inputs"] == {"c": {"__value__": ["1", 0]}}


def test_trailing_holes_of_unsaved_widgets_are_ignored():
    assert to_api(workflow(node(1, "Source", values=[64, None])), OBJECT_INFO)["1"]["inputs"] == {"width": 64}


def test_widgets_that_only_show_something_are_ignored():
    info = {"Show": node_info({"images": ["IMAGE"]})}
    assert to_api(workflow(node(1, "Show", values=["a report", True])), info)["1"]["inputs"] == {}


@pytest.mark.parametrize("kind", ["Note", "MarkdownNote"])
def test_notes_are_left_out(kind):
    assert list(to_api(workflow(source(), node(2, kind, values=["text"])), OBJECT_INFO)) == ["1"]


def test_reroutes_are_followed():
    reroutes = [node(2, "Reroute", [slot("", "*", link=1)]), node(3, "Reroute", [slot("", "*", link=2)])]
    links = [(1, 1, 0, 2, 0, "IMAGE"), (2, 2, 0, 3, 0, "IMAGE"), (3, 3, 0, 9, 0, "IMAGE")]
    prompt = to_api(workflow(source(), *reroutes, save(link=3), links=links), OBJECT_INFO)
    assert list(prompt) == ["1", "9"]
    assert prompt["9"]["inputs"]["images"] == ["1", 0]


def test_a_reroute_without_input_feeds_nothing():
    links = [(3, 3, 0, 9, 0, "IMAGE")]
    prompt = to_api(workflow(node(3, "Reroute", [slot("", "*")]), save(link=3), links=links), OBJECT_INFO)
    assert prompt["9"]["inputs"] == {"prefix": "out"}


def test_a_circle_of_reroutes_is_refused():
    reroutes = [node(2, "Reroute", [slot("", "*", link=2)]), node(3, "Reroute", [slot("", "*", link=1)])]
    links = [(1, 2, 0, 3, 0, "*"), (2, 3, 0, 2, 0, "*"), (3, 3, 0, 9, 0, "IMAGE")]
    with pytest.raises(WorkflowError, match="circle"):
        to_api(workflow(*reroutes, save(link=3), links=links), OBJECT_INFO)


def test_a_primitive_gives_its_value():
    primitive = node(2, "PrimitiveNode", values=[128, "fixed"], outputs=("INT",))
    target = node(1, "Source", [slot("width", "INT", link=1, widget=True)], [64])
    prompt = to_api(workflow(primitive, target, links=[(1, 2, 0, 1, 0, "INT")]), OBJECT_INFO)
    assert prompt["1"]["inputs"] == {"width": 128}
    assert "2" not in prompt


def test_a_bypassed_node_passes_the_input_of_the_same_type_through():
    mask_first = [slot("mask", "MASK", link=2), slot("image", "IMAGE", link=1)]
    nodes = [source(1), source(2, outputs=("MASK",)), node(3, "Filter", mask_first, [0.5], mode=4), save(link=3)]
    links = [(1, 1, 0, 3, 1, "IMAGE"), (2, 2, 0, 3, 0, "MASK"), (3, 3, 0, 9, 0, "IMAGE")]
    prompt = to_api(workflow(*nodes, links=links), OBJECT_INFO)
    assert list(prompt) == ["1", "2", "9"]
    assert prompt["9"]["inputs"]["images"] == ["1", 0]


def test_a_bypassed_node_prefers_the_input_in_the_same_place():
    two_images = [slot("image", link=1), slot("image2", link=2)]
    bypassed = node(3, "Filter", two_images, [0.5], mode=4, outputs=("IMAGE", "IMAGE"))
    links = [(1, 1, 0, 3, 0, "IMAGE"), (2, 2, 0, 3, 1, "IMAGE"), (3, 3, 1, 9, 0, "IMAGE")]
    prompt = to_api(workflow(source(1), source(2), bypassed, save(link=3), links=links), OBJECT_INFO)
    assert prompt["9"]["inputs"]["images"] == ["2", 0]


def test_a_bypassed_node_without_a_fitting_input_passes_nothing():
    bypassed = node(3, "Filter", [slot("mask", "MASK", link=1)], [0.5], mode=4)
    links = [(1, 1, 0, 3, 0, "MASK"), (3, 3, 0, 9, 0, "IMAGE")]
    prompt = to_api(workflow(source(outputs=("MASK",)), bypassed, save(link=3), links=links), OBJECT_INFO)
    assert prompt["9"]["inputs"] == {"prefix": "out"}


def test_links_to_a_muted_node_are_dropped():
    links = [(1, 1, 0, 9, 0, "IMAGE")]
    prompt = to_api(workflow(source(mode=2), save(link=1), links=links), OBJECT_INFO)
    assert prompt == {"9": {"class_type": "Save", "inputs": {"prefix": "out"}, "_meta": {"title": "Save"}}}


def test_a_muted_node_may_be_of_an_unknown_type():
    assert list(to_api(workflow(source(), node(2, "NotInstalled", mode=2)), OBJECT_INFO)) == ["1"]


def test_titles_are_kept():
    assert to_api(workflow(source(title="Mine")), OBJECT_INFO)["1"]["_meta"] == {"title": "Mine"}


def test_an_unknown_type_is_named():
    with pytest.raises(WorkflowError, match=r"node 5 \(NotInstalled\): the server knows no node type 'NotInstalled'"):
        to_api(workflow(node(5, "NotInstalled")), OBJECT_INFO)


@pytest.mark.parametrize("values", [[7, "heun", "hello"], [7, "fixed", "heun", "hello", "more"], []])
def test_a_wrong_number_of_values_is_named(values):
    message = rf"node 2 \(Sampler\): {len(values)} widget values, but .* has 4 \(noise, \(front end\), method, note\)"
    with pytest.raises(WorkflowError, match=message):
        to_api(workflow(node(2, "Sampler", values=values)), OBJECT_INFO)


def test_widgets_that_a_later_version_added_keep_their_defaults():
    added = {"rescale": ["BOOLEAN", {"default": False}], "plan": ["PLAN"], "power": ["FLOAT", {"default": 2.0}]}
    info = {"N": node_info({"steps": ["INT"]}, added)}
    for values in ([7], [7, False], [7, False, 2.0]):
        assert to_api(workflow(node(1, "N", values=values)), info)["1"]["inputs"] == {
            "steps": 7,
            "rescale": False,
            "power": 2.0,
        }
    assert to_api(workflow(node(1, "N", values=[7, True])), info)["1"]["inputs"]["rescale"] is True
    with pytest.raises(WorkflowError, match="0 widget values"):
        to_api(workflow(node(1, "N")), info)


def test_a_link_into_an_input_that_the_server_does_not_have_is_named():
    stale = node(9, "Save", [slot("pictures", link=1)], ["out"])
    with pytest.raises(WorkflowError, match=r"node 9 \(Save\): input 'pictures' is linked, but .* only images, prefix"):
        to_api(workflow(source(), stale, links=[(1, 1, 0, 9, 0, "IMAGE")]), OBJECT_INFO)


def test_a_link_from_nowhere_is_named():
    with pytest.raises(WorkflowError, match=r"node 9 \(Save\): input 'images' names link 4"):
        to_api(workflow(save(link=4)), OBJECT_INFO)


def test_api_format_is_refused():
    with pytest.raises(WorkflowError, match="API format already"):
        to_api({"1": {"class_type": "Source", "inputs": {}}}, OBJECT_INFO)


def test_links_of_another_format_are_refused():
    with pytest.raises(WorkflowError, match=r"format 0\.4 is expected"):
        to_api({"nodes": [], "links": [{"id": 1}]}, OBJECT_INFO)
