"""ComfyUI's page in a real Chromium: for the tests of the browser and for the pictures that show the page.

Needs Playwright (in requirements-dev.txt) and a Chromium: the system's, one named by CHROMIUM, or Playwright's own.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from comfyui_host import CACHE_DIR, ComfyServer
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

# Debian's headless one first: without a browser's own windows a page costs a fifth less.
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = """No Chromium was found. Install one, for example
    apt-get install chromium                      (Debian, Ubuntu)
    python -m playwright install chromium         (elsewhere, into Playwright's own folder)
or name one: CHROMIUM=/path/to/chrome."""
FRONT_END = "comfyui-frontend-package"
# What the page does without being asked would hide what is to be seen.
QUIET = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.0.0",
    "Comfy.Release.Status": "skipped",
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.WarnBlueprintOverwrite": False,
    "Comfy.VueNodes.Enabled": False,
    "Comfy.Workflow.Persist": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.RightSidePanel.IsOpen": False,
    # the server keeps settings: what another page chose must not stay
    "Comfy.Locale": "en",
    "Comfy.ColorPalette": "dark",
}
SIZE = {"width": 1600, "height": 1000}  # of a window, in pixels
# The panels of samplers, and of Threshold Schedule once it has a plan.
TREE_PANEL, PLOT_PANEL = ".hierdiff-panel[data-state]", ".hierdiff-panel[data-rows]"
ROOT_GRAPH = "(app.rootGraph ?? app.graph)"
# In the address of each of this pack's files, and in the names of its nodes, panels and routes.
OURS = re.compile(r"hierdiff", re.IGNORECASE)
CLOSE_PANELS = """async () => {
    const { sidebarTab, bottomPanel, setting } = app.extensionManager;
    sidebarTab.activeSidebarTabId = null;
    bottomPanel.bottomPanelVisible = false;
    LiteGraph.closeAllContextMenus(window);
    if (setting.get("Comfy.RightSidePanel.IsOpen")) await setting.set("Comfy.RightSidePanel.IsOpen", false);
}"""
CANVAS_IS_FREE = """() => {
    const { left, top, width, height } = document.querySelector("#graph-canvas").getBoundingClientRect();
    const shares = [[0.1, 0.2], [0.1, 0.5], [0.1, 0.8], [0.5, 0.2], [0.5, 0.5], [0.5, 0.8], [0.9, 0.2], [0.9, 0.5]];
    const at = ([x, y]) => document.elementFromPoint(left + x * width, top + y * height);
    return shares.every((share) => at(share)?.id === "graph-canvas");
}"""
CALLS_KEPT = 32  # asynchronous calls that Chromium remembers below an error
# Beside the page's own code: its requests that have no answer yet.
COUNT_REQUESTS = """(() => {
    const there = window.fetch;
    window.openRequests = 0;
    window.fetch = (...asked) => {
        window.openRequests++;
        return there.apply(window, asked).finally(() => window.openRequests--);
    };
})()"""
NOTE_ENDINGS = """() => {
    if (window.endedRuns) return;
    window.endedRuns = new Set();
    for (const ending of ["execution_success", "execution_error", "execution_interrupted"]) {
        app.api.addEventListener(ending, ({ detail }) => window.endedRuns.add(detail.prompt_id));
    }
}"""
# Of sixty frames a second, where the page was not told to make fewer.
FRAMES = """async (milliseconds) => {
    let count = Math.max(2, Math.round(milliseconds / (window.millisecondsOfFrame ?? 1000 / 60)));
    while (count--) await new Promise((next) => requestAnimationFrame(next));
}"""


def find_chromium(playwright: Playwright) -> str | None:
    """Path of a Chromium; None lets Playwright take its own, which is fetched where there is none at all.

    Raises
    ------
    RuntimeError  if there is none to be had; the message says how to get one.
    """
    named = os.environ.get("CHROMIUM")
    if named and not shutil.which(named):
        raise RuntimeError(f"CHROMIUM is {named!r}, which is no program.\n{NO_BROWSER}")
    for name in (named, *BROWSERS):
        if name and (path := shutil.which(name)):
            return path
    if not Path(playwright.chromium.executable_path).exists():
        print("Fetching Chromium with Playwright ...", file=sys.stderr)
        if subprocess.call([sys.executable, "-m", "playwright", "install", "chromium"]):
            raise RuntimeError(NO_BROWSER)
    return None


def newest_front_end(cache_dir: Path = CACHE_DIR) -> Path:
    """Folder of the newest front end that PyPI has, for ComfyUI's `--front-end-root`; fetched where it is not there.

    Raises
    ------
    RuntimeError  if pip cannot download it.
    """
    folder = cache_dir / "front_ends"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", scratch, FRONT_END]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wheels = list(Path(scratch).glob("*.whl"))
        if result.returncode or not wheels:
            raise RuntimeError(f"pip could not download {FRONT_END}:\n{result.stdout[-2000:]}")
        unpacked = folder / wheels[0].name.split("-")[1]
        if not unpacked.exists():
            with zipfile.ZipFile(wheels[0]) as archive:
                archive.extractall(Path(scratch) / "wheel")
            os.replace(Path(scratch) / "wheel" / "comfyui_frontend_package" / "static", unpacked)
    return unpacked


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium, closed at the end."""
    with sync_playwright() as playwright:
        path = find_chromium(playwright)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def new_window(browser: Browser, **context) -> BrowserContext:
    """A window with a cache and a storage of its own; `context` as for `comfyui_page`."""
    # A key press is enough for Chromium to let a page write to the clipboard, but not for its headless shell.
    window = browser.new_context(**{"viewport": SIZE, "permissions": ["clipboard-write"], **context})
    window.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")  # a bar above the page
    window.add_init_script(COUNT_REQUESTS)
    return window


@contextlib.contextmanager
def comfyui_page(
    browser: Browser,
    server: ComfyServer,
    *,
    settings: dict | None = None,
    window: BrowserContext | None = None,
    **context,
) -> Iterator[ComfyPage]:
    """ComfyUI's page in a window of its own.

    Parameters
    ----------
    settings : ComfyUI's settings, beside those that keep the page quiet
    window : an open one instead, whose storage is emptied: a page whose files are in its cache costs a third less
    context : Playwright's, such as `viewport`, `reduced_motion` or `device_scale_factor`
    """
    server.post("/settings", {**QUIET, **(settings or {})})
    with contextlib.ExitStack() as closing:
        if window is None:
            window = closing.enter_context(contextlib.closing(new_window(browser, **context)))
        page = ComfyPage(closing.enter_context(contextlib.closing(window.new_page())), server)
        page.forget()
        page.load()
        yield page


def text_of(argument: dict) -> str:
    """What the console shows of a value of the page; of an error with its own stack."""
    return str(argument.get("value", argument.get("description", argument.get("type", ""))))


def places(stack: dict | None) -> Iterator[str]:
    """The calls that led to an error, the last one first, through all that was waited for."""
    while stack:
        yield from (
            f"{frame['functionName']} {frame['url']}:{frame['lineNumber'] + 1}" for frame in stack["callFrames"]
        )
        stack = stack.get("parent")


class ComfyPage:
    """ComfyUI's page, as a user would handle it.

    Attributes
    ----------
    page : Playwright's page
    errors : errors that passed through this pack's files, or name something of it; not those that the host has alone
    refused : requests for this pack's files and routes that failed
    """

    def __init__(self, page: Page, server: ComfyServer):
        self.page = page
        self.server = server
        self.errors: list[str] = []
        self.refused: list[str] = []
        page.on("response", self._on_response)
        self._protocol = protocol = page.context.new_cdp_session(page)  # Playwright's own events have no stack
        protocol.on("Runtime.consoleAPICalled", self._on_console)
        protocol.on("Runtime.exceptionThrown", self._on_exception)
        protocol.send("Debugger.enable")  # for the asynchronous calls
        protocol.send("Debugger.setSkipAllPauses", {"skip": True})
        protocol.send("Debugger.setAsyncCallStackDepth", {"maxDepth": CALLS_KEPT})
        protocol.send("Runtime.enable")
        # not by Playwright's `route`, which switches the browser's cache off
        protocol.on("Fetch.requestPaused", self._answer_with_no_templates)
        protocol.send("Fetch.enable", {"patterns": [{"urlPattern": "*/templates/index*.json*"}]})

    def _answer_with_no_templates(self, request: dict) -> None:
        """The host's own templates are not installed (NOT_NEEDED): the page's list of them is empty, and no error."""
        answer = {"responseCode": 200, "responseHeaders": [{"name": "Content-Type", "value": "application/json"}]}
        with contextlib.suppress(PlaywrightError):  # the page that asked is gone
            self._protocol.send(
                "Fetch.fulfillRequest",
                {"requestId": request["requestId"], "body": base64.b64encode(b"[]").decode(), **answer},
            )

    def _on_console(self, message: dict) -> None:
        if message["type"] == "error":
            self._note(map(text_of, message["args"]), message)

    def _on_exception(self, message: dict) -> None:
        details = message["exceptionDetails"]
        self._note([details["text"], text_of(details.get("exception", {}))], details)

    def _note(self, texts: Iterable[str], details: dict) -> None:
        text = " ".join([*texts, *(f"\n    at {place}" for place in places(details.get("stackTrace")))])
        if OURS.search(text):
            self.errors.append(text)

    def _on_response(self, response) -> None:
        asked_in_vain = response.url.endswith("/en.md")  # a help page's first try; the page without language follows
        if response.status >= 400 and "hierdiff" in response.url.lower() and not asked_in_vain:
            self.refused.append(f"{response.status} {response.url}")

    def forget(self) -> None:
        """Empty what pages before this one stored in the same window."""
        stored = "cookies,local_storage,indexeddb,service_workers,cache_storage"
        self._protocol.send("Storage.clearDataForOrigin", {"origin": self.server.url, "storageTypes": stored})

    def leave(self) -> None:
        """Become a page that nobody has used: with nothing running, nothing stored and nothing noted."""
        self.page.unroute_all()
        self.page.mouse.move(0, 0)
        self.page.goto(f"{self.server.url}/system_stats")  # of the same origin: the next page is loaded by this process
        self.evaluate("sessionStorage.clear()")  # of this tab alone, which `forget` leaves
        self.forget()
        self.errors.clear()
        self.refused.clear()

    def load(self) -> None:
        """Open the page, or load it again, and wait until the graph can be used."""
        self.page.goto(self.server.url)
        self.page.wait_for_function(
            "window.app?.graph && window.app.extensionManager && app.extensions?.some((e) => e.name === 'hierdiff')"
        )
        self.page.wait_for_function("!document.querySelector('#vue-app .p-progressspinner')")
        self.settle(500)  # workflows of the last time are opened a moment later

    def settle(self, milliseconds: float = 300.0) -> None:
        """Wait until the page's requests are answered, then so long by its frames, which a busy machine delays."""
        with contextlib.suppress(PlaywrightTimeoutError):  # of another pack, or one that waits for something to happen
            self.page.wait_for_function("!window.openRequests", timeout=10_000)
        self.evaluate(FRAMES, milliseconds)

    def evaluate(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    # --- workflows ---

    def drop(self, name: str, data: bytes, kind: str) -> None:
        """Drop a file onto the canvas, and wait for its workflow."""
        before = self.evaluate(f"{ROOT_GRAPH}.id")
        transfer = self.page.evaluate_handle(
            """([text, name, type]) => {
                const transfer = new DataTransfer();
                const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
                transfer.items.add(new File([bytes], name, { type }));
                return transfer;
            }""",
            [base64.b64encode(data).decode(), name, kind],
        )
        self.page.dispatch_event("#graph-canvas", "drop", {"dataTransfer": transfer})
        self.page.wait_for_function(f"(before) => {ROOT_GRAPH}.id !== before", arg=before)
        self.settle()

    def drop_workflow(self, path: Path) -> None:
        kind = {".json": "application/json", ".webp": "image/webp", ".png": "image/png"}[path.suffix]
        self.drop(path.name, path.read_bytes(), kind)

    def load_graph(self, workflow: dict) -> None:
        """Open a workflow, as the page does with a file."""
        self.evaluate("(workflow) => app.loadGraphData(workflow)", workflow)
        self.settle()

    def serialized(self) -> dict:
        return json.loads(self.evaluate(f"JSON.stringify({ROOT_GRAPH}.serialize())"))

    def node_of(self, node_type: str) -> int:
        """Id of the first node of this type."""
        return self.evaluate("(type) => app.graph.nodes.find((node) => node.type === type).id", node_type)

    def set_value(self, node_type: str, name: str, value: object) -> None:
        """Type a value into a widget."""
        self.evaluate(
            """([type, name, value]) => {
                const node = app.graph.nodes.find((node) => node.type === type);
                const widget = node.widgets.find((widget) => widget.name === name);
                widget.value = value;
                widget.callback?.(value, app.canvas, node);
                app.graph.setDirtyCanvas(true, true);
            }""",
            [node_type, name, value],
        )

    def value_of(self, node_type: str, name: str) -> Any:
        return self.evaluate(
            """([type, name]) => app.graph.nodes.find((node) => node.type === type)
                .widgets.find((widget) => widget.name === name).value""",
            [node_type, name],
        )

    # --- runs ---

    def queue(self) -> str:
        """Press Run; the id of the prompt that was queued."""
        known = {item[1] for item in self._queue()} | set(self.server.get("/history"))
        self.evaluate(NOTE_ENDINGS)
        self.evaluate("app.queuePrompt(0)")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:  # the last few: the whole history grows with every run
            new = ({item[1] for item in self._queue()} | set(self.server.get("/history?max_items=3"))) - known
            if new:
                return new.pop()
            self.page.wait_for_timeout(50)
        raise TimeoutError("the page queued nothing")

    def _queue(self) -> list:
        queue = self.server.get("/queue")
        return queue["queue_running"] + queue["queue_pending"]

    def run(self, timeout: float = 300.0) -> dict:
        """Press Run and wait until the page has been told how it has ended; the history's entry."""
        prompt_id = self.queue()
        entry = self.wait(prompt_id, timeout)
        self.page.wait_for_function("(id) => window.endedRuns.has(id)", arg=prompt_id)
        self.settle()
        return entry

    def wait(self, prompt_id: str, timeout: float = 300.0) -> dict:
        """Wait for a queued prompt while the page goes on; errors as for `ComfyServer.wait`."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and not self.server.get(f"/history/{prompt_id}"):
            self.page.wait_for_timeout(100)  # the page's events are handled meanwhile
        return self.server.wait(prompt_id, 10)

    # --- what is seen ---

    def close_panels(self) -> None:
        """Close what the page opened beside or over the canvas, such as a node's help or menu.

        Raises
        ------
        playwright.sync_api.TimeoutError  if something still lies over the empty canvas: a click on a node would hit it.
        """
        self.evaluate(CLOSE_PANELS)
        self.page.wait_for_function(CANVAS_IS_FREE, timeout=10_000)  # messages go away by themselves

    def show(self, *node_ids: int, margin: float = 30.0, zoom: float | None = None) -> dict:
        """Bring nodes into sight (all of them where none is named); returns their place on the screen for `clip`."""
        return self.evaluate(
            """async ([ids, margin, zoom]) => {
                const named = ids.map(String);
                const nodes = app.graph.nodes.filter((node) => !ids.length || named.includes(String(node.id)));
                const lefts = nodes.map((node) => node.pos[0]);
                const tops = nodes.map((node) => node.pos[1] - LiteGraph.NODE_TITLE_HEIGHT);
                const rights = nodes.map((node) => node.pos[0] + node.size[0]);
                const bottoms = nodes.map((node) => node.pos[1] + (node.flags?.collapsed ? 0 : node.size[1]));
                const [left, top] = [Math.min(...lefts) - margin, Math.min(...tops) - margin];
                const [width, height] = [Math.max(...rights) + margin - left, Math.max(...bottoms) + margin - top];
                const canvas = app.canvas.canvas.getBoundingClientRect();
                const [side, bar] = [90, 110]; // the page's own bars lie over the canvas
                const fits = Math.min((canvas.width - side - 20) / width, (canvas.height - bar - 20) / height);
                const scale = Math.min(zoom ?? 1, fits);
                const { ds } = app.canvas;
                ds.scale = scale;
                ds.offset[0] = side / scale - left;
                ds.offset[1] = bar / scale - top;
                app.canvas.setDirty(true, true);
                for (let i = 0; i < 4; i++) await new Promise((next) => requestAnimationFrame(next));
                return {
                    x: canvas.left + side, y: canvas.top + bar, width: width * scale, height: height * scale,
                };
            }""",
            [list(node_ids), margin, zoom],
        )

    def screenshot(self, path: Path | None = None, clip: dict | None = None) -> bytes:
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
        return self.page.screenshot(path=path, clip=clip)
