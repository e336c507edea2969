"""What the runs in this process share: the host's modules and ours, a tiny model, a set's plans and conditioning."""

import importlib

import pytest
from shared_runs import PROMPTS, modules_of, one_negative, plans_of, positive_of, vectors_of_prompts

from hierdiff_core import PromptTree


@pytest.fixture(scope="module")
def host(pack):
    return modules_of(pack)


@pytest.fixture(scope="module")
def model(host):
    return host.native_models.unet_model()


@pytest.fixture(scope="module")
def following(pack):
    """tests/following_models.py, once the host can be imported."""
    return importlib.import_module("following_models")


@pytest.fixture(scope="module")
def tree():
    return PromptTree.of(vectors_of_prompts(), "chord", PROMPTS)


@pytest.fixture
def output_folder(pack, monkeypatch):
    """Makes a folder the host's output folder, for advice too; gives that of the advice."""
    import folder_paths

    def use(folder):
        place = folder / "hierdiff_advice"
        place.mkdir(exist_ok=True)
        monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(folder))
        monkeypatch.setitem(folder_paths.folder_names_and_paths, "hierdiff_advice", ([str(place)], {".json"}))
        return place

    return use


@pytest.fixture(scope="module")
def plans():
    return plans_of(vectors_of_prompts())


@pytest.fixture(scope="module")
def sides():
    """positive and negative"""
    return positive_of(vectors_of_prompts()), one_negative()


@pytest.fixture
def all_at_once(host, monkeypatch):
    """As on a GPU: all rows in one call."""
    monkeypatch.setattr(host.calls, "rows_per_call", lambda device, micro_batch: 0)


@pytest.fixture
def silent_model(model):
    """A model that must not be called."""
    silent = model.clone()
    silent.set_model_unet_function_wrapper(lambda *_: pytest.fail("the model was called"))
    return silent
