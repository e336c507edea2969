"""What the schemas ask of a page, beyond names, types and order."""


def inputs_of(node):
    """Options of each input, by its id, as a server gives them to the page."""
    inputs = node.INPUT_TYPES()
    return {name: options for kind in ("required", "optional") for name, (_, options) in inputs.get(kind, {}).items()}


def test_only_what_is_rarely_useful_is_out_of_sight(pack):
    """Nodes 2.0 shows advanced inputs on request; on every host, old ones too, the mark must reach the page."""
    advanced = {
        (node.define_schema().node_id, name)
        for node in pack.nodes.NODES
        for name, options in inputs_of(node).items()
        if options.get("advanced")
    }
    assert advanced == {
        ("HierDiffBranchingSampler", "rescale_means"),
        ("HierDiffSet", "denoise"),
        ("HierDiffSet", "micro_batch"),
    }


def test_what_is_out_of_sight_says_why(pack):
    marked = [o for node in pack.nodes.NODES for o in inputs_of(node).values() if o.get("advanced")]
    assert all(options["tooltip"].startswith("Rarely useful: ") for options in marked)
