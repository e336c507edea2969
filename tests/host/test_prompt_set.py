"""Prompt Set, and lists at Prior Embedding, in this process and in a real ComfyUI."""

import os
from types import SimpleNamespace

import pytest
import torch
from comfyui_host import HttpFailed
from graphs import pictures, small_graph

from hierdiff_core import PromptEmbeddings


@pytest.fixture
def prompt_set(pack):
    def run(text="", prompts=None, **more):
        linked = {} if prompts is None else {"prompts": prompts}
        output = pack.nodes.PromptSet.execute(text if isinstance(text, list) else [text], **linked, **more)
        assert list(output.result[0]) == output.result[1] == output.ui["prompts"]
        assert len(output.result[1]) == output.result[2]
        return output.result[1], output.ui["text"][0].splitlines()

    return run


def test_every_text_of_a_list_is_read(prompt_set):
    prompts, said = prompt_set(["{a|b}\n# c", ["d", "# e"], ""], ["{f}"])
    assert prompts == ["a", "b", "d", "{f}"]
    assert said == [
        "4 prompts",
        "1 comment line skipped of text[0]: 2",
        "1 comment line skipped of text[1][1]: 1",
        *("0  a", "1  b", "2  d", "3  {f}"),
    ]
    with pytest.raises(ValueError, match=r"text\[1\], line 2: '\{' is not closed"):
        prompt_set(["a", "b\n{c"])
    with pytest.raises(ValueError, match=r"text\[1\] must be text; got int 7"):
        prompt_set(["a", 7])
    assert prompt_set(["a", None])[1][1] == "⚠ text[1] is empty and was left out"


def test_lists_empty_items_and_what_is_no_text(prompt_set):
    prompts, said = prompt_set("a", [["b", ("c", "")], None, " d "])
    assert prompts == ["a", "b", "c", "d"]
    assert said[1] == "⚠ prompts[0][1][1], prompts[1] are empty and were left out"
    with pytest.raises(ValueError, match=r"prompts\[1\]\[0\]\[0\] must be text; got Tensor"):
        prompt_set("a", ["b", [[torch.zeros(2), {}]]])


def test_linked_text_of_several_lines_stays_one_prompt_unless_it_is_split(prompt_set):
    prompts, said = prompt_set("", ["a\nb\n\n⚠ c", "d"])
    assert prompts == ["a\nb\n\n⚠ c", "d"]
    assert said == [
        "2 prompts",
        "⚠ prompt 0 has 3 lines: set linked_lines to split to make each line a prompt",
        "0  a ↵ b ↵ ↵ ⚠ c",
        "1  d",
    ]
    assert prompt_set("", ["a\nb\n\nc", "d"], linked_lines=["split"])[0] == ["a", "b", "c", "d"]
    for wrong in (["both"], ["keep", "split"], [["split"]]):
        with pytest.raises(ValueError, match=r"linked_lines must be one of keep, split; got"):
            prompt_set("a", linked_lines=wrong)


def test_warnings_stand_before_the_prompts(prompt_set):
    _, said = prompt_set("a __b__\n{c}\nc\n\ud83d")
    assert said[0] == "4 prompts"
    assert [line[:12] for line in said if line.startswith("⚠ ")] == [
        "⚠ the text h",
        "⚠ prompt 0 (",
        "⚠ prompt 1 (",
        "⚠ 1 of 4 pro",
    ]
    assert said[5:] == ["0  a __b__", "1  c", "2  c", "3  \ufffd"]


def test_long_prompts_are_shown_short(prompt_set):
    prompts, said = prompt_set("a" * 20_000)
    assert len(prompts[0]) == 20_000
    assert said == ["1 prompt", "0  " + "a" * 300 + "…"]


def test_limit_of_the_set_counts_linked_texts(prompt_set):
    assert len(prompt_set("a\n" * 9_999, ["b"])[0]) == 10_000
    with pytest.raises(ValueError, match=r"prompts\[1\]: more than 10000 prompts in a set"):
        prompt_set("a\n" * 9_999, ["b", "c"])


def test_what_can_be_known_is_refused_when_the_graph_is_queued(pack):
    validate = pack.nodes.PromptSet.validate_inputs
    assert validate(text=["{a|b}"]) is True
    assert validate(text=(None,)) is True
    assert validate(text=["a\n{b"]).startswith("line 2: '{' is not closed")
    assert validate(text=["{a|b}" * 60]).startswith("line 1: more than 10000 prompts in a set")


# --- Wildcards --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(pack, tmp_path, monkeypatch):
    """An empty ComfyUI's folders."""
    import folder_paths

    for name in ("models", "input", "user", "custom_nodes"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(folder_paths, "base_path", str(tmp_path))
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda name: [str(tmp_path / name)])
    monkeypatch.delitem(folder_paths.folder_names_and_paths, "wildcards", raising=False)
    return tmp_path


def put(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "colour.txt").write_text(text)


def test_wildcards_are_found_where_users_have_them(prompt_set, folders, monkeypatch):
    import folder_paths

    impact = folders / "custom_nodes" / "Impact"
    places = ["custom_nodes/Impact/wildcards", "custom_nodes/Impact/custom_wildcards", "custom_nodes/Impact/mine"]
    places += ["wildcards", "user/default/wildcards", "input/wildcards", "models/wildcards", "elsewhere"]
    for place in places:
        put(folders / place, f"from {place}")
        if place.endswith("mine"):
            (impact / "impact-pack.ini").write_text("[default]\ncustom_wildcards = mine\n")
        if place == "elsewhere":  # as extra_model_paths.yaml adds them
            known = {"wildcards": ([str(folders / place)], set())}
            monkeypatch.setattr(folder_paths, "folder_names_and_paths", folder_paths.folder_names_and_paths | known)
        assert prompt_set("__colour__")[0] == [f"from {place}"]
    (impact / "impact-pack.ini").write_bytes(b"\xff[broken")
    assert prompt_set("__colour__")[0] == ["from elsewhere"]


def test_set_is_made_anew_when_a_wildcard_file_changes(pack, folders):
    of = pack.nodes.PromptSet.fingerprint_inputs
    put(folders / "wildcards", "red")
    plain, before, linked = of(text=["a"]), of(text=["a __colour__"], draw=["random"]), of(text=[None])
    put(folders / "wildcards", "red\nblue")
    assert of(text=["a"]) == plain
    assert of(text=["a __colour__"], draw=["random"]) != before
    assert of(text=[None]) != linked


def test_random_prompts_are_drawn_by_a_seed(pack, prompt_set, folders):
    put(folders / "wildcards", "\n".join(map(str, range(50))))
    random = {"draw": ["random"], "count": [3], "draw_seed": [7]}
    prompts, said = prompt_set("__colour__ {2::a|b}\nc", ["__colour__"], **random)
    assert prompts == prompt_set("__colour__ {2::a|b}\nc", ["__colour__"], **random)[0]
    assert len(prompts) == 5
    assert said[0] == "5 prompts, drawn with seed 7, at most 3 of each line"
    assert said[1].startswith("⚠ prompt 4 has __colour__: wildcards are not read in linked texts")
    assert prompts != prompt_set("__colour__ {2::a|b}\nc", ["__colour__"], **random | {"draw_seed": [8]})[0]
    with pytest.raises(ValueError, match="draw_seed must be a single value; got a list of 2"):
        prompt_set("a", **random | {"draw_seed": [1, 2]})
    with pytest.raises(ValueError, match="draw must be one of all combinations, random; got 'some'"):
        prompt_set("a", draw=["some"])
    validate = pack.nodes.PromptSet.validate_inputs
    assert validate(text=["__colour__ " * 9], **random) is True
    assert validate(text=["__colour__ " * 9]).startswith("line 1: more than 10000 prompts in a set")
    assert (
        validate(text=["a"], draw=["random"], count=[0], draw_seed=[0]) == "count must lie between 1 and 10000; got 0"
    )


def test_all_combinations_know_their_factors(pack):
    found = pack.nodes.PromptSet.execute(["{a|b} {c|d}"]).result[0]
    assert found == ("a c", "a d", "b c", "b d")
    assert found.rows[1].factors == (("a|b", "a"), ("c|d", "d"))


# --- Lists at Prior Embedding ---------------------------------------------------------------------------------------


@pytest.fixture
def prior_node(pack, monkeypatch):
    """Runs Prior Embedding and returns the settings of each call of `embed_prompts`, and what the node said."""
    calls = []

    def embed(pipeline, prompts, negative_prompt, **settings):
        negatives = [negative for _, negative in sorted(zip(prompts, negative_prompt, strict=True))]
        one = len(set(negatives)) == 1
        calls.append({"prompts": tuple(sorted(prompts)), "negative_prompt": negatives[0] if one else negatives})
        calls[-1] |= settings
        return PromptEmbeddings(torch.ones(len(prompts), 3), torch.ones(len(prompts), 3), prompts)

    module = __import__("sys").modules[f"{pack.__name__}.nodes.prior"]
    monkeypatch.setattr(module, "embed_prompts", embed)
    monkeypatch.setattr(module, "prior_calls", lambda *args: 1)
    monkeypatch.setattr(module, "prior_digest", lambda prior: os.urandom(8))  # nothing is known of it
    monkeypatch.setattr(module, "text_warnings", lambda *args: [])
    monkeypatch.setattr(module, "black_image", lambda pipeline: torch.zeros(1, 3))

    def run(prompts=("a", "b", "c"), **lists):
        loads = {"load": lambda: None, "load_image_encoder": lambda: None}
        prior = SimpleNamespace(**loads, pipeline=None, suitable={})
        inputs = {"negative_prompt": [""], "steps": [2], "guidance": [4.0], "seed": [0], "noise": ["shared"]} | lists
        calls.clear()
        output = pack.nodes.PriorEmbedding.execute(prior=[prior], prompts=[prompts], **inputs)
        assert [embeddings.prompts for embeddings in output.result[0]] == [call["prompts"] for call in calls]
        return calls, output.ui["text"][0]

    return run


def test_list_of_as_many_negatives_as_prompts_is_one_for_each(prior_node):
    (call,), said = prior_node(negative_prompt=["x ", "", "x"])
    assert call["negative_prompt"] == ["x", "", "x"]
    assert "a negative for each prompt, 2 of them distinct" in said
    assert "⚠" not in said
    (call,), said = prior_node(negative_prompt=[["x", None], "y"])  # nested, and an item that is nothing
    assert call["negative_prompt"] == ["x", "", "y"]
    calls, _ = prior_node(negative_prompt=["x", "y", "z"], seed=[5, 6])
    assert [(call["seed"], call["negative_prompt"]) for call in calls] == [(5, ["x", "y", "z"]), (6, ["x", "y", "z"])]
    with pytest.raises(ValueError, match=r"negative_prompt\[1\] must be text; got int 2"):
        prior_node(negative_prompt=["x", 2, "z"])


def test_other_lists_make_a_run_for_each_value_as_before(prior_node):
    calls, said = prior_node(negative_prompt=["x"], seed=[5, 6, 7], steps=[2, 3])
    assert [(call["seed"], call["num_steps"], call["negative_prompt"]) for call in calls] == [
        *((5, 2, "x"), (6, 3, "x"), (7, 3, "x"))
    ]
    assert "⚠" not in said
    calls, said = prior_node(negative_prompt=["x", "y"])
    assert [call["negative_prompt"] for call in calls] == ["x", "y"]
    assert said.startswith("⚠ 2 negative prompts make 2 sets of pictures; for one negative per prompt, connect 3")
    calls, _ = prior_node(negative_prompt=["x", "y", "z"], seed=[5, 6, 7])  # lists that belong together
    assert [(call["seed"], call["negative_prompt"]) for call in calls] == [(5, "x"), (6, "y"), (7, "z")]


@pytest.mark.host
def test_list_of_negatives_makes_one_set_of_pictures(comfyui):
    graph = small_graph(**{"set.text": "cat face\nred apple", "embed.negative_prompt": ["negatives", 1]})
    graph["negatives"] = {"class_type": "HierDiffPromptSet", "inputs": {"text": "blurry\ndark"}}
    entry = comfyui.run(graph)
    assert len(pictures(comfyui, entry, "save")) == 2
    assert "a negative for each prompt" in entry["outputs"]["embed"]["text"][0]
    graph["negatives"]["inputs"]["text"] = "blurry\ndark\nred"
    assert len(pictures(comfyui, comfyui.run(graph), "save")) == 6


@pytest.mark.host
def test_text_that_cannot_be_read_is_refused_before_anything_runs(comfyui):
    with pytest.raises(HttpFailed, match=r"line 1: '\{' is not closed"):
        comfyui.queue(small_graph(**{"set.text": "a {red apple"}))
    put(comfyui.base_dir / "input" / "wildcards", "\n".join(["red", "green"]))
    (comfyui.base_dir / "input" / "wildcards" / "none.txt").write_text("# nothing")
    with pytest.raises(
        HttpFailed, match=r"line 1: the wildcard __none__ is empty: write a value per line into none\.txt"
    ):
        comfyui.queue(small_graph(**{"set.text": "a __none__ apple"}))
    graph = {"1": {"class_type": "HierDiffPromptSet", "inputs": {"text": "a __colour__ apple"}}}
    graph["2"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}}
    assert comfyui.run(graph)["outputs"]["1"]["prompts"] == ["a red apple", "a green apple"]
    put(comfyui.base_dir / "input" / "wildcards", "blue")
    assert comfyui.run(graph)["outputs"]["1"]["prompts"] == ["a blue apple"]
