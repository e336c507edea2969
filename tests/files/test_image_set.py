"""Names, captions and files of a saved set."""

import contextlib
import errno
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hierdiff_core.files import image_set
from hierdiff_core.files.image_set import FreeNames, SetTree, SetWriter, caption_line
from hierdiff_core.files.names import (
    RESERVED,
    Picture,
    caption_of,
    check_caption,
    check_name,
    check_subfolder,
    file_parts,
    safe_name,
    without_middle,
)
from hierdiff_core.files.plain_words import plain_words

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


@given(NASTY, st.sampled_from(["{prompt}", "{index:04d}_{prompt}", "{prompt} {index}", "{prompt}/{seed}/{prompt}"]))
def test_file_stays_in_its_folder(tmp_path_factory, prompt, pattern):
    folder = tmp_path_factory.getbasetemp()
    parts = file_parts(pattern, Picture(3, prompt))
    assert parts == [safe_name(part) for part in parts]
    path = folder.joinpath(*parts[:-1], f"{parts[-1]}.png").resolve()
    assert path.parents[pattern.count("/")] == folder.resolve()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), st.integers(20, 100), st.integers(60, 200))
def test_long_names_lose_their_middle(name, length, size):
    cut = without_middle(name, length, size)
    assert len(cut) <= length
    assert len(cut.encode()) <= size
    if cut != name:
        head, _, tail = cut.partition("...")
        assert name.startswith(head)
        assert name.endswith(cut.rpartition("...")[2])
        assert len(head) + len(tail) > 0


def test_both_ends_of_a_long_prompt_are_in_its_name():
    name = file_parts("{index}_{prompt}", Picture(0, "a red apple on a table, " * 9 + "flat style"))[0]
    assert name.startswith("0_a red apple on a table, a red")
    assert name.endswith("on a table, flat style")
    assert "..." in name
    assert len(name) <= 82


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
    picture = Picture(7, "ein grüner Apfel 🍏 / 苹果")
    assert file_parts("{index:04d}_{prompt}", picture) == ["0007_ein grüner Apfel 🍏 _ 苹果"]


def test_fields_of_names_and_captions():
    picture = Picture(5, "a / b", seed=12, count=30, date="2026-01-02", time="10-11-12")
    pattern = "{date} {time}/of {count:03d}/{index:02d}_{seed}_{prompt}{{x}}"
    check_name(pattern)
    assert file_parts(pattern, picture) == ["2026-01-02 10-11-12", "of 030", "05_12_a _ b{x}"]
    check_caption("ohwx: <{prompt}>, {index}")
    assert caption_of("ohwx: <{prompt}>, {index}", picture) == "ohwx: <a / b>, 5"
    assert file_parts("{seed:06d}", Picture(0, "a")) == ["none"]


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "{seeds}", "{}", "{0}", "{prompt.x}", "{index[0]}", "{prompt!r}", "{index", "{index:{prompt}}"),
        *(
            "{index:999999999d}",
            "{prompt:>9}",
            "../{index}",
            "a\\{index}",
            "/{index}",
            "{index}/",
            "a//{index}",
            "a/./b",
        ),
        *("{date:%Y}", "C:{index}", "a/../{index}", "/".join("abcdefghij"), "x" * 3000),
    ],
)
def test_other_patterns_are_refused(pattern):
    with pytest.raises(ValueError, match="name"):
        check_name(pattern)


@pytest.mark.parametrize("pattern", ["", "{seeds}", "{prompt", "{prompt:>9}", 7])
def test_other_captions_are_refused(pattern):
    with pytest.raises(ValueError, match="caption"):
        check_caption(pattern)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a (red:1.2) cat", "a red cat"),
        ("((a cat:1.2), (best)), x", "a cat, best, x"),
        ("a <lora:ink:0.8>, <LyCO:x:1:2> cat", "a, cat"),
        ("<lora:x:1>", ""),
        (r"miku \(vocaloid\), (x \(y\):.5)", "miku (vocaloid), x (y)"),
        ("open (a, b:1.2", "open (a, b:1.2"),
        ("close) a (b)", "close) a b"),
        ("10:30, [a:b:0.5], a < b > c, ratio 3:2", "10:30, [a:b:0.5], a < b > c, ratio 3:2"),
        ("(time: noon)", "time: noon"),
        ("(a:-1), (b : 1. )", "a, b"),
        ("a,, b ,", "a, b"),
        ("(" * 5000 + "a", "(" * 5000 + "a"),
        ("(" * 5000 + "a" + ")" * 5000, "a"),
    ],
)
def test_plain_words(prompt, words):
    assert plain_words(prompt) == words


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
def test_pictures_in_subfolders_have_their_captions_beside_them(tmp_path, captions):
    tree = SetTree(tmp_path, captions, 4)
    names = [tree.add(parts, "png", b"1", "one") for parts in (["a", "x"], ["x"], ["a", "x"], ["b", "c", "x"])]
    assert names == tree.files == ["a/x.png", "x.png", "a/x_2.png", "b/c/x.png"]
    assert all((tmp_path / name).read_bytes() == b"1" for name in names)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.*")) == tree.size
    if captions == "txt":
        assert (tmp_path / "a" / "x_2.txt").read_text() == "one"
    else:
        lines = (tmp_path / "a" / captions).read_text().splitlines()
        assert [json.loads(line)["file_name"] for line in lines] == ["x.png", "x_2.png"]
    (tmp_path / "d").write_text("")
    with pytest.raises(OSError, match="4 of 4 images were written to"):
        tree.add(["d", "x"], "png", b"1", "one")
    for parts in (["..", "x"], ["a/b", "x"], ["", "x"], ["x", "con"]):
        with pytest.raises(ValueError, match="parts must be plain names"):
            tree.add(parts, "png", b"1", "one")


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
