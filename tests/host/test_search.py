"""Words under which a page finds the nodes, for hosts that know such words and for those that do not."""

import dataclasses
import json

import pytest


@pytest.fixture
def newer_host(pack, monkeypatch):
    """A schema with the field that ComfyUI 0.11 added."""
    from comfy_api.latest import io

    @dataclasses.dataclass
    class NewerSchema(io.Schema):
        search_aliases: list[str] = dataclasses.field(default_factory=list)

    monkeypatch.setattr(io, "Schema", NewerSchema)


def found_by(pack, words):
    """Ids of the nodes that have these words in their name or among their aliases."""
    schemas = [node.define_schema() for node in pack.nodes.NODES]
    return {schema.node_id for schema in schemas if words in [*schema.search_aliases, schema.display_name.lower()]}


@pytest.mark.parametrize(
    ("words", "node"),
    [
        ("batch prompts", "HierDiffPromptSet"),
        ("prompt list", "HierDiffPromptSet"),
        ("kandinsky", "HierDiffPriorLoader"),
        ("kandinsky", "HierDiffDecoderLoader"),
        ("clustering", "HierDiffWardLinkage"),
        ("shared steps", "HierDiffKSampler"),
    ],
)
def test_nodes_are_found_by_what_people_look_for(pack, newer_host, words, node):
    assert node in found_by(pack, words)


def test_every_node_has_words_of_its_own(pack, newer_host):
    for node in pack.nodes.NODES:
        words = node.define_schema().search_aliases
        assert words
        assert len(set(words)) == len(words)


def test_page_brings_the_same_words_along_for_older_hosts(pack, newer_host, repo_root):
    words = json.loads((repo_root / "web" / "search_words.json").read_text(encoding="utf-8"))
    schemas = [node.define_schema() for node in pack.nodes.NODES]
    assert words == {schema.node_id: schema.search_aliases for schema in schemas}


def test_older_hosts_are_asked_for_nothing_that_they_refuse(pack):
    from comfy_api.latest import io

    if "search_aliases" not in {field.name for field in dataclasses.fields(io.Schema)}:
        assert pack.nodes.host.search.search_words("clustering") == {}
