"""Pages of a real ComfyUI in a real Chromium, for the tests of this folder.

Loading a page costs two seconds of a processor, and six where the browser has not loaded it before: more than many of
these tests. A test that asks for a `shared` page gets one that stays open between tests, with an empty workflow in it;
the browser and its windows, with the files that they have, stay open until the tests of this folder are over.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from pathlib import Path

import pytest
from comfyui_host import REPO_ROOT, ComfyServer
from comfyui_page import QUIET, chromium, comfyui_page, new_window, newest_front_end
from other_pack import write_pack

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
EMPTY = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "groups": [], "config": {}, "version": 0.4}
FAILED = pytest.StashKey[bool]()


class Pages:
    """Pages of one server, some of which stay open between tests: one for each of the latest settings."""

    def __init__(self, browser, server):
        self.browser, self.server = browser, server
        self.kept = {}  # settings as a text -> page, window; the one used last at the end
        self.free = {}  # options of a window as a text -> windows that no page is in

    def share(self, settings):
        """The page with these settings that stays open, with an empty workflow; a new one where there is none."""
        settings = {**QUIET, **settings}
        page, window = self.kept.pop(str(settings), (None, None))
        if page is None:
            while len(self.kept) >= MOST_KEPT:
                self.drop(next(iter(self.kept.values()))[0])
            window = self.new(settings=settings)
            page = window.__enter__()
        else:
            self.server.post("/settings", settings)  # the server keeps those of the page that came last
            page.errors.clear()
            page.refused.clear()
            page.page.mouse.move(0, 0)
        self.kept[str(settings)] = page, window
        try:
            page.load_graph({**EMPTY, "id": str(uuid.uuid4())})
            page.close_panels()
        except BaseException:
            self.drop(page)
            raise
        return page

    @contextlib.contextmanager
    def new(self, *, settings=None, **options):
        """A new page, in a window that has the host's files in its cache if there is one."""
        free = self.free.setdefault(str(options), [])
        window = free.pop() if free else self.new_window(**options)
        with comfyui_page(self.browser, self.server, settings=settings, window=window) as page:
            yield page
        free.append(window)

    def new_window(self, **options):
        window = new_window(self.browser, **options)
        window.add_init_script(FEWER_FRAMES)
        return window

    def drop_all(self):
        for page, _ in list(self.kept.values()):
            self.drop(page)

    def close(self):
        """Close all that stays open."""
        self.drop_all()
        for windows in self.free.values():
            for window in windows:
                window.close()
        self.free.clear()

    def drop(self, page):
        """Close a page if it is one that stays open."""
        for settings, (kept, window) in list(self.kept.items()):
            if kept is page:
                del self.kept[settings]
                window.__exit__(None, None, None)


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
    made = OPENED.pages_of(server)
    yield made
    made.drop_all()  # what a file did to its pages is no other's


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
            pages.drop(page)  # whatever went wrong in it ends with it
    for page in opened:
        assert page.errors == []
        assert page.refused == []
