"""Which tests run where: `make quick`, and the workers of `make test`."""

import re

from conftest import LONGEST, dealt_with, remembered

PAGE = "tests/page/test_browser.py::test_panels"


def test_every_folder_of_tests_is_quick_or_imports_the_host(repo_root):
    makefile = (repo_root / "Makefile").read_text(encoding="utf-8")
    quick = re.search(r"^QUICK := (.*)$", makefile, re.MULTILINE)[1].split()
    folders = {path.parent.name for path in (repo_root / "tests").glob("*/test_*.py")}
    assert sorted([*quick, "host"]) == sorted(folders)


def test_a_file_goes_to_one_worker_and_each_front_end_to_its_own():
    assert dealt_with(f"{PAGE}[installed-zh]") == dealt_with(f"{PAGE}_move[installed]")
    assert dealt_with(f"{PAGE}[installed]") == dealt_with("tests/page/test_pick_page.py::test_pick[installed-True]")
    assert dealt_with(f"{PAGE}[newest-zh]") != dealt_with(f"{PAGE}[installed-zh]")
    assert dealt_with("tests/plan/test_plan.py::test_cuts[chord]") == "tests/plan/test_plan.py"
    assert dealt_with("tests/plan/test_plan.py::test_cuts[reinstalled]") == "tests/plan/test_plan.py"


def test_files_that_begin_first_are_there(repo_root):
    assert set(LONGEST) <= {path.name for path in (repo_root / "tests").rglob("test_*.py")}


def test_an_answer_that_is_remembered_is_asked_for_again_once_it_is_old():
    answers = iter(range(3))
    assert [remember() for remember in [remembered(lambda: next(answers), 60)] * 3] == [0, 0, 0]
    assert [remember() for remember in [remembered(lambda: next(answers), -1)] * 2] == [1, 2]
