"""Files that appear whole or not at all: processes killed at each step, full disks, file systems without links."""

import errno
import json
import os
import signal
import sys
import time

import pytest

from hierdiff_core.files import whole_files
from hierdiff_core.files.image_set import SetWriter
from hierdiff_core.files.whole_files import leftovers, replace, try_writing, write_new

posix = pytest.mark.skipif(os.name != "posix", reason="fork and file size limits are POSIX")
PICTURE = b"picture of %d " * 400
STEPS = {"open", "os.link", "os.remove", "os.rename", "os.truncate"}  # audit events of what changes a folder


def picture(number):
    return PICTURE % ((number,) * 400)


def caption(number):
    return " ".join([f"caption of {number}"] * 20)


def draw(folder, captions, first=0):
    """Write two pictures under one name, each with its number in it and in its caption."""
    writer = SetWriter(folder, captions, 2)
    for number in (first, first + 1):
        writer.add("same name", "png", picture(number), caption(number))


def in_a_child(work):
    """Run `work` in a forked process; its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def killed_at(step, *arguments):
    """Let a process `draw` that is killed before its `step`-th change of a folder; False if it has fewer."""

    def counted():
        left = step

        def hook(event, args):
            nonlocal left
            if event in STEPS:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        draw(*arguments)

    status = in_a_child(counted)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def whole_pictures(folder, captions):
    """Numbers of the pictures in a folder, each of which must be whole and have its own caption."""
    listed = {}
    if (folder / "metadata.jsonl").exists():
        lines = (folder / "metadata.jsonl").read_text().splitlines()
        listed = {entry["file_name"]: entry["text"] for entry in map(json.loads, lines)}
    numbers = []
    for path in folder.glob("[!.]*.png"):
        number = int(path.read_bytes().split()[2])
        assert path.read_bytes() == picture(number)
        if captions != "none":
            found = path.with_suffix(".txt").read_text() if captions == "txt" else listed[path.name]
            assert found == caption(number)
        numbers.append(number)
    return sorted(numbers)


@posix
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("captions", ["none", "txt", "metadata.jsonl"])
def test_process_killed_at_any_step_leaves_whole_pictures_with_their_captions(tmp_path, monkeypatch, captions, links):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    step, seen = 0, set()
    while killed_at(step, tmp_path / str(step), captions):
        folder = tmp_path / str(step)
        before = whole_pictures(folder, captions)
        seen.add(tuple(before))
        draw(folder, captions, first=7)  # the next run
        assert whole_pictures(folder, captions) == [*before, 7, 8]
        if captions == "metadata.jsonl":
            assert len((folder / captions).read_bytes().splitlines()) == len(before) + 2  # no line without a picture
        step += 1
    assert seen == {(), (0,), (0, 1)}
    assert whole_pictures(tmp_path / str(step), captions) == [0, 1]
    assert not leftovers(tmp_path / str(step))


@posix
@pytest.mark.parametrize("captions", ["txt", "metadata.jsonl"])
def test_process_killed_while_it_writes_a_file_leaves_no_part_of_it(tmp_path, captions):
    """The system kills a process at the byte where a file grows beyond its limit."""
    import resource

    for size in (0, 10, 300, 5000, 7000):
        folder = tmp_path / str(size)

        def limited(size=size, folder=folder):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            draw(folder, captions)

        assert os.WIFSIGNALED(in_a_child(limited)) is (size < 7000)
        before = whole_pictures(folder, captions)
        draw(folder, captions, first=7)
        assert whole_pictures(folder, captions) == [*before, 7, 8]


@posix
def test_line_that_was_not_finished_is_gone_when_the_next_is_written(tmp_path):
    line = b'{"file_name": "a.png", "text": "an apple"}\n'
    (tmp_path / "a.png").write_bytes(b"1")
    for size in range(len(line)):
        (tmp_path / "metadata.jsonl").write_bytes(line + line[:size])
        SetWriter(tmp_path, "metadata.jsonl", 1).add("b", "png", b"2", "a pear")
        lines = (tmp_path / "metadata.jsonl").read_bytes().splitlines(keepends=True)
        assert [json.loads(line)["text"] for line in lines[-1:]] == ["a pear"]
        assert len(lines) == 2 + (size == len(line) - 1)


@pytest.mark.parametrize("end", [b"", b"# mine", b'{"file_name": "away.png", "text": "moved by its owner"}\n', b"[1"])
def test_lines_of_others_stay(tmp_path, end):
    before = b'{"file_name": "a.png", "text": "an apple"}\n' + end
    (tmp_path / "metadata.jsonl").write_bytes(before)
    SetWriter(tmp_path, "metadata.jsonl", 1).add("b", "png", b"2", "a pear")
    assert (tmp_path / "metadata.jsonl").read_bytes().startswith(before)


def no_links(*_):
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_no_file_is_overwritten_and_nothing_else_is_left(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    write_new(tmp_path / "a", b"1")
    with pytest.raises(FileExistsError) as failure:
        write_new(tmp_path / "a", b"2")
    assert failure.value.filename == str(tmp_path / "a")
    os.symlink("nowhere", tmp_path / "b")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "b", b"2")
    replace(tmp_path / "a", b"3")
    assert (tmp_path / "a").read_bytes() == b"3"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_name_that_another_run_is_writing_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    with whole_files.reserved(tmp_path / "a"):
        with pytest.raises(FileExistsError):
            write_new(tmp_path / "A", b"2")  # the same file on many disks
        write_new(tmp_path / "b", b"3")
    write_new(tmp_path / "a", b"1")


def test_files_are_readable_for_whom_the_user_says(tmp_path):
    write_new(tmp_path / "a", b"1")
    (tmp_path / "b").write_bytes(b"1")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_hidden_files_of_killed_runs_are_removed_when_they_are_surely_old(tmp_path):
    names = [".hierdiff-0123456789abcdef.part", ".hierdiff-fedcba9876543210.part", ".other-0.part", "old.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"1")
    for name in names[1:]:
        os.utime(tmp_path / name, (time.time() - 7200,) * 2)
    SetWriter(tmp_path, "none", 1).add("a", "png", b"1", "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[0], *names[2:], "a.png"])


def test_trial_finds_what_would_go_wrong_and_leaves_nothing(tmp_path):
    try_writing(tmp_path / "new" / "a.json")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(OSError, match="too long") as failure:
        try_writing(tmp_path / "new" / ("ü" * 200 + ".json"))
    assert failure.value.filename.endswith("ü.json")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"exists|directory"):
        try_writing(tmp_path / "file" / "a.json")
    assert list((tmp_path / "new").iterdir()) == []
