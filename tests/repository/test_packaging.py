"""What ComfyUI's registry packs: all that the nodes need, nothing that only developers need."""

import subprocess

import pytest
from conftest import REPO_ROOT

SHIPPED = {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "__init__.py",
    "docs",
    "hierdiff_core",
    "locales",
    "models",
    "node_list.json",
    "nodes",
    "pyproject.toml",
    "requirements.txt",
    "web",
    "workflows",
}
DEVELOPMENT = {
    ".ci",
    ".pre-commit-config.yaml",
    "CONTRIBUTING.md",
    "MANIFEST.in",
    "Makefile",
    "benchmarks",
    "requirements-dev.txt",
    "scripts",
    "tests",
    "training",
}


@pytest.fixture(scope="module")
def ignored(tmp_path_factory):
    """Relative paths of the repository's files -> those that .comfyignore leaves out."""
    empty = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "--quiet", empty], check=True)
    (empty / ".gitignore").write_bytes((REPO_ROOT / ".comfyignore").read_bytes())

    def find(paths):
        done = subprocess.run(
            ["git", "check-ignore", "--no-index", "-z", "--stdin"],
            cwd=empty,
            input="\0".join(paths),
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, 1), done.stderr  # 1: none is ignored
        return set(done.stdout.split("\0")) - {""}

    return find


def files_below(names):
    for name in names:
        path = REPO_ROOT / name
        found = [path] if path.is_file() else (file for file in path.rglob("*") if file.is_file())
        yield from (str(file.relative_to(REPO_ROOT)) for file in found if "__pycache__" not in file.parts)


def test_every_file_that_the_pack_needs_is_packed(ignored):
    files = list(files_below(SHIPPED))
    assert {"__init__.py", "nodes/__init__.py", "hierdiff_core/__init__.py", "web/hierdiff.js"} <= set(files)
    assert not ignored(files)


def test_no_file_of_development_is_packed(ignored):
    files = set(files_below(DEVELOPMENT))
    assert "training/emoji.py" in files
    assert ignored(sorted(files)) == files


def test_whether_to_pack_is_decided_for_everything_in_the_repository():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=REPO_ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    top = {path.split("/")[0] for path in done.stdout.split("\0") if path}
    assert top - SHIPPED - DEVELOPMENT <= {".gitignore", ".comfyignore"}
