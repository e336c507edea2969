"""`make demo`: run the quick-start workflow in a real ComfyUI and collect its pictures and its report.

ComfyUI is found or fetched, started with this pack in it, given `workflows/hierdiff_quickstart.json`, and stopped
again. The results go to `demo_output/`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TextIO

import aiohttp  # among ComfyUI's own requirements
from comfyui_host import CPU_ARGS, REPO_ROOT, ComfyServer, PromptFailed, exit_on_sigterm
from workflow_api import WorkflowError, to_api

WORKFLOW = REPO_ROOT / "workflows" / "hierdiff_quickstart.json"
# Names what an earlier run wrote, so that a run deletes its own files and nobody else's.
MANIFEST = ".hierdiff_demo_files"
# File name -> the node whose preview it is.
FIGURES = {
    "contact_sheet.png": "HierDiffContactSheet",
    "dendrogram.png": "HierDiffWardLinkage",
    "schedule.png": "HierDiffThresholdSchedule",
    "tree.png": "HierDiffBranchingSampler",
}
RUN_TIMEOUT = 1800.0


class DemoFailed(RuntimeError):
    """The workflow ran, but did not give what the demo shows."""


# --- Run -----------------------------------------------------------------------------------------------------------


class ProgressLine:
    """Shows which node runs and how far it is: one changing line on a terminal, a few lines per node elsewhere."""

    def __init__(self, prompt: dict, stream: TextIO = sys.stdout):
        self.titles = {node_id: node["_meta"]["title"] for node_id, node in prompt.items()}
        self.stream = stream
        self.live = stream.isatty()
        self.shown: object = None
        self.closed = False

    def update(self, message: dict) -> None:
        """Show one message of ComfyUI's websocket, if it is about progress."""
        data = message.get("data") or {}
        title = self.titles.get(str(data.get("node")))
        if self.closed or title is None:
            return
        if message.get("type") == "executing":
            self._show(data["node"], f"{title} ...")
        elif message.get("type") == "progress":
            done, total = data["value"], data["max"]
            step = done if self.live else 4 * done // max(total, 1)
            self._show((data["node"], step), f"{title}: {done} of {total}")

    def _show(self, key: object, text: str) -> None:
        if key == self.shown:
            return
        self.shown = key
        self.stream.write(f"\r\033[K  {text}" if self.live else f"  {text}\n")
        self.stream.flush()

    def close(self) -> None:
        """Clear the line; messages that still come are not shown."""
        self.closed = True
        if self.live:
            self.stream.write("\r\033[K")


async def _follow(address: str, progress: ProgressLine, connected: threading.Event) -> None:
    # No limit on a message's size: previews come this way too.
    async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
        connected.set()
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                progress.update(json.loads(message.data))


def _watch(address: str, progress: ProgressLine, connected: threading.Event) -> None:
    with contextlib.suppress(aiohttp.ClientError, OSError):
        asyncio.run(_follow(address, progress, connected))


def run_with_progress(server: ComfyServer, prompt: dict, timeout: float = RUN_TIMEOUT) -> dict:
    """Run a prompt, showing its progress, and return its history entry; errors as for `ComfyServer.run`."""
    client_id, connected, progress = uuid.uuid4().hex, threading.Event(), ProgressLine(prompt)
    address = f"{server.url}/ws?clientId={client_id}"
    # Beside the run, not around it: the result must not depend on the websocket. It ends with the server.
    threading.Thread(target=_watch, args=(address, progress, connected), daemon=True).start()
    connected.wait(10)
    try:
        return server.wait(server.queue(prompt, client_id), timeout)
    finally:
        progress.close()


# --- Collect -------------------------------------------------------------------------------------------------------


class Results:
    """The outputs of a run, looked up by node type.

    Parameters
    ----------
    prompt : the API prompt that ran
    outputs : the history entry's `outputs`, what each node showed
    """

    def __init__(self, prompt: dict, outputs: dict):
        self.prompt = prompt
        self.outputs = outputs

    def of(self, class_type: str, key: str) -> list:
        """What the node of this type showed under `key` ("images", "text", ...).

        Raises
        ------
        DemoFailed  if the workflow has no such node, or it showed nothing under `key`.
        """
        nodes = [node_id for node_id, node in self.prompt.items() if node["class_type"] == class_type]
        if not nodes:
            raise DemoFailed(f"The workflow has no {class_type} node, whose {key!r} the demo shows.")
        for node_id in nodes:
            value = self.outputs.get(node_id, {}).get(key)
            if value:
                return [value] if isinstance(value, str) else list(value)
        raise DemoFailed(f"{class_type} (node {', '.join(nodes)}) ran, but showed no {key!r}.")

    def pictures(self) -> list[dict]:
        """The pictures, one for each prompt and in prompt order, from the node that saves or previews them."""
        for class_type in ("SaveImage", "PreviewImage"):
            for node_id, node in self.prompt.items():
                source = node["inputs"].get("images")
                if node["class_type"] != class_type or not isinstance(source, list):
                    continue
                shows_sheet = self.prompt[source[0]]["class_type"] == "HierDiffContactSheet"
                if not shows_sheet and self.outputs.get(node_id, {}).get("images"):
                    return self.outputs[node_id]["images"]
        raise DemoFailed("No SaveImage or PreviewImage node of the workflow gave the prompts' pictures.")


def picture_name(index: int, prompt: str) -> str:
    """A file name for the picture of a prompt: `03_a_red_fox.png` for index 2."""
    words = re.sub(r"[\W_]+", "_", prompt.lower()).strip("_")[:60].rstrip("_")
    return f"{index + 1:02d}_{words or 'picture'}.png"


def collect(server: ComfyServer, results: Results) -> dict[str, bytes]:
    """All files of the demo, by name.

    Raises
    ------
    DemoFailed  if an expected output is missing, or there is not one picture for each prompt.
    """
    prompts = [str(prompt) for prompt in results.of("HierDiffPromptSet", "prompts")]
    pictures = results.pictures()
    if len(pictures) != len(prompts):
        raise DemoFailed(f"{len(prompts)} prompts gave {len(pictures)} pictures; there must be one for each.")
    pairs = enumerate(zip(prompts, pictures, strict=True))
    files = {picture_name(index, text): server.view(image) for index, (text, image) in pairs}
    for name, class_type in FIGURES.items():
        files[name] = server.view(results.of(class_type, "images")[0])
    report = "\n".join(str(part) for part in results.of("HierDiffBranchingSampler", "text"))
    files["report.txt"] = (report.rstrip() + "\n").encode()
    return files


def write_results(folder: Path, files: dict[str, bytes]) -> None:
    """Write `files` into `folder`, removing first what an earlier run wrote there, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST
    if manifest.is_file():
        for name in manifest.read_text(encoding="utf-8").splitlines():
            if name and Path(name).name == name:
                (folder / name).unlink(missing_ok=True)
    # Before the files, so that an interrupted run's files are known too.
    manifest.write_text("\n".join(files) + "\n", encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_bytes(content)


# --- Command line --------------------------------------------------------------------------------------------------


def load_workflow(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DemoFailed(f"The workflow cannot be read: {error}") from None
    except ValueError as error:
        raise DemoFailed(f"{path} is not JSON: {error}") from None


def convert(server: ComfyServer, workflow: dict) -> dict:
    try:
        return to_api(workflow, server.object_info())
    except WorkflowError as error:
        # A pack that fails to import only shows as missing nodes; ComfyUI's log has the reason.
        lines = re.findall(r"^Cannot import .*custom_nodes.*$", server.log_text(), re.MULTILINE)
        raise DemoFailed("\n".join([str(error), *lines])) from None


def run_demo(workflow_path: Path, out: Path, device_args: tuple[str, ...]) -> None:
    """Run the workflow and write its results to `out`; see the module's description."""
    workflow = load_workflow(workflow_path)
    print("Starting ComfyUI ...", flush=True)
    with ComfyServer(device_args=device_args) as server:
        prompt = convert(server, workflow)
        print(f"Running {workflow_path.name}:", flush=True)
        started = time.monotonic()
        entry = run_with_progress(server, prompt)
        seconds = time.monotonic() - started
        files = collect(server, Results(prompt, entry["outputs"]))
    write_results(out, files)
    print(f"Done in {seconds:.0f} s.\n\n{files['report.txt'].decode()}")
    for name in files:
        print(out / name)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a HierDiff workflow in ComfyUI and collect its pictures.")
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="a workflow in UI format")
    parser.add_argument("--out", type=Path, default=REPO_ROOT / "demo_output", help="where the results go")
    parser.add_argument("--gpu", action="store_true", help="let ComfyUI use the GPU instead of the CPU")
    args = parser.parse_args()
    exit_on_sigterm()
    try:
        run_demo(args.workflow, args.out, () if args.gpu else CPU_ARGS)
    except (OSError, RuntimeError) as error:
        if isinstance(error, PromptFailed):
            # The innermost frames: the outer ones are ComfyUI's.
            print("\n".join(error.traceback.splitlines()[-12:]), file=sys.stderr)
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
