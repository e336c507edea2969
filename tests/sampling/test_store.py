"""The store: in memory, on disk, and what goes wrong with either."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from hierdiff_core import Store
from hierdiff_core.files import whole_files
from hierdiff_core.sampling import row_files, trunk_files
from hierdiff_core.sampling import store as store_module
from hierdiff_core.sampling.store import ROW_COSTS, session_store
from hierdiff_core.sampling.trunk_files import TrunkFolder

ROOT = Path(__file__).parent.parent.parent
MANY = 2**24
PARTS = {"model": "a", "sampler": "euler", "size": "64x64", "seed": "1"}


def row(number, size=16):
    return torch.full((size,), float(number))


def filled(store, numbers, branch=None):
    for number in numbers:
        store.put(b"row %d" % number, row(number), branch or b"branch %d" % number)
    return store


def kept(store, numbers):
    return [number for number in numbers if store.get(b"row %d" % number) is not None]


def room_for(rows):
    return rows * (row(0).nbytes + ROW_COSTS)


def test_rows_come_back_bit_identical():
    store = Store(MANY)
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64):
        own = (torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0)) * 100).to(dtype)
        store.put(str(dtype).encode(), own, b"x")
        found = store.get(str(dtype).encode())
        assert found.dtype == dtype
        assert torch.equal(found, own)
    own = torch.tensor([float("nan"), float("inf"), -0.0])
    store.put(b"odd", own, b"x")
    assert torch.equal(store.get(b"odd").view(torch.int32), own.view(torch.int32))


def test_a_row_is_a_copy():
    store, own = Store(MANY), row(1)
    store.put(b"x", own, b"x")
    own.zero_()
    assert torch.equal(store.get(b"x"), row(1))


def test_what_is_held_is_told():
    store = filled(Store(MANY), range(3))
    assert (store.rows, store.held) == (3, room_for(3))
    filled(store, range(3))  # again
    assert (store.rows, store.held) == (3, room_for(3))
    store.clear()
    assert (store.rows, store.held, kept(store, range(3))) == (0, 0, [])


def test_least_recently_used_branches_go_first():
    store = filled(Store(room_for(3)), range(3))
    store.get(b"row 0")
    filled(store, [3])
    assert kept(store, range(4)) == [0, 2, 3]
    assert store.notes == []


def test_rows_of_a_branch_go_together():
    store = filled(Store(room_for(4)), [0, 1, 2], b"long")
    filled(store, [3, 4])
    assert kept(store, range(5)) == [3, 4]


def test_a_smaller_budget_takes_effect_at_once():
    store = filled(Store(MANY), range(4))
    store.budget = room_for(2)
    assert kept(store, range(4)) == [2, 3]


def test_rows_of_the_present_run_stay_and_the_report_says_what_did_not_fit():
    """A run that is larger than the budget would else find nothing when it runs again."""
    store = Store(room_for(3))
    store.begin(PARTS, "node")
    filled(store, range(5))
    assert kept(store, range(5)) == [0, 1, 2]
    (note,) = store.notes
    assert "is too small for all rows of this run; the others are evaluated again next time" in note
    store.begin(PARTS, "node")
    assert store.notes == []
    assert store.reserve([b"row 1", b"row 9"]) == 1
    filled(store, [7, 8])
    assert kept(store, range(9)) == [1, 7, 8]


def test_a_budget_too_small_for_one_row_is_told_once():
    store = Store(100)
    filled(store, range(3))
    assert store.rows == 0
    assert store.notes == [
        "the store of 100 bytes is too small for a single row of 576 bytes; the others are evaluated again next time"
    ]


def test_what_is_missing_is_told_without_a_touch():
    store = filled(Store(room_for(2)), [0, 1])
    assert store.missing([b"row 0", b"row 5", b"row 1", b"row 6"]) == [1, 3]
    filled(store, [2])
    assert kept(store, range(3)) == [1, 2]


def test_why_nothing_can_be_reused_is_told():
    store = Store(MANY)
    assert store.begin(PARTS, "3") == ""
    assert store.begin(PARTS, "3") == ""
    assert store.begin({**PARTS, "sampler": "heun"}, "3") == "the sampler changed: nothing could be reused"
    other = {**PARTS, "sampler": "uni_pc", "size": "128x64", "seed": "2"}
    assert store.begin(other, "3") == "the sampler, the size and the seed changed: nothing could be reused"
    assert store.begin(PARTS, "3") == ""  # as it was before
    assert store.begin({**PARTS, "model": "b"}, "4") == ""  # another node's first run


def test_many_threads_may_use_a_store():
    store, failed = Store(room_for(20)), []

    def work(number):
        try:
            for turn in range(200):
                store.put(b"%d %d" % (number, turn % 30), row(turn % 30), b"%d" % (turn % 7))
                found = store.get(b"%d %d" % (number, turn % 11))
                assert found is None or torch.equal(found, row(turn % 11))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert store.held <= store.budget


def test_nothing_waits_for_a_device_but_who_asks_for_what_it_is_busy_with(monkeypatch):
    class Busy:
        """A copy that is here when somebody has waited for it, or the device is done."""

        done, waited = False, 0

        def __init__(self, tensor):
            self.copy = tensor

        @property
        def here(self):
            return Busy.done

        def wait(self):
            Busy.waited += not Busy.done
            return self.copy

    monkeypatch.setattr(store_module, "AsyncHostCopy", Busy)
    store = Store(MANY)
    for step in range(5):
        rows = torch.ones(2, 16, device="meta")
        assert store.get(b"row %d" % step) is None
        monkeypatch.setattr(Busy, "__init__", lambda self, tensor: setattr(self, "copy", torch.ones(tensor.shape)))
        store.put_rows([b"row %d" % step, b"other %d" % step], rows, [b"a", b"b"])
    assert Busy.waited == 0
    assert torch.equal(store.get(b"row 0"), torch.ones(16))
    assert Busy.waited == 5
    store.put_rows([b"row 5"], torch.ones(1, 16, device="meta"), [b"a"])
    Busy.done = True
    assert store.rows == 11
    assert Busy.waited == 5


def test_the_session_has_one_store_in_memory():
    assert session_store() is session_store()
    assert session_store().budget == 2 * 2**30
    assert session_store().folder is None


# --- on disk


def on_disk(path, budget=MANY, memory=MANY):
    return Store(memory, TrunkFolder(path / "trunk", budget))


def files(path):
    return sorted((path / "trunk").glob("*.trunk.safetensors"))


def test_rows_and_leaves_are_there_tomorrow(tmp_path):
    store = on_disk(tmp_path)
    store.begin(PARTS, "node")
    filled(store, range(3))
    half = torch.randn(2, 3).bfloat16()
    store.put(b"half", half, b"branch 0")
    pair = torch.randn(2, 5)
    condition = [[torch.randn(1, 77, 4), {"pooled_output": pair[0], "strength": 0.5, "area": (1, 2), "mask": None}]]
    store.leaves.put(7, b"pair", pair)
    store.leaves.put(8, b"condition", condition)
    store.flush()
    assert not list((tmp_path / "trunk").glob(".hierdiff-*"))
    again = on_disk(tmp_path)
    assert kept(again, range(4)) == [0, 1, 2]
    assert torch.equal(again.get(b"half"), half)
    assert again.get(b"half").dtype == torch.bfloat16
    assert torch.equal(again.leaves.get(again.leaves.find(7)), pair)
    ((tensor, rest),) = again.leaves.get(b"condition")
    assert torch.equal(tensor, condition[0][0])
    assert torch.equal(rest.pop("pooled_output"), pair[0])
    assert rest == {"strength": 0.5, "area": (1, 2), "mask": None}
    assert again.notes == []


def test_a_row_is_written_once(tmp_path):
    store = on_disk(tmp_path)
    filled(store, range(3)).flush()
    filled(store, range(3)).flush()
    again = filled(on_disk(tmp_path), range(3))
    again.flush()
    assert len(files(tmp_path)) == 1


def test_what_memory_has_no_room_for_is_on_disk(tmp_path):
    store = on_disk(tmp_path, memory=room_for(1))
    store.begin(PARTS, "node")
    filled(store, range(4)).flush()
    assert kept(store, range(4)) == [0, 1, 2, 3]
    assert store.rows == 1
    assert "they are on disk alone" in store.notes[0]


def test_another_model_is_named_and_none_of_its_rows_is_found(tmp_path):
    store = on_disk(tmp_path)
    store.begin(PARTS, "3")
    filled(store, range(3)).flush()
    again = on_disk(tmp_path)
    assert again.begin({**PARTS, "model": "b"}, "3") == "the model changed: nothing could be reused"
    assert again.begin(PARTS, "3") == ""
    assert on_disk(tmp_path).begin(PARTS, "another node") == ""


def test_least_recently_used_files_go_first(tmp_path):
    size = None
    for number in range(3):
        store = on_disk(tmp_path)
        filled(store, [number]).flush()
        size = size or files(tmp_path)[0].stat().st_size
        for age, path in enumerate(sorted(files(tmp_path), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, (1000 + age, 1000 + age))
    assert kept(on_disk(tmp_path), [0]) == [0]  # used now
    store = on_disk(tmp_path, budget=3 * size + 100)
    store.begin(PARTS, "node")
    filled(store, [3]).flush()
    assert kept(on_disk(tmp_path), range(4)) == [0, 2, 3]


def test_a_run_larger_than_its_folder_goes_on_and_says_so_once(tmp_path):
    store = on_disk(tmp_path, budget=1000)
    store.begin(PARTS, "node")
    for number in range(5):
        filled(store, [number]).flush()
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 1000
    assert kept(store, range(5)) == [0, 1, 2, 3, 4]
    (note,) = store.notes
    assert note.startswith("nothing more of this run is kept in the folder trunk (its ")
    assert note.endswith(" are full); the run goes on")


def test_a_full_disk_is_told_once_and_the_run_goes_on(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")

    store = on_disk(tmp_path)
    store.begin(PARTS, "node")
    filled(store, [0]).flush()
    monkeypatch.setattr(whole_files.os, "fsync", full)
    for number in (1, 2):
        filled(store, [number]).flush()
    assert kept(store, range(3)) == [0, 1, 2]
    told = f"nothing more of this run is kept in the folder trunk ({os.strerror(errno.ENOSPC)}); the run goes on"
    assert store.notes == [told]
    monkeypatch.undo()
    store.begin(PARTS, "node")
    filled(store, [3]).flush()  # there is room again
    assert kept(on_disk(tmp_path), range(4)) == [0, 3]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "trunk").write_text("a file")
    store = on_disk(tmp_path)
    filled(store, [0]).flush()
    assert kept(store, [0]) == [0]
    assert store.notes[0].startswith("nothing more of this run is kept in the folder trunk (")


def damage_end(path):
    path.write_bytes(path.read_bytes()[:-8])


def damage_row(path):
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def damage_header(path):
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def of_another_pack(path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, path)


def of_a_later_version(path):
    path.write_bytes(path.read_bytes().replace(b"hierdiff trunk 1", b"hierdiff trunk 2"))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (damage_end, "it is damaged"),
        (damage_row, "it is damaged"),
        (damage_header, "it is damaged"),
        (of_another_pack, "it holds something else, or is of another version of HierDiff"),
        (of_a_later_version, "it holds something else, or is of another version of HierDiff"),
        (empty, "it is damaged"),
    ],
)
def test_damaged_and_foreign_files_are_refused_by_name_and_cost_nothing(tmp_path, change, reason):
    filled(on_disk(tmp_path), [0]).flush()
    (path,) = files(tmp_path)
    change(path)
    filled(on_disk(tmp_path), [1]).flush()
    store = on_disk(tmp_path)
    store.begin(PARTS, "node")
    assert kept(store, [0, 1]) == [1]
    assert store.notes == [f"{path.name} in the folder trunk cannot be used: {reason}"]
    filled(store, [0]).flush()
    assert kept(on_disk(tmp_path), [0]) == [0]
    assert path.exists()


@pytest.mark.parametrize(
    "leaves",
    [
        '[{"key": "7", "digest": "aa"}]',
        '[{"key": 7, "digest": "xyz"}]',
        "[7]",
        "{}",
        "[" * 100_000,
        '[{"key": 7, "digest": "aa", "form": {"tensor": 5}, "names": [], "sums": []}]',
        '[{"key": 7, "digest": "aa", "form": {"call": 5}, "names": [], "sums": []}]',
        '[{"key": 7, "digest": "aa", "form": ' + '{"list": [' * 40 + "]}" * 40 + ', "names": [], "sums": []}]',
        '[{"key": 7, "digest": "aa", "form": {"value": [1]}, "names": [], "sums": []}]',
        '[{"key": 7, "digest": "aa", "form": {"tensor": 0}, "names": ["no"], "sums": ["no"]}]',
        '[{"key": 7, "digest": "aa", "form": {"tensor": 0}, "names": "no", "sums": 3}]',
    ],
)
def test_leaves_of_a_file_that_somebody_made_up_are_refused(tmp_path, leaves):
    from safetensors.torch import save_file

    (tmp_path / "trunk").mkdir()
    path = tmp_path / "trunk" / f"{'0' * 16}.trunk.safetensors"
    save_file({"leaf.0.0": torch.zeros(3)}, path, {"format": row_files.FORMAT, "run": "{}", "leaves": leaves})
    store = on_disk(tmp_path)
    store.begin(PARTS, "node")
    assert store.leaves.get(b"\xaa") is None
    assert store.notes == [f"{path.name} in the folder trunk cannot be used: it is damaged"]


def test_leaves_that_a_file_cannot_hold_stay_in_memory(tmp_path):
    store, code = on_disk(tmp_path), object()
    for digest, value in ((b"1", [code]), (b"2", torch.zeros(2, dtype=torch.complex64)), (b"3", {1: 2})):
        store.leaves.put(1, digest, value)
        assert store.leaves.get(digest) is value
    shared = torch.zeros(4)
    store.leaves.put(2, b"4", [shared, shared[:2]])
    store.flush()
    again = on_disk(tmp_path)
    assert [again.leaves.get(digest) is None for digest in (b"1", b"2", b"3", b"4")] == [True, True, True, False]


def test_files_that_are_nobody_elses_business_are_left_alone(tmp_path):
    (tmp_path / "trunk").mkdir()
    mine = tmp_path / "trunk" / "notes.safetensors"
    mine.write_text("mine")
    store = on_disk(tmp_path, budget=600)
    for number in range(3):
        filled(store, [number]).flush()
    assert mine.read_text() == "mine"


def test_two_stores_on_one_folder(tmp_path):
    one, two = on_disk(tmp_path), on_disk(tmp_path)
    one.begin(PARTS, "1")
    two.begin(PARTS, "1")
    filled(one, [0, 1]).flush()
    filled(two, [1, 2]).flush()
    for store in (one, two):
        store.begin(PARTS, "1")  # where what the other has written is found
        assert kept(store, range(3)) == [0, 1, 2]
    for path in files(tmp_path):
        path.unlink()  # as another process does
    one.clear()
    assert kept(one, range(3)) == []
    assert one.notes == []
    filled(one, [0]).flush()
    assert kept(on_disk(tmp_path), [0]) == [0]


def test_a_process_that_ends_writes_what_waits(tmp_path):
    code = (
        "import sys, torch\n"
        "from hierdiff_core import Store\n"
        "from hierdiff_core.sampling.trunk_files import TrunkFolder\n"
        "store = Store(2**24, TrunkFolder(sys.argv[1], 2**24)); store.put(b'row 0', torch.zeros(16), b'x')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "trunk")], cwd=ROOT, check=True)
    assert torch.equal(on_disk(tmp_path).get(b"row 0"), row(0))


def test_a_killed_process_loses_seconds_of_work_at_most(tmp_path):
    code = (
        "import sys, time, torch\n"
        "from hierdiff_core import Store\n"
        "from hierdiff_core.sampling.trunk_files import TrunkFolder\n"
        "store = Store(2**24, TrunkFolder(sys.argv[1], 2**24))\n"
        "for i in range(10**6):\n"
        "    store.put(b'row %d' % i, torch.full((16,), float(i)), b'x'); print(i, flush=True); time.sleep(0.01)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "trunk")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    said = []
    reader = threading.Thread(target=lambda: said.extend(process.stdout), daemon=True)
    reader.start()
    until = time.monotonic() + 60
    while not files(tmp_path) and time.monotonic() < until:
        time.sleep(0.05)
    written = len(said)
    process.kill()
    process.wait()
    store = on_disk(tmp_path)
    store.begin(PARTS, "node")
    found = kept(store, range(written))
    assert found
    assert found == list(range(len(found)))
    assert written - len(found) <= 3 * trunk_files.SECONDS / 0.01
    assert store.notes == []
