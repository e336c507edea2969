"""Pages of a real ComfyUI in a real Chromium, for the tests of this folder.

Loading a page costs three seconds of a processor, and five where its process has not loaded it before: more than many
of these tests. A test that asks for a `shared` page gets one that stays open between tests, with an empty workflow in
it; any other gets one that loads anew in a process that has loaded it, with nothing stored. The browser, its windows
and the pages stay open until the tests of this folder are over.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from pathlib import Path

import pytest
from comfyui_host import REPO_ROOT, ComfyServer
from comfyui_page import QUIET, SIZE, ComfyPage, chromium, new_window, newest_front_end
from other_pack import write_pack
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

ARTIFACTS = REPO_ROOT / "test_artifacts" / "browser"
MOST_KEPT = 2
FRAMES_APART = 50  # milliseconds
# A running graph is painted anew in each frame, which sixty times a second costs more than what is tested with it.
FEWER_FRAMES = f"""(() => {{
    const [request, waiting] = [window.requestAnimationFrame.bind(window), new Map()];
    let count = 0;
    const frame = (time) => {{
        const callbacks = [...waiting.values()];
        waiting.clear();
        for (const callback of callbacks) {{
            try {{
                callback(time);
            }} catch (error) {{
                reportError(error);
            }}
        }}
    }};
    window.requestAnimationFrame = (callback) => {{
        if (!waiting.size) setTimeout(() => request(frame), {FRAMES_APART} - 1000 / 60);
        waiting.set(++count, callback);
        return count;
    }};
    window.cancelAnimationFrame = (id) => waiting.delete(id);
    window.millisecondsOfFrame = {FRAMES_APART};
}})()"""
# While something moves the browser lays out and paints the page sixty times a second: a third of what a run costs.
STILL = """addEventListener("DOMContentLoaded", () => {
    const style = document.createElement("style");
    style.textContent = "*, ::before, ::after { animation: none !important; transition: none !important }";
    document.head.append(style);
})"""
EMPTY = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "groups": [], "config": {}, "version": 0.4}
FAILED = pytest.StashKey[bool]()


def empty(page):
    """Open an empty workflow and close what lies over it."""
    page.load_graph({**EMPTY, "id": str(uuid.uuid4())})
    page.close_panels()


class Pages:
    """Pages of one server, some of which stay open between tests: one for each of the latest settings."""

    def __init__(self, browser, server):
        self.browser, self.server = browser, server
        self.kept = {}  # settings as a text -> page, what gives it back; the one used last at the end
        self.free = {}  # options of a window as a text -> pages that no test has
        self.spoilt = set()  # pages that no other test may have

    def share(self, settings):
        """The page with these settings that stays open, with an empty workflow; a new one where there is none."""
        settings = {**QUIET, **settings}
        page, lent = self.kept.pop(str(settings), (None, None))
        if page is None or not self.emptied(page, lent, settings):
            while len(self.kept) >= MOST_KEPT:
                self.drop(next(iter(self.kept.values()))[0])
            lent = self.new(settings=settings)
            page = lent.__enter__()
            empty(page)
        self.kept[str(settings)] = page, lent
        return page

    def emptied(self, page, lent, settings):
        """Whether a page that was open before could be emptied; one that has something over its graph is given up."""
        self.server.post("/settings", settings)  # the server keeps those of the page that came last
        page.errors.clear()
        page.refused.clear()
        page.page.mouse.move(0, 0)
        with contextlib.suppress(PlaywrightTimeoutError):
            empty(page)
            return True
        self.spoilt.add(page)
        lent.__exit__(None, None, None)
        return False

    @contextlib.contextmanager
    def new(self, *, settings=None, **options):
        """A page that has just been loaded, in a window that no other page is in."""
        free = self.free.setdefault(str(options), [])
        page = free.pop() if free else ComfyPage(self.new_window(**options).new_page(), self.server)
        self.server.post("/settings", {**QUIET, **(settings or {})})
        try:
            page.page.set_viewport_size(options.get("viewport", SIZE))
            page.forget()
            page.load()
            yield page
            if page not in self.spoilt:
                page.leave()
        except BaseException:
            self.spoilt.add(page)
            raise
        finally:
            if page in self.spoilt:
                page.page.context.close()
            else:
                free.append(page)

    def new_window(self, **options):
        window = new_window(self.browser, **options)
        window.add_init_script(FEWER_FRAMES)
        window.add_init_script(STILL)
        return window

    def close(self):
        """Close all that stays open."""
        for page, _ in list(self.kept.values()):
            self.spoilt.add(page)  # its server may be gone: nothing is to be left in it
            self.drop(page)
        for pages in self.free.values():
            for page in pages:
                page.page.context.close()
        self.free.clear()

    def drop(self, page):
        """Give back a page if it is one that stays open."""
        for settings, (kept, lent) in list(self.kept.items()):
            if kept is page:
                del self.kept[settings]
                lent.__exit__(None, None, None)


class Opened:
    """The browser of this folder's tests and the windows of one server, kept from file to file."""

    def __init__(self):
        self.closing = contextlib.ExitStack()
        self.running = self.pages = None

    def browser(self):
        if self.running is None:
            self.running = self.closing.enter_context(chromium())
        return self.running

    def pages_of(self, server):
        if self.pages is None or self.pages.server is not server:
            if self.pages is not None:
                self.pages.close()
            self.pages = Pages(self.browser(), server)
        return self.pages

    def close(self):
        if self.pages is not None:
            self.pages.close()
        self.running = self.pages = None
        self.closing.close()


OPENED = Opened()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """No browser outlives the tests of this folder: while one runs, no other test could use asyncio."""
    yield
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        OPENED.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture(scope="module")
def browser():
    return OPENED.browser()


@pytest.fixture(scope="session", params=["installed", "newest"])
def web(request, tmp_path_factory):
    """A server with each front end, and a pack of somebody else."""
    extra = ("--front-end-root", str(newest_front_end())) if request.param == "newest" else ()
    folder, alone = tmp_path_factory.mktemp(request.param), {"OMP_NUM_THREADS": "1"}  # beside a browser: no waiting
    write_pack(folder)
    with ComfyServer(base_dir=folder, extra_args=extra, env=alone) as running:
        running.front_end = request.param
        yield running


@pytest.fixture(scope="module")
def server(comfyui):
    """What the pages are of."""
    return comfyui


@pytest.fixture(scope="module")
def pages(server):
    return OPENED.pages_of(server)


@pytest.fixture
def open_page(pages, request):
    """Opens pages; afterwards each leaves a screenshot and must have met no error.

    A `shared` page may have been open before: for tests that do not count its tabs, do not load it again and leave no
    dialog open.
    """
    opened = []
    with contextlib.ExitStack() as windows:

        def open_one(*, shared=False, settings=None, **window):
            if shared:
                opened.append(pages.share(settings or {}))
            else:
                opened.append(windows.enter_context(pages.new(settings=settings, **window)))
            return opened[-1]

        yield open_one
        name = re.sub(r"[^\w-]+", "_", request.node.name.removeprefix("test_"))
        for i, page in enumerate(opened):
            page.screenshot(ARTIFACTS / f"{name}{f'_{i}' if i else ''}.png")
        for page in opened:
            if page.errors or page.refused or request.node.stash.get(FAILED, False):
                pages.spoilt.add(page)  # whatever went wrong in it ends with it
                pages.drop(page)
    for page in opened:
        assert page.errors == []
        assert page.refused == []
