"""Files of Calibrate Schedule and Load Sensitivity, in this process."""

import importlib
import json
import tracemalloc

import pytest

from hierdiff_core import Sensitivity, read_sensitivity

GOOD = {"format": "hierdiff-sensitivity-1", "settings": {}, "num_steps": 2, "shared_steps": [2], "change": [1.0]}


@pytest.fixture
def files(pack, tmp_path, monkeypatch):
    """The nodes' module, with an output folder of its own."""
    import folder_paths

    module = importlib.import_module(f"{pack.__name__}.nodes.sensitivity")
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, module.CATEGORY, ([str(tmp_path / module.CATEGORY)], {".json"})
    )
    return module


def test_place_of_a_file_is_tried_before_and_nothing_is_left_there(files, tmp_path):
    path = files.new_file("small")
    assert path == tmp_path / files.CATEGORY / "small_00001_.json"
    assert list(path.parent.iterdir()) == []
    with pytest.raises(ValueError, match=r"name '虎+': no file can be written in .* \(File name too long\)"):
        files.new_file("虎" * 99)
    assert list(path.parent.iterdir()) == []


def test_folder_that_cannot_be_made_is_found_before(files, tmp_path):
    (tmp_path / files.CATEGORY).write_text("a file is in the way")
    with pytest.raises(ValueError, match="name 'small': no file can be written in output/hierdiff_sensitivity"):
        files.new_file("small")


def test_name_that_was_taken_meanwhile_is_left_to_the_other(files):
    path = files.new_file("small")
    files.save_new(Sensitivity(2, [2], [1.0]), path)
    assert files.save_new(Sensitivity(3, [3], [1.0]), path).name == "small_00002_.json"
    assert read_sensitivity(path).num_steps == 2
    assert sorted(file.name for file in path.parent.iterdir()) == ["small_00001_.json", "small_00002_.json"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_steps": 10**9, "shared_steps": [10**9]}, "num_steps must be an integer between 1 and 1000"),
        ({"settings": {"model": ["<b>"]}}, r"settings must be texts .* got \['<b>'\] for 'model'"),
        ({"change": [None]}, "change must be a list of numbers; got None at place 0"),
    ],
)
def test_file_of_others_is_refused_by_its_name_and_without_memory(files, tmp_path, changes, reason):
    path = tmp_path / files.CATEGORY / "shared.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**GOOD, **changes}))
    tracemalloc.start()
    verdict = files.SensitivityLoader.validate_inputs(sensitivity="shared.json")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6
    with pytest.raises(ValueError, match=f"^shared.json is not a sensitivity saved by Calibrate Schedule: {reason}"):
        files.SensitivityLoader.execute("shared.json")
    assert verdict.startswith("shared.json is not a sensitivity")


def test_setting_of_several_lines_is_shown_on_one(files):
    found = Sensitivity(2, [2], [1.0], {"model": "a\n⚠ forged\nb"})
    assert files.describe(found).splitlines()[1:] == ["measured with: model a ⚠ forged b"]
