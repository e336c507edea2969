"""Which tests run where: `make quick`, and the workers of `make test`."""

import re

from conftest import dealt_with

PAGE = "tests/page/test_browser.py::test_panels"


def test_every_folder_of_tests_is_quick_or_imports_the_host(repo_root):
    makefile = (repo_root / "Makefile").read_text(encoding="utf-8")
    quick = re.search(r"^QUICK := (.*)$", makefile, re.MULTILINE)[1].split()
    folders = {path.parent.name for path in (repo_root / "tests").glob("*/test_*.py")}
    assert sorted([*quick, "host"]) == sorted(folders)


def test_a_file_goes_to_one_worker_and_each_front_end_to_its_own():
    assert dealt_with(f"{PAGE}[installed-zh]") == dealt_with(f"{PAGE}_move[installed]")
    assert dealt_with(f"{PAGE}[newest-zh]") != dealt_with(f"{PAGE}[installed-zh]")
    assert dealt_with("tests/plan/test_plan.py::test_cuts[chord]") == "tests/plan/test_plan.py"
    assert dealt_with("tests/plan/test_plan.py::test_cuts[reinstalled]") == "tests/plan/test_plan.py"
