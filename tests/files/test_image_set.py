"""Names, captions and files of a saved set."""

import contextlib
import errno
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hierdiff_core.files import image_set
from hierdiff_core.files.image_set import (
    RESERVED,
    FreeNames,
    SetWriter,
    caption_line,
    check_pattern,
    check_subfolder,
    file_stem,
    safe_name,
)

NASTY = st.one_of(
    st.text(st.characters()), st.lists(st.sampled_from([*"./\\: ~", "..", "con", "COM1", "ü", "🍎"])).map("".join)
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # any letter of Unicode, on a machine that may be busy
@given(NASTY)
def test_safe_name_is_a_name_everywhere(text):
    name = safe_name(text)
    assert name
    assert not set(name) & set('<>:"/\\|?*\n\t\0')
    assert name.split(".")[0].rstrip().upper() not in RESERVED
    assert name == name.strip(" .")
    assert len(name.encode()) <= 200
    assert len(name) <= 120


@given(NASTY, st.sampled_from(["{prompt}", "{index:04d}_{prompt}", "{prompt} {index}"]))
def test_file_stays_in_its_folder(tmp_path_factory, prompt, pattern):
    folder = tmp_path_factory.getbasetemp()
    assert (folder / f"{file_stem(pattern, 3, prompt)}.png").resolve().parent == folder.resolve()


@settings(suppress_health_check=[HealthCheck.too_slow])  # any letter of Unicode, on a machine that may be busy
@given(NASTY)
def test_safe_name_is_its_own_safe_name(text):
    assert safe_name(safe_name(text)) == safe_name(text)


@pytest.mark.parametrize("extension", ["x/../../escaped", "", "/etc/x", "PNG", "exe", "png\0"])
def test_writer_takes_no_other_extension(tmp_path, extension):
    writer = SetWriter(tmp_path / "set", "none", 1)
    with pytest.raises(ValueError, match="extension must be one of png, webp, jpg; got"):
        writer.add("a", extension, b"1", "one")
    assert [path.name for path in tmp_path.rglob("*")] == ["set"]


@pytest.mark.parametrize("stem", ["../a", "a/b", "/a", "", ".", "con", "a\0", "a" * 300])
def test_writer_takes_no_name_that_leads_elsewhere(tmp_path, stem):
    writer = SetWriter(tmp_path / "set", "txt", 1)
    with pytest.raises(ValueError, match="stem must be a plain file name"):
        writer.add(stem, "png", b"1", "one")
    assert [path.name for path in tmp_path.rglob("*")] == ["set"]


def test_writer_knows_its_captions(tmp_path):
    with pytest.raises(ValueError, match=r"captions must be one of none, txt, metadata\.jsonl; got 'csv'"):
        SetWriter(tmp_path / "set", "csv", 1)
    assert not (tmp_path / "set").exists()


def test_unicode_is_kept():
    assert file_stem("{index:04d}_{prompt}", 7, "ein grüner Apfel 🍏 / 苹果") == "0007_ein grüner Apfel 🍏 _ 苹果"


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "{seed}", "{}", "{0}", "{prompt.x}", "{index[0]}", "{prompt!r}", "{index", "{index:{prompt}}"),
        *("{index:999999999d}", "{prompt:>9}", "../{index}", "a\\{index}"),
    ],
)
def test_other_patterns_are_refused(pattern):
    with pytest.raises(ValueError, match="name"):
        check_pattern(pattern)


@pytest.mark.parametrize("folder", ["", "/", "..", "a/../..", "/tmp", "C:\\x", "a//b", "a/.", "\\\\host\\x", "con"])
def test_escapes_are_refused(folder):
    with pytest.raises(ValueError, match="folder must be"):
        check_subfolder(folder)


def test_subfolders():
    assert check_subfolder("sets/of today/") == ["sets", "of today"]


def test_free_names_pass_over_pictures_and_captions():
    names = FreeNames(["A.png", "a_2.txt", "b.csv"])
    assert [names.take(stem) for stem in ("a", "a", "b", "B")] == ["a_3", "a_4", "b", "B_2"]


def test_caption_line_is_one_line():
    line = caption_line("a.png", "an apple\nand a \u2028 pear")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"file_name": "a.png", "text": "an apple\nand a \u2028 pear"}


@pytest.mark.parametrize("captions", ["txt", "metadata.jsonl"])
def test_failure_keeps_what_is_written_and_leaves_no_part(tmp_path, monkeypatch, captions):
    writer = SetWriter(tmp_path, captions, 3)
    writer.add("a", "png", b"1", "one")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(image_set, "caption_text", full)
    monkeypatch.setattr(image_set, "append", full)
    with pytest.raises(OSError, match="No space left on device: 1 of 3 images were written to"):
        writer.add("b", "png", b"2", "two")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "set").write_text("")
    with pytest.raises(OSError, match=r"a file where a folder is needed.*0 of 2 images"):
        SetWriter(tmp_path / "set", "none", 2)


def test_metadata_without_a_last_line_end_is_continued(tmp_path):
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "a.png"}')
    SetWriter(tmp_path, "metadata.jsonl", 1).add("a", "png", b"1", "one")
    names = [json.loads(line)["file_name"] for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert names == ["a.png", "a_2.png"]


@pytest.fixture
def small_files():
    """The system refuses to let a file grow beyond 100 bytes, as a full disk does."""
    import resource  # POSIX

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextlib.contextmanager
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


def test_picture_that_does_not_fit_leaves_nothing(tmp_path, small_files):
    writer = SetWriter(tmp_path, "txt", 2)
    writer.add("a", "png", b"1" * 50, "one")
    with small_files(), pytest.raises(OSError, match="1 of 2 images were written to"):
        writer.add("b", "png", b"2" * 5000, "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.txt"]


def test_line_that_does_not_fit_leaves_the_others_and_no_picture(tmp_path, small_files):
    writer = SetWriter(tmp_path, "metadata.jsonl", 2)
    writer.add("a", "png", b"1", "one")
    before = (tmp_path / "metadata.jsonl").read_bytes()
    with small_files(), pytest.raises(OSError, match="1 of 2 images were written to"):
        writer.add("b", "png", b"2", "two" * 100)
    assert (tmp_path / "metadata.jsonl").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "metadata.jsonl"]
