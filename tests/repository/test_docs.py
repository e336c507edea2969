"""Pages of the repository: links lead somewhere, and the words are those that users know."""

import importlib
import re

import pytest
from comfyui_host import REPO_ROOT

PAGES = sorted(
    path
    for folder in (".", "docs", "docs/measurements", "benchmarks", "models", "training", "locales")
    for path in (REPO_ROOT / folder).glob("*.md")
)
CORE = REPO_ROOT / "hierdiff_core"
FOLDERS = {path.name for path in CORE.iterdir() if path.is_dir()}
# What only the authors call so, and what it is called instead.
JARGON = {"private steps?": "unshared steps", "to the bit": "bit-identical"}


def anchors(text):
    """Anchors of a page's headings, as GitHub makes them."""
    plain = [re.sub(r"\]\([^)]*\)", "", heading).strip().lower() for heading in re.findall(r"^#+ (.+)$", text, re.M)]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPO_ROOT)))
def test_links_lead_somewhere(page):
    text, lost = page.read_text(encoding="utf-8"), []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            lost.append(link)
    assert lost == []


def test_pages_with_links_were_found():
    assert sum("](" in page.read_text(encoding="utf-8") for page in PAGES) >= 10


@pytest.mark.parametrize("user_page", ["schedules", "performance", "samplers"])
def test_pages_for_users_and_their_measurements_name_each_other(repo_root, user_page):
    page = (repo_root / "docs" / f"{user_page}.md").read_text(encoding="utf-8")
    measured = (repo_root / "docs" / "measurements" / f"{user_page}.md").read_text(encoding="utf-8")
    assert f"(measurements/{user_page}.md)" in page
    assert f"(../{user_page}.md)" in measured


def test_texts_use_the_words_that_users_know(repo_root):
    texts = [path for path in PAGES if path.name != "CHANGELOG.md"]  # names the old word beside the new one
    texts += [*(repo_root / "web" / "docs").glob("**/*.md"), *(repo_root / "locales").glob("*/*.json")]
    found = {
        str(path.relative_to(repo_root)): sorted(set(words))
        for path in texts
        if (words := re.findall("|".join(JARGON), path.read_text(encoding="utf-8"), re.IGNORECASE))
    }
    assert found == {}, JARGON


def test_code_that_the_method_names_is_there():
    """`module.name` in docs/method.md, below hierdiff_core, whether or not its folder is named."""
    text = (REPO_ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    modules = {".".join(path.relative_to(CORE).with_suffix("").parts) for path in CORE.rglob("*.py")}
    wanted = {name for name in re.findall(r"`((?:[a-z_]+\.)+[A-Za-z_]+)`", text) if name.split(".")[0] in FOLDERS}
    assert len(wanted) > 10
    missing = set()
    for name in wanted - modules:
        module, _, attribute = name.rpartition(".")
        if module not in modules or not hasattr(importlib.import_module(f"hierdiff_core.{module}"), attribute):
            missing.add(name)
    assert missing == set()
