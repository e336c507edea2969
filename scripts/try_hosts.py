"""Run the tests of tests/host on other versions of ComfyUI, and write what came out into docs/hosts.md.

    python scripts/try_hosts.py [FOLDER ...]    (a ComfyUI checkout each; without one, the release that is fetched)

Each version gets an environment over this one, in which the packages that it asks for are installed; this one stays as
it is. The same graphs are drawn by each and by the release that is fetched, and their pictures compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comfyui_host import CACHE_DIR, REPO_ROOT, ComfyServer, find_or_fetch_comfyui

PAGE = REPO_ROOT / "docs" / "hosts.md"
TABLE = "<!-- hosts -->\n", "<!-- end of hosts -->"
HEAD = "| ComfyUI | `tests/host` | `tests/page` | pictures of 0.3.75 | with |\n|---|---|---|---|---|\n"
NAMED_AT_MOST = 3  # failed tests, in the table
PACKAGES = ("torch", "transformers", "comfyui-frontend-package")
SAMPLERS = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc")


class NotRun(RuntimeError):
    """A version could not be run at all; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What pytest said.

    Parameters
    ----------
    passed, skipped : int
    failed : names of the tests that failed
    """

    passed: int
    skipped: int
    failed: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """From the file that pytest's `--junitxml` writes."""
        cases = list(ElementTree.parse(path).getroot().iter("testcase"))
        failed = [case.get("name", "") for case in cases if {"failure", "error"} & {part.tag for part in case}]
        skipped = sum(part.tag == "skipped" for case in cases for part in case)
        return cls(len(cases) - len(failed) - skipped, skipped, tuple(failed))

    def __str__(self) -> str:
        named = [f"`{name}`" for name in self.failed[:NAMED_AT_MOST]]
        more = [f"{len(self.failed) - NAMED_AT_MOST} more"] if len(self.failed) > NAMED_AT_MOST else []
        failed = f", {len(self.failed)} failed: {', '.join([*named, *more])}" if self.failed else ""
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed{failed}{skipped}"


# --- Environments --------------------------------------------------------------------------------------------------


def version_of(host: Path) -> str:
    """The version of a ComfyUI checkout.

    Raises
    ------
    NotRun  if it says none.
    """
    path = host / "comfyui_version.py"
    found = re.search(r'__version__ = "([^"]+)"', path.read_text(encoding="utf-8")) if path.is_file() else None
    if found is None:
        raise NotRun(f"{host} has no comfyui_version.py that says a version")
    return found[1]


def environment(host: Path, folder: Path) -> Path:
    """The interpreter of an environment over this one with what a ComfyUI asks for; made where it is not there.

    Raises
    ------
    NotRun  if something cannot be installed; the message holds the end of pip's output.
    """
    place = folder / version_of(host)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        _call([sys.executable, "-m", "venv", "--without-pip", str(place)])
        code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
        own = Path(_call([str(python), "-c", code]).strip())
        below = sysconfig.get_paths()["purelib"]
        (own / "packages_below.pth").write_text(f"import site; site.addsitedir({below!r})\n", encoding="utf-8")
    env = {"COMFYUI_DIR": str(host)}
    wanted = _call([str(python), str(REPO_ROOT / "scripts" / "comfyui_host.py"), "requirements"], env)
    (place / "requirements.txt").write_text(wanted, encoding="utf-8")
    _call([str(python), "-m", "pip", "install", "--no-compile", "--quiet", "-r", str(place / "requirements.txt")])
    return python


def _call(command: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """The output of a command.

    Raises
    ------
    NotRun  if it fails.
    """
    result = subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, text=True)
    if result.returncode:
        end = "\n".join((result.stdout + result.stderr).splitlines()[-15:])
        raise NotRun(f"`{shlex.join(command)}` ended with {result.returncode}:\n{end}")
    return result.stdout


# --- What is tried -------------------------------------------------------------------------------------------------


def run_tests(python: Path, host: Path, folder: str, jobs: int) -> Outcome:
    """The tests of a folder on a version.

    Raises
    ------
    NotRun  if pytest does not come to its end.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [str(python), "-m", "pytest", folder, "-q", "-p", "no:cacheprovider", "--junitxml", str(report)]
        if jobs > 1:
            command += ["-n", str(jobs), "--dist", "loadfile"]
        code = subprocess.call(command, cwd=REPO_ROOT, env={**os.environ, "COMFYUI_DIR": str(host)})
        if not report.exists():
            raise NotRun(f"pytest ended with {code} and no report")
        return Outcome.read(report)


def pictures(python: Path, host: Path) -> dict[str, str]:
    """{graph: hash of its pictures} as a version draws them."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "pictures.json"
        _call([str(python), __file__, "--draw-into", str(out)], {"COMFYUI_DIR": str(host)})
        return json.loads(out.read_text(encoding="utf-8"))


def draw_into(out: Path) -> None:
    """Draw the graphs on the ComfyUI of this process's environment, and write the hashes of their pictures."""
    sys.path.append(str(REPO_ROOT / "tests"))
    from graphs import guider_graph, native_graph, pictures, share_steps_graph, small_graph

    graphs = {"Branching Sampler": small_graph(), "Hierarchical Guider": guider_graph()}
    graphs["Hierarchical KSampler, from one latent"] = native_graph()
    for sampler in SAMPLERS:
        graphs[f"KSampler, {sampler}"] = share_steps_graph(**{"sample.sampler_name": sampler})
    with ComfyServer(env={"OMP_NUM_THREADS": "1"}) as server:
        drawn = {name: pictures(server, server.run(graph), "save") for name, graph in graphs.items()}
    hashes = {
        name: hashlib.sha256(b"".join(picture.tobytes() for picture in made)).hexdigest()
        for name, made in drawn.items()
    }
    out.write_text(json.dumps(hashes), encoding="utf-8")


def compared(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Whether the pictures are bit-identical, in words."""
    differ = [name for name, made in expected.items() if found.get(name) != made]
    return f"{len(differ)} of {len(expected)} differ: {', '.join(differ)}" if differ else "bit-identical"


def packages(python: Path) -> str:
    """The versions of what pictures and page depend on most."""
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]), sep='\\n')"
    versions = _call([str(python), "-c", code, *PACKAGES]).split()
    return ", ".join(f"{name.removeprefix('comfyui-')} {found}" for name, found in zip(PACKAGES, versions, strict=True))


# --- The table -----------------------------------------------------------------------------------------------------


def with_row(text: str, version: str, cells: Sequence[str]) -> str:
    """A page with a row for a version in its table, in place of the one before."""
    before, rest = text.split(TABLE[0])
    table, after = rest.split(TABLE[1])
    rows = [row for row in table.removeprefix(HEAD).splitlines() if row and version_in(row) != version]
    rows.append("| " + " | ".join([version, *cells]) + " |")
    rows.sort(key=lambda row: [int(part) for part in re.findall(r"\d+", version_in(row))])
    return before + TABLE[0] + HEAD + "".join(row + "\n" for row in rows) + TABLE[1] + after


def version_in(row: str) -> str:
    return row.split("|")[1].strip()


def row_of(host: Path, options: argparse.Namespace, expected: Mapping[str, str]) -> list[str]:
    """Try one version: the cells of its row.

    Raises
    ------
    NotRun  if it cannot be run.
    """
    python = environment(host, options.environments)
    same = compared(pictures(python, host), expected)
    page = str(run_tests(python, host, "tests/page", 1)) if options.page else "not run"
    return [str(run_tests(python, host, "tests/host", options.jobs)), page, same, packages(python)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hosts", nargs="*", type=Path, metavar="FOLDER", help="a ComfyUI checkout")
    parser.add_argument("--page", action="store_true", help="run the tests of the page too, in Chromium")
    parser.add_argument("--jobs", type=int, default=1, help="test files that run at the same time")
    parser.add_argument("--environments", type=Path, default=CACHE_DIR / "environments", help=argparse.SUPPRESS)
    parser.add_argument("--draw-into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw_into:
        draw_into(options.draw_into)
        return 0
    os.environ.pop("COMFYUI_DIR", None)
    floor = find_or_fetch_comfyui()
    hosts = [path.resolve() for path in options.hosts] or [floor]
    try:
        expected = pictures(Path(sys.executable), floor)
    except NotRun as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    failed = [host for host in hosts if not tried(host, options, expected)]
    return int(len(failed) > 0)


def tried(host: Path, options: argparse.Namespace, expected: Mapping[str, str]) -> bool:
    """Try a version and write its row; whether all went well. One that cannot be run gets none, and others go on."""
    try:
        version, cells = version_of(host), row_of(host, options, expected)
    except NotRun as error:
        print(f"error: {host} was not run: {error}", file=sys.stderr)
        return False
    PAGE.write_text(with_row(PAGE.read_text(encoding="utf-8"), version, cells), encoding="utf-8")
    print(f"ComfyUI {version}: {'; '.join(cells)}", flush=True)
    return not re.search("failed|differ", "".join(cells))


if __name__ == "__main__":
    sys.exit(main())
