"""What the code imports is declared, for pip and for ComfyUI Manager alike."""

import ast
import re
import sys
from importlib.metadata import packages_distributions

import pytest
from conftest import REPO_ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it there

HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "server"}
SHIPPED_BY_HOST = {"aiohttp", "tqdm"}  # the nodes may import it: they run in ComfyUI's server
NOT_IMPORTED = {"accelerate"}  # diffusers and transformers load weights with it


@pytest.fixture(scope="module")
def project():
    with (REPO_ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def imported(folder):
    """Top-level packages that the files of a folder import, anywhere in them, but for Python's own."""
    found = set()
    for path in (REPO_ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
    return found - set(sys.stdlib_module_names)


def distributions(modules):
    installed = packages_distributions()
    return {name_of(installed[module][0]) for module in modules}


def test_library_imports_what_it_declares(project):
    declared = [*project["dependencies"], *project["optional-dependencies"]["ray"]]
    assert distributions(imported("hierdiff_core")) == set(map(name_of, declared)) - NOT_IMPORTED


def test_nodes_import_what_is_declared_or_comes_with_the_host(project):
    found = distributions(imported("nodes") - HOST)
    assert {"torch", "numpy"} <= found
    assert found <= set(map(name_of, project["dependencies"])) | SHIPPED_BY_HOST


def test_manager_installs_what_pip_installs_but_for_torch(project):
    """ComfyUI brings the torch that fits the machine; Manager must not touch it."""
    listed = (REPO_ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert listed == [name for name in project["dependencies"] if name_of(name) != "torch"]


def test_dependencies_have_lower_bounds_alone(project):
    assert [name for name in project["dependencies"] if not re.fullmatch(r"[\w.-]+>=[\d.]+", name)] == []


def test_registry_finds_its_fields(project):
    """ComfyUI's registry and Manager read the file as it stands: no field may be computed by the build."""
    assert "dynamic" not in project
    assert {"name", "version", "description", "license", "dependencies", "urls"} <= project.keys()
    with (REPO_ROOT / "pyproject.toml").open("rb") as file:
        fields = tomllib.load(file)["tool"]["comfy"]
    assert {"PublisherId", "DisplayName", "Icon", "requires-comfyui"} == fields.keys()
