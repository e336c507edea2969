"""Arrows between the packages point one way, and heavy imports wait until they are needed."""

import ast
import copy
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "server"}
HEAVY = {"torch", "diffusers", "transformers"}
LOADED = f"print(sorted({HEAVY} & set(sys.modules)))"
# Each folder of the core, and what it may import of the others: arrows point one way.
LAYERS = {
    "prompts": set(),
    "files": set(),
    "plan": {"prompts", "files", "host_memory", "devices"},  # devices: ward_torch alone
    "pictures": {"plan"},
    "sampling": {"files", "plan", "devices"},
    "measure": {"files", "plan", "sampling", "devices", "embeddings"},
    "kandinsky": {
        "prompts",
        "files",
        "plan",
        "sampling",
        "measure",
        "devices",
        "embeddings",
        "host_memory",
        "previews",
    },
}
CORE_FILES = sorted((ROOT / "hierdiff_core").rglob("*.py"))
NODE_FILES = sorted((ROOT / "nodes").rglob("*.py"))
OUR_FILES = sorted(file for top in ROOT.glob("[!.]*") for file in (top.rglob("*.py") if top.is_dir() else [top]))


def name_of(path):
    return str(path.relative_to(ROOT))


def imports(tree):
    """Dotted names of everything imported; relative ones begin with a dot for each level."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield "." * node.level + node.module
        elif isinstance(node, ast.ImportFrom):
            yield from ("." * node.level + alias.name for alias in node.names)


def module_level(tree):
    """The module without the bodies of its functions, which run later, and without what is imported for types alone."""
    outside = [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    outside = [node for node in outside if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    return ast.Module([without_methods(node) if isinstance(node, ast.ClassDef) else node for node in outside], [])


def without_methods(node):
    """A class with the rest of its body."""
    shown = copy.copy(node)
    shown.body = [part for part in node.body if not isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return shown


@functools.cache  # several tests read each file, and none changes what it reads
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def top(name):
    return name.split(".")[0]


def test_root_imports_the_nodes_alone():
    assert set(imports(parse(ROOT / "__init__.py"))) == {".nodes"}


@pytest.mark.parametrize("path", NODE_FILES, ids=name_of)
def test_nodes_import_the_core_the_host_and_what_the_host_ships(path):
    allowed = HOST | {"aiohttp", "tqdm", "torch", "numpy", "PIL"} | sys.stdlib_module_names
    core = "." * (len(path.relative_to(ROOT).parts)) + "hierdiff_core."
    for name in imports(parse(path)):
        if name.startswith(".."):
            assert name.startswith(core)
        elif not name.startswith("."):
            assert top(name) in allowed, name


@pytest.mark.parametrize("path", [path for path in NODE_FILES if path.parent.name == "nodes"], ids=name_of)
def test_nodes_import_nothing_of_the_host_but_its_api(path):
    """Whatever else of ComfyUI they need goes through `nodes/host/`."""
    assert {name for name in imports(parse(path)) if top(name) in HOST} <= {"comfy_api.latest"}


@pytest.mark.parametrize("path", [path for path in NODE_FILES if path.parent.name == "host"], ids=name_of)
def test_adapters_import_no_node(path):
    """`nodes/host/` imports itself and the core alone."""
    for name in imports(parse(path)):
        assert not name.startswith("..") or name.startswith("...hierdiff_core."), name


def bound(tree):
    """Names that a module or a part of it binds other than by an import."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


@pytest.mark.parametrize("path", [path for path in OUR_FILES if path.suffix == ".py"], ids=name_of)
def test_nothing_of_ours_is_called_as_a_package_of_the_host(path):
    """Checkers of packs take `comfy.run` for a name that is missing in the host, whatever `comfy` is."""
    assert set(bound(parse(path))) & (HOST - {"server"}) == set()


@pytest.mark.parametrize("path", CORE_FILES, ids=name_of)
def test_core_knows_nothing_of_the_host_and_the_nodes(path):
    for name in imports(parse(path)):
        dots = len(name) - len(name.lstrip("."))
        assert dots < len(path.relative_to(ROOT).parts), name
        assert top(name) not in HOST | {"nodes", "hierdiff_core"}, name


@pytest.mark.parametrize("path", [p for p in CORE_FILES if p.parent.name in LAYERS], ids=name_of)
def test_each_part_of_the_core_imports_those_below_it(path):
    own = path.parent.name
    for name in imports(parse(path)):
        if name.startswith(".."):
            assert name[2:].split(".")[0] in LAYERS[own], name


@pytest.mark.parametrize("folder", ["plan", "pictures", "prompts", "files"])
def test_planning_pictures_and_texts_need_no_torch(folder):
    """All of them together, imported in a fresh process; `ward_torch` and `ward_torch_pairs` are for large sets."""
    modules = [
        f"hierdiff_core.{folder}.{path.stem}"
        for path in CORE_FILES
        if path.parent.name == folder and path.stem not in ("__init__", "ward_torch", "ward_torch_pairs")
    ]
    code = f"import sys, importlib; [importlib.import_module(m) for m in {modules}]; {LOADED}"
    assert said_by(code) == "[]"


@pytest.mark.parametrize("path", CORE_FILES, ids=name_of)
def test_core_imports_slow_packages_only_inside_functions(path):
    assert not {top(name) for name in imports(module_level(parse(path)))} & {"diffusers", "transformers", "matplotlib"}


def test_importing_the_core_loads_nothing_but_itself():
    foreign = "[name for name in set(sys.modules) - before if name.split('.')[0] not in sys.stdlib_module_names]"
    assert (
        said_by(f"import sys; before = set(sys.modules); import hierdiff_core; print({foreign})") == "['hierdiff_core']"
    )


def test_every_public_name_is_there():
    assert said_by("import hierdiff_core as h; print([n for n in h.__all__ if getattr(h, n) is None])") == "[]"
    assert (
        said_by("import hierdiff_core as h; print(set(h.__all__) - set(dir(h)), hasattr(h, 'nothing'))")
        == "set() False"
    )


def said_by(code):
    """What a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("path", [ROOT / "__init__.py", *NODE_FILES, *CORE_FILES], ids=name_of)
def test_no_file_registers_nodes_the_old_way(path):
    assert "NODE_CLASS_MAPPINGS" not in path.read_text(encoding="utf-8")


def test_node_list_names_every_node_and_no_other():
    found = [
        keyword.value.value
        for path in NODE_FILES
        for call in ast.walk(parse(path))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "node_id"
    ]
    assert sorted(found) == sorted(json.loads((ROOT / "node_list.json").read_text(encoding="utf-8")))
