"""Docstrings as numpydoc itself reads them, and annotations on all that is public; no file is imported for it."""

import ast
import json
import re
from pathlib import Path

import pytest
from numpydoc.hooks.validate_docstrings import AstValidator
from numpydoc.validate import validate

import hierdiff_core

ROOT = Path(__file__).parent.parent.parent
CORE = ROOT / "hierdiff_core"
CORE_FILES = sorted(CORE.rglob("*.py"))
NODE_FILES = sorted((ROOT / "nodes").rglob("*.py"))
# numpydoc's names of what a docstring must not show. GL: as a whole (03 blank lines, 05 tabs, 06 and 07 sections that
# are unknown or in the wrong order, 10 directives); SS: summary (01 none, 02 capital, 03 period); PR: parameters (02
# unknown, 03 order, 04 no type, 05 period after the type, 06 names of types, 08 capital, 09 period, 10 space before the
# colon); RT: the same of what is returned.
CHECKS = {
    *("GL03", "GL05", "GL06", "GL07", "GL10", "SS01", "SS02", "SS03"),
    *("PR02", "PR03", "PR04", "PR05", "PR06", "PR08", "PR09", "PR10", "RT04", "RT05"),
}
MISSING = "PR01"  # parameters that are not described
CONSTRUCTORS = ("__init__", "__call__")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def public_parts(path):
    """Yield (dotted name, node, enclosing nodes) of each public class, function and method of a file."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    stack = [("", module, [])]
    while stack:
        prefix, node, around = stack.pop()
        for part in node.body:
            if isinstance(part, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and is_public(part.name):
                yield prefix + part.name, part, [*around, node]
                if isinstance(part, ast.ClassDef):
                    stack.append((f"{prefix}{part.name}.", part, [*around, node]))


def is_public(name):
    return not name.startswith("_") or name in CONSTRUCTORS


def library_names(path):
    """The library's public names that a file defines."""
    return {name for name, module in hierdiff_core._MODULES.items() if path == CORE / f"{module.replace('.', '/')}.py"}


class Source(AstValidator):
    """As numpydoc reads an imported class: a dataclass takes its fields."""

    @property
    def signature_parameters(self):
        return tuple(annotated(self.node)) if is_dataclass(self.node) else super().signature_parameters


def faults_of(path, name, node, around, described):
    """What numpydoc, and we, find wrong with a docstring."""
    source = {"ast_node": node, "filename": str(path), "ancestry": around}
    report, doc = validate(name, Source, **source), Source(obj_name=name, **source)
    faults = [f"{code} {text}" for code, text in report["errors"] if code in CHECKS]
    fields = field_names(node, doc.doc)
    missing = set(doc.signature_parameters) - set(doc.doc_all_parameters) - fields
    if missing and (doc.doc["Parameters"] or described):
        faults.append(f"{MISSING} not described: {sorted(missing)}")
    if described and is_dataclass(node) and (absent := set(annotated(node)) - fields):
        faults.append(f"{MISSING} attributes not described: {sorted(absent)}")
    for kind in (kind for _, kind, _ in doc.doc["Raises"]):
        if not re.fullmatch(r"[A-Za-z_.]+", kind):
            faults.append(f"not the name of an error: {kind!r}")
    if any("   " in line.strip() for line in doc.doc["Summary"]):
        faults.append("type and description stand on one line")
    return faults


def field_names(node, doc):
    """Names under Attributes of a class: a dataclass describes there what its constructor takes."""
    if not isinstance(node, ast.ClassDef):
        return set()
    return {name for names, _, _ in doc["Attributes"] + doc["Parameters"] for name in names.split(", ")}


def is_dataclass(node):
    return isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list)


def annotated(node):
    """Names of a dataclass's fields that its constructor takes."""
    fields = (part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name))
    hidden = ("ClassVar", "init=False")
    return [part.target.id for part in fields if not any(sign in ast.unparse(part) for sign in hidden)]


@pytest.mark.parametrize("path", [*CORE_FILES, *NODE_FILES], ids=name_of)
def test_numpydoc_reads_the_docstrings_without_complaint(path):
    library = library_names(path)
    faults = {
        f"{name} (line {node.lineno})": found
        for name, node, around in public_parts(path)
        if ast.get_docstring(node)
        if (found := faults_of(path, name, node, around, described=name in library))
    }
    assert not faults, json.dumps(faults, indent=1)


def unannotated(node, in_class):
    """Parameters of a function without a type, and "return"."""
    static = any(ast.unparse(decorator) == "staticmethod" for decorator in node.decorator_list)
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    given = given[1:] if in_class and not static else given
    given += [extra for extra in (node.args.vararg, node.args.kwarg) if extra]
    without_type = [argument.arg for argument in given if argument.annotation is None]
    return without_type + ["return"] * (node.returns is None and node.name != "__init__")


@pytest.mark.parametrize("path", CORE_FILES, ids=name_of)
def test_public_functions_say_the_types_of_what_they_take_and_return(path):
    missing = {
        f"{name} (line {node.lineno})": names
        for name, node, around in public_parts(path)
        if not isinstance(node, ast.ClassDef)
        if (names := unannotated(node, isinstance(around[-1], ast.ClassDef)))
    }
    assert not missing, json.dumps(missing, indent=1)


FAULTY = '''
def f(a, b):
    """compute

    Parameters
    ----------
    c : int
        lower case

    Returns
    -------
    int
        lower case

    Raises
    ------
    if it fails

    Source: somewhere
    """


def g(a, b):
    """Add.

    Parameters
    ----------
    a
        First.
    """


@dataclass
class H:
    """Both.

    Parameters
    ----------
    a : int
    c : int
    """

    a: int
    b: int
'''


def test_the_checks_find_faults(tmp_path):
    path = tmp_path / "faulty.py"
    path.write_text(FAULTY, encoding="utf-8")
    found = {name: faults_of(path, name, node, around, False) for name, node, around in public_parts(path)}
    codes = {name: [fault.split()[0] for fault in faults] for name, faults in found.items()}
    assert codes["f"] == ["SS02", "SS03", "PR02", "PR08", "PR09", "RT04", "RT05", "PR01", "not", "not"]
    assert codes["g"] == ["PR04", "PR01"]
    assert codes["H"] == ["PR02", "PR01"]
    (_, f, _), (_, g, _), _ = public_parts(path)
    assert unannotated(f, False) == ["a", "b", "return"]
    assert unannotated(g, True) == ["b", "return"]
