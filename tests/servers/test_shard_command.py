"""``hierdiff shard``, against servers that are dead, slow, refusing, forgetful or lying."""

import json
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_servers import INFOS, SAMPLER, SAVE, SET, SHARD, FakeServer, a_workflow

from hierdiff_core import shard_command
from hierdiff_core.__main__ import main
from hierdiff_core.servers import board, run
from hierdiff_core.servers.client import Server, words
from hierdiff_core.servers.folder import STAGE, STATE, Liar, SetFolder, checked_files, checked_parts, merged
from hierdiff_core.servers.workflow import check_prompt, missing_choices, split


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(run, "SOONEST", 0.01)
    monkeypatch.setattr(run, "LATEST", 0.02)
    monkeypatch.setattr(board, "LEAST_SLOW", 0.0)


@pytest.fixture
def serve():
    with ExitStack() as stack:
        yield lambda *args, **behaviour: stack.enter_context(FakeServer(*args, **behaviour))


@pytest.fixture
def command(tmp_path, capsys):
    """Runs the command with a workflow on servers; gives its exit code and what it says."""

    def start(servers, *more, workflow=None, out="out"):
        file = tmp_path / "workflow.json"
        file.write_text(json.dumps(a_workflow() if workflow is None else workflow))
        addresses = ",".join(getattr(server, "address", server) for server in servers)
        code = main(["shard", str(file), "--servers", addresses, "--out", str(tmp_path / out), *more])
        said = capsys.readouterr()
        return code, said.out + said.err

    start.out = tmp_path / "out"
    return start


def collected(folder):
    """The files of a set, but for the note."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_whole(folder, count):
    files = collected(folder)
    numbers = range(2, 2 * count + 2)
    pictures = {f"cats/{i:04d}.png": f"picture {i:04d}.png of {count}".encode() for i in numbers}
    lines = [json.loads(line) for line in files.pop("cats/metadata.jsonl").splitlines()]
    assert lines == [{"file_name": f"{i:04d}.png", "text": f"caption {i:04d}.png"} for i in numbers]
    assert set(files) - {STATE, ".hierdiff-lock"} <= set(pictures) | {"hierdiff.lock", ".hierdiff.lock"}
    assert {name: files[name] for name in pictures} == pictures


# --- Whole runs


def test_shards_are_spread_over_the_servers_and_collected(serve, command):
    servers = [serve(holds=True), serve()]

    def release():
        servers[1].wait_until_queued()
        servers[0].release.set()

    helper = threading.Thread(target=release)
    helper.start()
    code, said = command(servers, "--slow", "1000000")
    helper.join()
    assert code == 0, said
    assert_whole(command.out, 6)
    assert sorted(servers[0].drawn + servers[1].drawn) == [1, 2, 3, 4, 5, 6]
    assert all(server.drawn for server in servers)
    assert "18 files of 6 shards" in said
    assert "put a Plan Shard behind node 4" in said


def test_a_second_start_draws_nothing_again(serve, command):
    server = serve()
    assert command([server], "--shards", "2")[0] == 0
    assert command([server])[0] == 0
    assert server.drawn == [1, 2]
    assert_whole(command.out, 2)


def test_what_a_dead_server_leaves_is_drawn_by_the_others_and_nothing_twice(serve, command):
    dying, other = serve(holds=True), serve()

    def kill():
        dying.wait_until_queued()
        dying.die()

    killer = threading.Thread(target=kill)
    killer.start()
    code, said = command([dying, other], "--shards", "4", "--patience", "0.05")
    killer.join()
    assert code == 0, said
    assert_whole(command.out, 4)
    assert sorted(other.drawn) == [1, 2, 3, 4]
    assert f"{dying.address} is left out" in said


def test_a_server_that_is_silent_from_the_start_is_told_of_and_left_out(serve, command):
    dead = FakeServer()
    dead.http.server_close()
    code, said = command([dead.address, serve()], "--shards", "2")
    assert code == 0
    assert f"{dead.address} does not answer" in said
    assert "the others draw without it" in said
    code, said = command([dead.address], out="none")
    assert code == 1
    assert "no server answers" in said


def test_a_server_that_refuses_is_named_and_left_out(serve, command):
    code, said = command([serve(refuses="not today"), serve()], "--shards", "3")
    assert code == 0
    assert "it refuses the workflow: HTTP 400: not today" in said
    assert_whole(command.out, 3)


def test_a_shard_that_fails_on_one_server_is_drawn_by_another(serve, command):
    code, said = command([serve(fails="out of memory"), serve()], "--shards", "2")
    assert code == 0, said
    assert_whole(command.out, 2)


def test_a_workflow_that_fails_everywhere_ends_with_its_reason(serve, command):
    code, said = command([serve(fails="count must be at most 2"), serve(fails="count must be at most 2")])
    assert code == 1
    assert f"node 5 ({SAMPLER}): count must be at most 2" in said
    assert "6 of 6 shards are missing" in said


def test_a_server_that_was_started_again_gives_its_shard_up(serve, command):
    """The other one draws it; this one is not out of the game for it."""
    forgetful, other = serve(forgets=True), serve()
    threading.Timer(0.3, lambda: forgetful.behaviour.update(forgets=False)).start()
    code, said = command([forgetful, other], "--shards", "3")
    assert code == 0, said
    assert_whole(command.out, 3)


def test_what_a_slow_server_has_is_drawn_by_a_free_one_too(serve, command):
    slow, fast = serve(holds=True), serve()
    code, said = command([slow, fast], "--shards", "3", "--slow", "1")
    assert code == 0, said
    assert_whole(command.out, 3)
    assert sorted(fast.drawn) == [1, 2, 3]
    assert slow.cancelled == list(slow.queued)  # nobody waits for it any more


def test_ctrl_c_cancels_what_is_queued_and_the_next_start_goes_on(serve, command, monkeypatch):
    done, held = serve(), serve(holds=True)

    def pause(self):
        if held.queued and len(self.board.done) == 2:
            raise KeyboardInterrupt
        self.stop.wait(0.01)

    with monkeypatch.context() as patch:
        patch.setattr(board, "LEAST_SLOW", 1e9)
        patch.setattr(run.ShardRun, "_pause", pause)
        code, said = command([done, held], "--shards", "3")
    assert code == 130
    assert "the same command goes on" in said
    assert held.cancelled == list(held.queued)
    assert len(done.drawn) == 2
    held.behaviour["holds"] = False
    assert command([done, held])[0] == 0
    assert_whole(command.out, 3)
    assert len(done.drawn) + len(held.drawn) - len(held.cancelled) == 3


def test_what_an_earlier_start_has_queued_is_waited_for_and_not_queued_again(serve, command, tmp_path):
    """As after kill -9 of the command: the server goes on drawing."""
    server = serve(holds=True)
    workflow = split(check_prompt(a_workflow()), INFOS)
    folder = SetFolder.begun(command.out, workflow.digest, 2, 2)
    Server(server.address).queue(workflow.shard(1, 2, "run-1"), "id-1")
    folder.note_running(1, server.address, "id-1", "run-1")
    folder.note_running(2, "gone:8188", "id-2", "run-2")
    server.release.set()
    assert command([server])[0] == 0
    assert server.drawn == [1, 2]
    assert_whole(command.out, 2)


# --- Servers that are not believed


@pytest.mark.parametrize(
    "path",
    [
        "../../.bashrc",
        "set/../../evil.png",
        "/etc/passwd.png",
        "set//x.png",
        "set/cats/.hidden.png",
        "set/cats/evil.exe",
        "set/cats/evil",
        "set/cats/a\\b.png",
        "set/cats/C:evil.png",
        "set/cats/NUL.png",
        "set/cats/x.png ",
        "set/cats/x\n.png",
        "elsewhere/x.png",
        "set",
        "x.png",
        "set/" + "d/" * 20 + "x.png",
        "set/" + "x" * 2000 + ".png",
        "set/" + "é" * 200 + ".png",
        None,
        5,
        "",
    ],
)
def test_paths_that_lead_elsewhere_are_refused(path):
    with pytest.raises(Liar, match="names a file"):
        checked_parts(path)


def test_paths_that_are_written_pass():
    assert checked_parts("set/cats/0001_a red cat.png") == ("set", "cats", "0001_a red cat.png")
    assert checked_parts("other/ComfyUI_00001_.png") == ("other", "ComfyUI_00001_.png")


DIGEST = "0" * 32


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({}, "lists no files"),
        ({"files": []}, "lists no files"),
        ([1], "lists no files"),
        ({"files": [{"path": "set/x.png", "size": -1, "digest": DIGEST}]}, "has the size -1"),
        ({"files": [{"path": "set/x.png", "size": True, "digest": DIGEST}]}, "has the size"),
        ({"files": [{"path": "set/x.png", "size": 2**60, "digest": DIGEST}]}, "has the size"),
        ({"files": [{"path": "set/metadata.jsonl", "size": 2**33, "digest": DIGEST}]}, "has the size"),
        ({"files": [{"path": "set/x.png", "size": 1, "digest": "x"}]}, "has no digest"),
        ({"files": [{"path": f"set/{x}.png", "size": 1, "digest": DIGEST} for x in "xX"]}, "twice"),
    ],
)
def test_lists_that_are_none_are_refused(answer, message):
    with pytest.raises(Liar, match=message):
        checked_files(answer)


LIES = {
    "a path outside": lambda files: [{**files[0], "path": "set/../../../evil.png"}, *files[1:]],
    "another size": lambda files: [{**files[0], "size": files[0]["size"] + 1}, *files[1:]],
    "another digest": lambda files: [{**files[0], "digest": DIGEST}, *files[1:]],
    "a smaller size": lambda files: [{**files[0], "size": 1}, *files[1:]],
    "the note": lambda files: [*files, {**files[0], "path": f"set/{STATE}"}],
    "nothing": lambda files: [],
}


@pytest.mark.parametrize("lie", list(LIES))
def test_of_a_server_that_lies_nothing_is_kept(serve, command, lie):
    code, said = command([serve(lists=LIES[lie]), serve()], "--shards", "2", "--patience", "0.05")
    assert code == 0, said
    assert "is left out" in said
    assert_whole(command.out, 2)
    assert not list(Path(command.out).parent.rglob("evil*"))
    assert not (command.out / STAGE).exists()


def test_a_server_cannot_overwrite_what_is_there(serve, command):
    command.out.mkdir()
    (command.out / "cats").mkdir()
    mine = command.out / "cats" / "0002.png"
    mine.write_bytes(b"mine")
    code, said = command([serve()], "--shards", "1")
    assert code == 1
    assert "names a file that is there already" in said
    assert mine.read_bytes() == b"mine"


def test_a_server_does_not_send_the_command_elsewhere(serve):
    """A redirect is an error."""
    other = serve()

    class Sent(FakeServer):
        pass

    server = serve()
    handler = server.http.RequestHandlerClass

    def do_GET(self):
        self.send_response(302)
        self.send_header("Location", f"http://{other.address}/system_stats")
        self.end_headers()

    handler.do_GET = do_GET
    with pytest.raises(ValueError, match="HTTP 302"):
        Server(server.address).get("/system_stats")


def test_what_a_server_says_is_one_short_line():
    assert words("a\x1b[31m\n\tb" + "x" * 9000).startswith("a [31m b")
    assert len(words("x" * 9000)) < 600


# --- Before anything is queued


def test_servers_without_the_pack_or_of_another_version_are_named(serve, command):
    good, none, other = serve(), serve(code=None), serve(code="v2")
    lacking = serve(infos={name: own for name, own in INFOS.items() if name != SAMPLER})
    choice = {**INFOS[SAMPLER]["input"]["required"], "scheduler": [["Euler"], {}]}
    without = serve(infos={**INFOS, SAMPLER: {**INFOS[SAMPLER], "input": {"required": choice}}})
    code, said = command([good, none, other, lacking, without])
    assert code == 1
    assert "nothing was queued" in said
    assert f"{none.address} has no HierDiff" in said
    assert f"{other.address} has another version of HierDiff than {good.address}" in said
    assert f"{lacking.address} lacks the nodes {SAMPLER}" in said
    assert f"{without.address} cannot run it: scheduler of node 5 ({SAMPLER}): no 'DDPM'" in said
    assert not any(server.queued for server in (good, none, other, lacking, without))


def test_choices_are_known_in_the_spelling_of_each_host():
    spec = ["COMBO", {"options": ["a", "b"]}]
    infos = {"X": {"input": {"required": {"one": spec, "two": [["a"], {}], "three": ["STRING"]}}}}
    prompt = {"1": {"class_type": "X", "inputs": {"one": "c", "two": "c", "three": "c"}}}
    assert [line.split()[0] for line in missing_choices(prompt, infos)] == ["one", "two"]


def changed(**nodes):
    return {**a_workflow(), **nodes}


UNFIT = {
    "no API format": ([1, 2], "no workflow in API format: in ComfyUI, save it by Workflow > Export"),
    "a link to nothing": (changed(**{"2": {"class_type": SET, "inputs": {"x": ["9", 0]}}}), "comes from node 9"),
    "nothing saved": ({k: v for k, v in a_workflow().items() if k != "6"}, "the workflow saves nothing"),
    "names without a number": (
        changed(**{"6": {"class_type": SAVE, "inputs": {**a_workflow()["6"]["inputs"], "name": "{prompt}"}}}),
        "must have {index}",
    ),
    "a folder by a link": (
        changed(**{"6": {"class_type": SAVE, "inputs": {**a_workflow()["6"]["inputs"], "folder": ["1", 0]}}}),
        "folder of node 6 (HierDiffSaveSet) is connected",
    ),
    "two plans": (
        changed(
            **{
                "7": {"class_type": "HierDiffPlanGuidance", "inputs": {"plan": ["4", 0]}},
                "8": {"class_type": SAMPLER, "inputs": {"plan": ["7", 0], "scheduler": "DDPM", "embeddings": ["2", 0]}},
            }
        ),
        "draws 2 plans (of nodes 4, 7)",
    ),
    "no plan": (
        {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}},
        "has no plan that can be split",
    ),
}


@pytest.mark.parametrize("what", list(UNFIT))
def test_workflows_that_cannot_be_split_say_why(serve, command, what):
    workflow, message = UNFIT[what]
    server = serve()
    code, said = command([server], workflow=workflow)
    assert code == 1
    assert message in said
    assert not server.queued


def test_a_shard_is_put_behind_the_last_plan_and_savers_take_its_prompts():
    workflow = changed(
        **{
            "7": {"class_type": "HierDiffPlanGuidance", "inputs": {"plan": ["4", 0]}},
            "5": {"class_type": SAMPLER, "inputs": {"plan": ["7", 0], "scheduler": "DDPM", "embeddings": ["2", 0]}},
            "8": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "sheet"}},
        }
    )
    made = split(check_prompt(workflow), INFOS)
    (number,) = [n for n, node in made.prompt.items() if node["class_type"] == SHARD]
    assert made.prompt[number]["inputs"] == {"plan": ["7", 0], "prompts": ["1", 0], "index": 0, "count": 1}
    assert made.prompt["5"]["inputs"]["plan"] == [number, 0]
    assert made.prompt["7"]["inputs"]["plan"] == ["4", 0]
    assert made.prompt["6"]["inputs"]["prompts"] == [number, 1]
    assert made.prompt["2"]["inputs"]["prompts"] == ["1", 0]  # the whole set is embedded
    shard = made.shard(2, 3, "run")
    assert shard[number]["inputs"]["index"] == 2
    assert shard["6"]["inputs"]["folder"] == "hierdiff_shards/run/set/cats"
    assert shard["8"]["inputs"]["filename_prefix"] == "hierdiff_shards/run/other/sheet"
    assert made.prompt["6"]["inputs"]["folder"] == "cats"


def test_a_plan_shard_that_is_there_is_set(serve, command):
    workflow = split(check_prompt(a_workflow()), INFOS).prompt
    server = serve()
    code, said = command([server], "--shards", "2", workflow=workflow)
    assert code == 0
    assert "put a Plan Shard" not in said
    assert server.drawn == [1, 2]


def test_another_workflow_or_number_of_shards_does_not_go_into_the_same_folder(serve, command):
    server = serve()
    assert command([server], "--shards", "2")[0] == 0
    code, said = command([server], "--shards", "3")
    assert code == 1
    assert "was begun with 2 shards, not 3" in said
    workflow = changed(**{"1": {"class_type": SET, "inputs": {"text": "others"}}})
    code, said = command([server], workflow=workflow)
    assert code == 1
    assert "the shards of another workflow" in said
    (command.out / STATE).write_text("[]")
    assert "is no note of shards" in command([server])[1]


@pytest.mark.parametrize(
    ("servers", "message"),
    [
        ("", "--servers must be 1 to"),
        ("a,a:8188", "a:8188 twice"),
        ("http://user:word@a", "without names, passwords"),
        ("ftp://a", "servers must be addresses such as"),
        ("a b", "without names, passwords or spaces"),
        ("a:99999", "servers must be addresses such as"),
    ],
)
def test_addresses_that_are_none_are_refused(command, servers, message):
    code, said = command([servers])
    assert code == 1
    assert message in said


def test_addresses_are_completed():
    assert Server("10.0.0.5").url == "http://10.0.0.5:8188"
    assert Server("https://name/comfy/").url == "https://name/comfy"
    assert Server(" name:80 ").url == "http://name:80"
    assert Server("[::1]:8188").url == "http://[::1]:8188"


def test_files_of_a_whole_shard_get_their_places_after_a_kill(tmp_path):
    folder = SetFolder.begun(tmp_path, "x", 2, 2)
    stage = tmp_path / STAGE / "shard-2"
    (stage / "set" / "cats").mkdir(parents=True)
    (stage / "set" / "cats" / "0004.png").write_bytes(b"4")
    (stage / "other").mkdir()
    (stage / "other" / "sheet_1.png").write_bytes(b"s")
    folder = SetFolder.begun(tmp_path, "x", None, 9)
    assert set(folder.done) == {2}
    assert (tmp_path / "cats" / "0004.png").read_bytes() == b"4"
    assert (tmp_path / "shard-002" / "sheet_1.png").read_bytes() == b"s"
    assert not stage.exists()


def test_lines_of_captions_are_put_together_in_order():
    one, two = b'{"file_name": "b.png", "text": "B", "mine": 1}\n', b'junk\n{"file_name": "a.png", "text": "A"}\n'
    lines = merged(one, two).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"file_name": "a.png", "text": "A"},
        {"file_name": "b.png", "text": "B", "mine": 1},
    ]
    assert merged(merged(one, two), two) == merged(one, two)


def test_a_workflow_as_the_page_saves_it_is_converted_where_the_pack_is_checked_out(serve, command, monkeypatch):
    def node(number, kind, values=(), **slots):
        inputs = [{"name": name, "type": "*", "link": link} for name, link in slots.items()]
        return {"id": number, "type": kind, "widgets_values": list(values), "inputs": inputs, "outputs": []}

    links = [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 3, 0, "*"], [3, 3, 0, 4, 0, "*"], [4, 4, 0, 5, 0, "*"]]
    links += [[5, 2, 0, 5, 1, "*"], [6, 5, 0, 6, 0, "*"], [7, 1, 0, 6, 1, "*"]]
    nodes = [
        node(1, SET, ["a cat\na dog"]),
        node(2, "HierDiffPriorEmbedding", prompts=1),
        node(3, "HierDiffWardLinkage", embeddings=2),
        node(4, "HierDiffThresholdSchedule", linkage=3),
        node(5, SAMPLER, ["DDPM"], plan=4, embeddings=5),
        node(6, SAVE, ["cats"], images=6, prompts=7),
    ]
    server, saved = serve(), {"nodes": nodes, "links": links, "version": 0.4}
    code, said = command([server], "--shards", "2", workflow=saved)
    assert code == 0, said
    assert_whole(command.out, 2)
    monkeypatch.setattr(shard_command, "CONVERTER", Path("nowhere.py"))
    code, said = command([server], workflow=saved, out="other")
    assert code == 1
    assert "not in API format: in ComfyUI, save it by Workflow > Export (API)" in said


def test_a_file_that_is_no_workflow_says_so(command, tmp_path, capsys):
    (tmp_path / "broken.json").write_text("{")
    assert main(["shard", str(tmp_path / "broken.json"), "--servers", "a"]) == 1
    assert "is no JSON" in capsys.readouterr().err
    assert main(["shard", str(tmp_path / "missing.json"), "--servers", "a"]) == 1
    assert "missing.json" in capsys.readouterr().err
