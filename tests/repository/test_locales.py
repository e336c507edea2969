"""Languages and help pages: complete, in step with the nodes, and readable for ComfyUI's page."""

import json
import re

import pytest
from build_locales import LOCALES, SYNTAX, all_texts, languages, paths, read, without_syntax

FILES = ["main", "nodeDefs"]
# Their English holds characters that vue-i18n would misread: the page shows the node's own text.
ONLY_TRANSLATED = {
    "HierDiffPromptSet.description",
    "HierDiffPromptSet.inputs.text.tooltip",
    "HierDiffSaveAsDrawn.inputs.caption.tooltip",
    "HierDiffSaveAsDrawn.inputs.name.tooltip",
    "HierDiffSaveSet.inputs.caption.tooltip",
    "HierDiffSaveSet.inputs.name.tooltip",
}
EXAMPLE = {"en": ("Example", "onto the canvas"), "zh": ("示例", "画布")}  # heading, and where to drag the picture


@pytest.fixture(scope="module")
def contract(repo_root):
    return json.loads((repo_root / "tests" / "data" / "contract.json").read_text(encoding="utf-8"))


def page_of(repo_root, node, language):
    docs = repo_root / "web" / "docs"
    path = docs / f"{node}.md" if language == "en" else docs / node / f"{language}.md"
    return path.read_text(encoding="utf-8")


def nodes_and_languages():
    return [(node, language) for language in ["en", *languages()] for node in read("zh")]


# --- The locale files ------------------------------------------------------------------------------------------------


def test_chinese_is_among_the_languages():
    assert "zh" in languages()


@pytest.mark.parametrize("language", languages())
def test_main_has_the_keys_of_english(language):
    assert set(paths(read(language, "main"))) == set(paths(read("en", "main")))


@pytest.mark.parametrize("language", languages())
def test_nodes_have_the_keys_of_english(language):
    assert set(paths(read(language))) == set(paths(read("en"))) | ONLY_TRANSLATED


@pytest.mark.parametrize("language", languages())
def test_placeholders_are_those_of_english(language):
    found, english = (
        {key: sorted(re.findall(r"\{.*?\}", text)) for key, text in paths(read(name, "main")).items()}
        for name in (language, "en")
    )
    assert found == english


@pytest.mark.parametrize("language", ["en", *languages()])
def test_node_texts_mean_nothing_to_vue_i18n(language):
    assert {key: text for key, text in paths(read(language)).items() if SYNTAX.search(text)} == {}


@pytest.mark.parametrize("language", ["en", *languages()])
@pytest.mark.parametrize("name", FILES)
def test_no_text_is_empty(language, name):
    texts = paths(read(language, name))
    assert {key: text for key, text in texts.items() if not text or text != text.strip()} == {}


@pytest.mark.parametrize("language", languages())
def test_long_texts_are_translated(language):
    english, other = paths(read("en")), paths(read(language))
    assert [key for key, text in other.items() if " " in english.get(key, "") and english[key] == text] == []


@pytest.mark.parametrize("language", ["en", *languages()])
def test_every_node_has_texts(repo_root, language):
    assert set(read(language)) == set(json.loads((repo_root / "node_list.json").read_text(encoding="utf-8")))


def test_locale_folder_holds_only_what_comfyui_reads():
    known = {"README.md"} | {f"{language}/{name}.json" for language in ["en", *languages()] for name in FILES}
    assert {path.relative_to(LOCALES).as_posix() for path in LOCALES.rglob("*") if path.is_file()} == known


def test_the_scripts_of_the_page_find_their_texts(repo_root):
    texts = read("en", "main")["hierdiff"]
    known, sections = set(paths(texts)), "|".join(texts)
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted((repo_root / "web").glob("*.js")))
    asked = set(re.findall(rf"""["'`]((?:{sections})\.\w+)["'`]""", source))
    asked |= set(re.findall(r"""\btext\(\s*["'`]([^"'`$]+)["'`]""", source))  # of other sections too
    assert len(asked) >= 10
    assert asked - known == set()
    for pattern in re.findall(r"\btext\(\s*`([^`]*\$\{[^`]*)`", source):
        wanted = re.sub(r"\\\$\\\{.*?\\\}", r"\\w+", re.escape(pattern))
        assert [key for key in known if re.fullmatch(wanted, key)], f"no text for {pattern}"


# --- In a real ComfyUI -----------------------------------------------------------------------------------------------


@pytest.mark.host
def test_english_is_what_the_nodes_say(comfyui):
    texts = all_texts(comfyui.object_info())
    assert read("en") == without_syntax(texts), "run python scripts/build_locales.py"
    assert set(paths(texts)) - set(paths(read("en"))) == ONLY_TRANSLATED


@pytest.mark.host
def test_comfyui_serves_the_texts(comfyui):
    served = comfyui.get("/i18n")
    for language in ["en", *languages()]:
        assert served[language]["hierdiff"] == read(language, "main")["hierdiff"]
        assert {node: served[language]["nodeDefs"][node] for node in read(language)} == read(language)


@pytest.mark.host
def test_comfyui_serves_the_pages(comfyui):
    """As ComfyUI's page asks for them: by the language, else without."""
    folder = comfyui.object_info()["HierDiffGuider"]["python_module"].split(".")[1]
    for language in languages():
        assert comfyui.get(f"/extensions/{folder}/docs/HierDiffGuider/{language}.md").startswith("# ")
    assert comfyui.get(f"/extensions/{folder}/docs/HierDiffGuider.md").startswith("# ")


# --- Help pages ------------------------------------------------------------------------------------------------------


def test_pages_are_those_of_the_nodes(repo_root, contract):
    assert set(read("zh")) == set(contract)
    docs = repo_root / "web" / "docs"
    assert {path.stem for path in docs.glob("*.md")} == set(contract)
    for language in languages():
        assert {path.parent.name for path in docs.glob(f"*/{language}.md")} == set(contract)


@pytest.mark.parametrize(("node", "language"), nodes_and_languages())
def test_page_has_the_title_of_the_node(repo_root, node, language):
    title = page_of(repo_root, node, language).splitlines()[0]
    english = read("en")[node]["display_name"]
    assert title == (f"# {english}" if language == "en" else f"# {read(language)[node]['display_name']}（{english}）")


@pytest.mark.parametrize(("node", "language"), nodes_and_languages())
def test_page_names_inputs_and_outputs(repo_root, contract, node, language):
    """By the name that the node shows; where that is another, the name in workflows follows."""
    page, texts = page_of(repo_root, node, language), read(language)[node]
    wanted = [(name, texts["inputs"][name]["name"]) for name, *_ in contract[node]["inputs"]]
    wanted += [(name, texts["outputs"][str(i)]["name"]) for i, (name, *_) in enumerate(contract[node]["outputs"])]
    bracket = " (" if language == "en" else "（"
    marks = {f"**{shown}**" if shown == name else f"**{shown}**{bracket}`{name}`" for name, shown in wanted}
    assert [mark for mark in marks if mark not in page] == []


@pytest.mark.parametrize(("node", "language"), nodes_and_languages())
def test_page_ends_with_an_example(repo_root, node, language):
    """The picture's path counts from web/docs in every language: that is what ComfyUI's page puts before it."""
    heading, canvas = EXAMPLE[language]
    _, _, example = page_of(repo_root, node, language).partition(f"\n## {heading}\n\n")
    words, alt, picture = re.fullmatch(r"(.+)\n\n!\[(.+)\]\((.+)\)\n", example, re.DOTALL).groups()
    assert picture == f"{node}/example.webp"
    assert alt
    assert canvas in " ".join(words.split())


@pytest.mark.parametrize("node", read("zh"))
def test_page_has_its_picture(repo_root, node):
    data = (repo_root / "web" / "docs" / node / "example.webp").read_bytes()
    assert (data[:4], data[8:12]) == (b"RIFF", b"WEBP")
    assert b"workflow:" in data.lower()  # to be dragged onto the canvas


@pytest.mark.parametrize("language", languages())
def test_pages_say_the_same_settings(repo_root, contract, language):
    """Code and options of a page are in its translation too."""
    missing = {}
    for node in contract:
        english, other = page_of(repo_root, node, "en"), page_of(repo_root, node, language)
        wanted = set(re.findall(r"`([^`\n]+)`", re.sub(r"\n\s+", " ", english)))
        wanted |= {
            name for options in contract[node].get("options", {}).values() for name in options if name in english
        }
        lost = sorted(name for name in wanted if name not in other)
        if lost:
            missing[node] = lost
    assert missing == {}
