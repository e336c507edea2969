"""The Examples of the library's docstrings: each public name has one, and all of them do what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

import hierdiff_core

ROOT = Path(__file__).parent.parent.parent
CORE_FILES = sorted((ROOT / "hierdiff_core").rglob("*.py"))
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def examples_of(named):
    """Doctests of a class or function, without its methods'."""
    return doctest.DocTestParser().get_examples(getattr(named, "__doc__", None) or "")


@pytest.mark.parametrize("name", hierdiff_core.__all__)
def test_each_public_name_has_an_example(name):
    named = getattr(hierdiff_core, name)
    assert "Examples\n" in (named.__doc__ or "")
    assert any(example.want for example in examples_of(named)), "no example shows what comes out"


@pytest.mark.parametrize("path", [path for path in CORE_FILES if ">>> " in path.read_text("utf-8")], ids=name_of)
def test_examples_do_what_they_show(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for those that write files
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    tests = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]
    assert tests
    said = []
    for test in tests:
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)
