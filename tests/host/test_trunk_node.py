"""Keep Trunks: names of folders, budgets, and one store for all nodes of a name."""

import importlib

import pytest

from hierdiff_core.files.names import RESERVED

pytestmark = pytest.mark.host


@pytest.fixture
def module(pack, monkeypatch, tmp_path):
    """Modules by name, with a user folder and stores of their own."""
    import folder_paths

    def find(name):
        return importlib.import_module(f"{pack.__name__}.nodes.{name}")

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    monkeypatch.setattr(find("host.kept"), "_stores", {})
    monkeypatch.setattr(importlib.import_module(f"{pack.__name__}.hierdiff_core.sampling.store"), "_session", None)
    return find


@pytest.fixture
def keep(module):
    def run(name="", memory_gb=1.0, disk_gb=1.0):
        out = module("trunk").KeepTrunks.PREPARE_CLASS_CLONE({}).execute(name, memory_gb, disk_gb)
        return out.args[0], out.ui["text"][0]

    return run


def test_nodes_of_one_name_share_a_store_and_the_last_budgets_count(keep, tmp_path):
    first, text = keep("set one", 1, 2)
    assert text == "in memory: up to 1 GiB, now 0 bytes\non disk: up to 2 GiB in user/hierdiff/trunks/set one"
    again, _ = keep(" Set One ", 0.5, 3)
    other, _ = keep("set two")
    assert first is again
    assert first is not other
    assert (first.budget, first.folder.budget) == (2**29, 3 * 2**30)
    assert first.folder.path == tmp_path / "hierdiff" / "trunks" / "set one"
    assert first.leaves.folder is first.folder


def test_without_a_name_it_is_the_store_of_the_session_in_memory_alone(keep, module):
    store, text = keep("", 0.25, 5)
    assert store is module("host.kept").session_store()
    assert (store.budget, store.folder) == (2**28, None)
    assert text.endswith("nothing on disk")


def test_without_disk_space_a_name_is_in_memory_alone(keep):
    store, text = keep("a", 1, 0)
    assert store.folder is None
    assert text.endswith("nothing on disk")
    assert keep("a", 1, 1)[0].folder is not None
    assert keep("a", 1, 0)[0].folder is None


def test_a_folder_that_is_there_is_found_whatever_the_case_of_its_letters(keep, tmp_path):
    (tmp_path / "hierdiff" / "trunks" / "Tigers").mkdir(parents=True)
    assert keep("tigers")[0].folder.path.name == "Tigers"


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "..",
        "../x",
        "a\\b",
        "a:b",
        "x\0",
        "x\ny",
        ".hidden",
        "dot.",
        "con",
        "NUL.txt",
        "a" * 81,
        "\ud800",
        '"',
        *sorted(RESERVED),
    ],
)
def test_names_that_lead_elsewhere_or_are_none_are_refused(keep, module, tmp_path, name):
    with pytest.raises(ValueError, match=r"^name must"):
        keep(name)
    assert str(module("trunk").KeepTrunks.validate_inputs(name=name)).startswith("name must")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", " ", "cats", "猫", "v1.2 final", "a-b_c"])
def test_plain_names_are_taken(module, name):
    assert module("trunk").KeepTrunks.validate_inputs(name=name) is True


@pytest.mark.parametrize("budgets", [(-1, 1), (1, -1), (float("nan"), 1), (1, float("inf"))])
def test_budgets_that_are_none_are_refused(keep, budgets):
    with pytest.raises(ValueError, match=r"_gb must lie between"):
        keep("a", *budgets)
