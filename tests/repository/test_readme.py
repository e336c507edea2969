"""What the README shows must work as it stands."""

import re
import runpy

import pytest


@pytest.fixture
def readme(repo_root):
    return (repo_root / "README.md").read_text(encoding="utf-8")


def test_library_example_draws_a_picture_per_prompt(readme, tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    program = tmp_path / "example.py"
    program.write_text(example.replace("Profile(40)", "Profile(5)"), encoding="utf-8")  # the same, quicker
    names = runpy.run_path(str(program))
    assert names["images"].shape == (3, 128, 128, 3)
    assert names["plan"].saved >= 0.4


def test_pictures_and_pages_exist(readme, repo_root):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", readme)
    assert len(links) >= 6
    assert [link for link in links if not (repo_root / link).exists()] == []


def test_every_node_is_described(readme, repo_root):
    import json

    contract = json.loads((repo_root / "tests" / "data" / "contract.json").read_text())
    assert [node["display_name"] for node in contract.values() if f"**{node['display_name']}**" not in readme] == []
    pages = {path.stem for path in (repo_root / "web" / "docs").glob("*.md")}
    assert pages == set(contract)


def test_versions_agree(repo_root):
    version = re.search(r'^version = "(.+)"', (repo_root / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert f'__version__ = "{version}"' in (repo_root / "hierdiff_core" / "__init__.py").read_text()
    assert f"## {version}" in (repo_root / "CHANGELOG.md").read_text()
    for path in (repo_root / "workflows").glob("*.json"):
        assert set(re.findall(r'"cnr_id": "hierdiff",\s+"ver": "([^"]+)"', path.read_text())) == {version}
