"""Which errors of a page are this pack's: those that pass through its files or name something of it."""

import pytest
from comfyui_page import ComfyPage

pytestmark = pytest.mark.browser

PAGE = "http://page.test/"
FILES = {
    "": "<script src='assets/index.js'></script><script src='extensions/HierDiff/ours.js'></script>",
    "assets/index.js": """
        function log(what) { console.error(what); }
        function fail() { throw new Error("of the host"); }
        function call(back) { try { back(); } catch (error) { console.error("an extension failed", error); } }
        function tell(name) { console.error(`cannot draw ${name}`); }
        async function later(back) { await null; setTimeout(() => { back?.(); fail(); }); }
    """,
    "extensions/HierDiff/ours.js": """
        const ours = {
            fail() { throw new TypeError("of ours"); },
            log() { console.error("said by ours"); },
            makeTheHostLog() { log("made by ours"); },
            makeTheHostFailLater() { later(); },
            async reject() { await null; throw new Error("rejected by ours"); },
        };
    """,
}


@pytest.fixture(scope="module")
def page(browser):
    window = browser.new_context()
    window.route(PAGE + "**", lambda route: answer(route, FILES))
    comfy_page = ComfyPage(window.new_page(), None)
    comfy_page.page.goto(PAGE)
    yield comfy_page
    window.close()


def answer(route, files):
    path = route.request.url.removeprefix(PAGE)
    kind = "text/html" if path == "" else "text/javascript"
    route.fulfill(status=200 if path in files else 404, body=files.get(path, ""), content_type=kind)


def errors_of(page, script):
    page.errors.clear()
    page.evaluate(f"() => {{ setTimeout(() => {{ {script} }}); }}")
    page.settle(100)
    return page.errors


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("ours.fail()", "of ours"),
        ("ours.log()", "said by ours"),
        ("ours.reject()", "rejected by ours"),
        ("call(ours.fail)", "an extension failed"),
        ("later(ours.log)", "said by ours"),
        ("ours.makeTheHostLog()", "made by ours"),
        ("ours.makeTheHostFailLater()", "of the host"),
        ("tell('HierDiffSampler')", "cannot draw HierDiffSampler"),
    ],
)
def test_errors_that_come_from_ours_or_name_it_count(page, script, said):
    found = errors_of(page, script)
    assert any(said in error for error in found), found


@pytest.mark.parametrize(
    "script", ["fail()", "log('of the host')", "later()", "call(fail)", "console.warn('hierdiff')", "fetch('/missing')"]
)
def test_errors_that_the_host_has_alone_do_not(page, script):
    assert errors_of(page, script) == []
