"""Fixtures for all tests: the repository's paths, and a real ComfyUI with this pack in it.

Beside this file are modules that tests import: graphs (workflows for a server), other_pack (nodes of somebody else for
one), trees (messages of a growing tree), native_models, text_models, small_clips and large_models (small and full-sized
networks with random weights), toy_models (models of a few lines that decide early or late), scene_folders (a tiny model
in diffusers' format), first_parser (the first release's parser of prompts), attached_nodes (what other nodes attach to
a model), compat_* (what users combine with Share Steps, and runs with and without it), cpu_seconds (what a run
took), prepared_process (scripts that need not import for seconds).
"""

from __future__ import annotations

import gc
import math
import os
import re
import sys
import time
from pathlib import Path

import psutil
import pytest

# The collector looks at all objects again and again while torch, ComfyUI and thousands of tests are loaded, which stay:
# that took a fourth of the collection's time, and a twentieth of the tests'.
gc.disable()
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: its threads must not spin beside a server's
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the other cores have workers of their own
REPO_ROOT = Path(__file__).resolve().parent.parent
# At the end, so that the pack's `nodes` folder can never hide the `nodes` module of a ComfyUI imported by a test.
sys.path += [str(REPO_ROOT), *(str(REPO_ROOT / name) for name in ("scripts", "tests", "training"))]

from comfyui_host import ComfyServer, import_pack  # noqa: E402
from cpu_seconds import CpuSeconds  # noqa: E402

SERVER_LOG_LINES = 60
# Each takes a minute or more: they begin first, so that no worker is left with one while the others are done.
LONGEST = (
    "test_browser.py",
    "test_compatibility.py",
    "test_workers_ray.py",
    "test_host.py",
    "test_scenes_run.py",
    "test_sharing.py",
    "test_advisor_nodes.py",
    "test_advisor_host.py",
    "test_training.py",
)
MEMORY_HOLDS = 0.2  # seconds
NEW_OBJECTS = 20_000  # before the collector looks at them, instead of 700
SLOW_FIXTURES = {"pack", "smoke_run"}  # they import ComfyUI, or train a model: marked, for `make quick`


class _RootIsNoPackage:
    """Keeps pytest from importing the repository's own `__init__.py`, which only works inside ComfyUI."""

    @staticmethod
    def pytest_collect_directory(path, parent):
        return pytest.Dir.from_parent(parent, path=path) if path == REPO_ROOT else None


def dealt_with(nodeid):
    """What goes to one worker: the tests of a file; of a folder those of one front end, which has a server."""
    file, front_end = Path(nodeid.split("::")[0]), re.search(r"[\[-](installed|newest)\b", nodeid)
    return f"{file.parent.as_posix()}[{front_end[1]}]" if front_end else file.as_posix()


class _FilesAndFrontEnds:
    """Deals out whole files to the workers, but those of a browser by front end."""

    @staticmethod
    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_make_scheduler(config, log):
        from xdist.scheduler import LoadFileScheduling

        class Scheduling(LoadFileScheduling):
            def _split_scope(self, nodeid):
                return dealt_with(nodeid)

        if config.getvalue("dist") != "loadfile":
            return None
        config.option.loadscopereorder = False  # in the order of the collection
        return Scheduling(config, log)


def pytest_configure(config):
    # As a plugin: a conftest's own hook is not asked about the folder above it.
    config.pluginmanager.register(_RootIsNoPackage())
    config.pluginmanager.register(CpuSeconds())
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_FilesAndFrontEnds())


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    """The slowest files first: the last ones of the workers must not differ by minutes."""
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
    slow = ("browser", "host", "slow")
    rank = {}
    for item in items:
        own = next((i for i, mark in enumerate(slow) if item.get_closest_marker(mark)), len(slow))
        own = LONGEST.index(item.path.name) - len(LONGEST) if item.path.name in LONGEST else own
        rank[item.path] = min(own, rank.get(item.path, own))
    items.sort(key=lambda item: rank[item.path])


def pytest_collection_finish():
    gc.freeze()  # what is there now stays until the end
    gc.set_threshold(NEW_OBJECTS, 10, 10)
    gc.enable()


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return REPO_ROOT


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory):
    """A running ComfyUI with this pack, shared by all tests of the session."""
    with ComfyServer(base_dir=tmp_path_factory.mktemp("comfyui")) as server:
        yield server


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    """This pack as a package of this process, with the host's modules on a CPU around it and no server.

    Its modules are `pack.nodes.…`; the host's are importable as `comfy…`, `nodes` and so on while the session lasts.
    """
    with pytest.MonkeyPatch.context() as patch:
        # the host asks before each attention, which on a tiny model is a tenth of everything
        patch.setattr(psutil, "virtual_memory", remembered(psutil.virtual_memory, MEMORY_HOLDS))
        yield import_pack(tmp_path_factory.mktemp("host"))


def remembered(ask, seconds):
    """A function that asks again only when its last answer is so old."""
    asked, answer = -math.inf, None

    def remember():
        nonlocal asked, answer
        if time.monotonic() - asked > seconds:
            asked, answer = time.monotonic(), ask()
        return answer

    return remember


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Show the end of the server's log with each failed test that used a server."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, ComfyServer) and value.base_dir is not None:
                tail = "\n".join(value.log_text().splitlines()[-SERVER_LOG_LINES:])
                report.sections.append((f"end of ComfyUI's log (fixture {name})", tail))
    return report
