"""Tells at the end of a long run what each folder and the most expensive files took of the processors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import psutil
import pytest

TOLD_FROM = 100  # seconds
FILES_TOLD = 25
COLLECTION = "imports and collection"


def spent() -> float:
    """Seconds of this process and of all that it started, ended or not: servers and browsers too."""
    this, total = psutil.Process(), 0.0
    for process in [this, *this.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])  # its own and those of its children that have ended
        except psutil.Error:  # it has just ended: its parent counts it from now on
            continue
    return total


class CpuSeconds:
    """A plugin of pytest that counts in each process, and adds up in the one that says how the run went."""

    def __init__(self):
        self.by_file: Counter[str] = Counter()
        self.noted = 0.0

    def note(self, what: str) -> None:
        now = spent()
        self.by_file[what] += max(0.0, now - self.noted)  # what a process took is lost with one that nobody waits for
        self.noted = now

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self):
        result = yield
        self.note(COLLECTION)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item, nextitem):
        result = yield
        if nextitem is None or nextitem.path != item.path:
            self.note(item.nodeid.split("::")[0])
        return result

    def pytest_sessionfinish(self, session):
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["cpu_seconds"] = dict(self.by_file)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        self.by_file.update(getattr(node, "workeroutput", {}).get("cpu_seconds", {}))

    def pytest_terminal_summary(self, terminalreporter):
        total = sum(self.by_file.values())
        if total < TOLD_FROM:
            return
        folders: Counter[str] = Counter()
        for file, seconds in self.by_file.items():
            folders[Path(file).parent.name or file] += seconds
        terminalreporter.section(f"{total:.0f} s of the processors, with all processes that were started")
        for counted in (folders.most_common(), self.by_file.most_common(FILES_TOLD)):
            terminalreporter.line("\n".join(f"{seconds:7.1f} s  {name}" for name, seconds in counted) + "\n")
