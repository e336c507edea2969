"""What `pip install` gives: the library with the bundled model and the command `hierdiff`, and nothing else."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from conftest import REPO_ROOT

from hierdiff_core.__main__ import main

LEFT_BEHIND = ("__pycache__", "build", "dist", "demo_output", "test_artifacts", "*.egg-info")


def run(*arguments, cwd, **environment):
    """What a command prints; its errors are shown when it fails."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run([*map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(*arguments, **options):
    return run(sys.executable, *arguments, **options)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the repository: setuptools leaves its work beside the sources."""
    folder = tmp_path_factory.mktemp("checkout") / "hierdiff"

    def left_behind(path, names):
        return {*shutil.ignore_patterns(*LEFT_BEHIND)(path, names), *(name for name in names if name.startswith("."))}

    shutil.copytree(REPO_ROOT, folder, ignore=left_behind)
    return folder


@pytest.fixture(scope="module")
def built(checkout, tmp_path_factory):
    """Folder with an sdist and the wheel that is built from it, by the installed setuptools: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("built")
    python("-m", "build", "--no-isolation", "--outdir", folder, checkout, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Folder in which the wheel is installed, as in site-packages."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    quick = ("--quiet", "--disable-pip-version-check", "--no-compile")
    python("-m", "pip", "install", *quick, "--no-index", "--no-deps", "--target", folder, wheel, cwd=folder)
    return folder


@pytest.fixture
def elsewhere(installed, tmp_path):
    """Runs commands where only the installed library is found."""
    return lambda *arguments: run(*arguments, cwd=tmp_path, PYTHONPATH=str(installed))


def files_below(folder):
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder.parent).as_posix() for path in found}


def test_wheel_holds_the_library_the_bundled_model_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    information = {name for name in names if ".dist-info/" in name}
    library = files_below(REPO_ROOT / "hierdiff_core")
    model = {f"hierdiff_core/models/{name}" for name in files_below(REPO_ROOT / "models" / "emoji-kandinsky")}
    assert {"hierdiff_core/__init__.py", "hierdiff_core/models/emoji-kandinsky/decoder/sensitivity.json"} <= names
    assert names - information == library | model
    licences = {name.split("/licenses/")[1] for name in information if "/licenses/" in name}
    model = "models/emoji-kandinsky/"
    assert licences == {"LICENSE", f"{model}LICENSES.md", f"{model}LICENSE-APACHE-2.0.txt"}


def test_sdist_holds_the_sources_of_the_library_and_nothing_else(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
    sources = {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"}
    assert sources <= names
    assert {name.split("/")[0] for name in names - sources} == {
        *("hierdiff.egg-info", "hierdiff_core", "models", "PKG-INFO", "setup.cfg"),
    }


def test_installed_library_is_the_only_package(installed):
    packages = {path.name for path in installed.iterdir() if path.name != "bin" and path.suffix != ".dist-info"}
    assert packages == {"hierdiff_core"}


def test_version_is_that_of_the_package(elsewhere):
    code = (
        "import hierdiff_core as h, importlib.metadata as m; print(h.__version__ == m.version('hierdiff'), h.__file__)"
    )
    same, file = elsewhere(sys.executable, "-c", code).split(maxsplit=1)
    assert same == "True"
    assert str(REPO_ROOT) not in file


def test_command_draws_with_the_bundled_model(elsewhere, installed, tmp_path):
    command = installed / "bin" / "hierdiff"
    quick = ("--steps", "2", "--prior-steps", "2", "--device", "cpu")
    said = elsewhere(command, "red apple, flat style", "cat face, noto style", *quick, "--out", "pictures")
    assert said.startswith("2 pictures in ")
    assert said.endswith("in pictures\n")
    report = json.loads((tmp_path / "pictures" / "report.json").read_text(encoding="utf-8"))
    assert all((tmp_path / "pictures" / image["file"]).is_file() for image in report["images"])
    assert str(installed) in report["settings"]["decoder"]
    assert str(installed) in report["settings"]["sensitivity"]


def test_module_is_found_and_goes_by_its_name(elsewhere):
    assert elsewhere(sys.executable, "-m", "hierdiff_core", "--help").startswith("usage: python -m hierdiff_core ")


@pytest.mark.parametrize("script", ["/usr/local/bin/hierdiff", "C:/Scripts/hierdiff.exe"])
def test_command_goes_by_its_name(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script])
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capsys.readouterr().out.startswith("usage: hierdiff ")


def test_editable_install_finds_the_library_in_the_checkout_and_nothing_else(checkout, tmp_path):
    code = f"from setuptools import build_meta; print(build_meta.build_editable({str(tmp_path)!r}))"
    python("-c", code, cwd=checkout)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        f"import site; site.addsitedir({str(tmp_path / 'site')!r}); from importlib.util import find_spec as find; "
        "from hierdiff_core.kandinsky.model_folder import BUNDLED, __file__ as file; "
        "print([file, (BUNDLED / 'decoder').is_dir(), *map(find, ('nodes', 'tests', 'web', 'models'))])"
    )
    file, model, *others = ast.literal_eval(python("-c", code, cwd=tmp_path))
    assert file == str(checkout / "hierdiff_core" / "kandinsky" / "model_folder.py")
    assert model
    assert others == [None] * 4
