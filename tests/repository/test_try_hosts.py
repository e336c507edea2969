"""Trying other versions of ComfyUI: what is read from pytest, and the table that is written; no version is run here."""

import sys

import pytest
import try_hosts
from try_hosts import HEAD, TABLE, NotRun, Outcome, compared, version_of, with_row

REPORT = """<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1">
<testcase name="test_a"/><testcase name="test_b[1]"><failure message="x"/></testcase>
<testcase name="test_c"><error message="x"/></testcase><testcase name="test_d"><skipped/></testcase>
<testcase name="test_e"><system-out>text</system-out></testcase></testsuite></testsuites>"""


def page(*rows):
    return f"before\n{TABLE[0]}{HEAD}{''.join(f'| {row} | x |{chr(10)}' for row in rows)}{TABLE[1]}\nafter\n"


def test_outcome_of_pytest_is_counted_and_named(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    outcome = Outcome.read(tmp_path / "report.xml")
    assert outcome == Outcome(2, 1, ("test_b[1]", "test_c"))
    assert str(outcome) == "2 passed, 2 failed: `test_b[1]`, `test_c`, 1 skipped"
    assert str(Outcome(3, 0, ())) == "3 passed"
    assert str(Outcome(0, 0, tuple("abcde"))) == "0 passed, 5 failed: `a`, `b`, `c`, 2 more"


def test_row_takes_the_place_of_the_one_before_in_the_order_of_versions():
    text = page("0.3.75", "0.9.2", "0.33.0")
    assert with_row(text, "0.9.2", ["y"]) == text.replace("| 0.9.2 | x |", "| 0.9.2 | y |")
    assert with_row(text, "0.10.0", ["x"]) == page("0.3.75", "0.9.2", "0.10.0", "0.33.0")
    assert with_row(page(), "0.3.75", ["x"]) == page("0.3.75")


def test_pictures_are_compared_graph_by_graph():
    assert compared({"a": "1", "b": "2"}, {"a": "1", "b": "2"}) == "bit-identical"
    assert compared({"a": "1"}, {"a": "1", "b": "2"}) == "1 of 2 differ: b"


def test_version_is_read_or_refused(tmp_path):
    with pytest.raises(NotRun, match=r"no comfyui_version.py that says a version"):
        version_of(tmp_path)
    (tmp_path / "comfyui_version.py").write_text('# made\n__version__ = "0.33.0"\n')
    assert version_of(tmp_path) == "0.33.0"


def test_version_that_cannot_be_run_gets_no_row_and_the_next_is_tried(tmp_path, monkeypatch, capsys):
    tried = []

    def pictures(python, host):
        tried.append(host.name)
        if host.name == "b":
            raise NotRun("`pip install` ended with 1")
        return {"graph": "hash"}

    monkeypatch.setattr(try_hosts, "pictures", pictures)
    monkeypatch.setattr(try_hosts, "find_or_fetch_comfyui", lambda: tmp_path / "floor")
    monkeypatch.setattr(try_hosts, "environment", lambda host, folder: tmp_path / "python")
    monkeypatch.setattr(try_hosts, "run_tests", lambda *_: Outcome(7, 0, ()))
    monkeypatch.setattr(try_hosts, "packages", lambda python: "torch 2")
    monkeypatch.setattr(try_hosts, "PAGE", tmp_path / "hosts.md")
    monkeypatch.setattr(sys, "argv", ["try_hosts.py", *(str(tmp_path / name) for name in "bc")])
    for name, version in (("b", "0.1.0"), ("c", "0.2.0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "comfyui_version.py").write_text(f'__version__ = "{version}"')
    (tmp_path / "hosts.md").write_text(page())
    assert try_hosts.main() == 1
    assert tried == ["floor", "b", "c"]
    assert "b was not run: `pip install` ended with 1" in capsys.readouterr().err
    expected = with_row(page(), "0.2.0", ["7 passed", "not run", "bit-identical", "torch 2"])
    assert (tmp_path / "hosts.md").read_text() == expected


def test_environment_has_the_packages_below_it(tmp_path):
    (tmp_path / "main.py").touch()
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.1.0"')
    python = try_hosts.environment(tmp_path, tmp_path / "environments")
    assert python.is_relative_to(tmp_path / "environments" / "0.1.0")
    assert "torch" in try_hosts.packages(python)


def test_packages_that_cannot_be_installed_are_named(tmp_path):
    (tmp_path / "main.py").touch()
    (tmp_path / "requirements.txt").write_text("./no such package\n")
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.1.0"')
    with pytest.raises(NotRun, match="pip install"):
        try_hosts.environment(tmp_path, tmp_path / "environments")
