"""What a worker of `ray_executor` is: a Ray actor, which is made of this text alone."""

from __future__ import annotations

from typing import Any


def actor_class(ray: Any) -> Any:
    """The class of the actors, sent by value: a worker may not find this module, so it imports what it needs itself."""

    class Worker:
        def __init__(self) -> None:
            import queue
            import threading

            self.said: Any = None
            self.waiting: Any = queue.SimpleQueue()
            threading.Thread(target=self.go_on, daemon=True).start()

        def go_on(self) -> None:
            """Do what waits, all in one thread: with it goes what libraries prepare for calls of a size."""
            while True:
                self.waiting.get()()

        def entry(self, folder: str, name: str, job: Any) -> Any:
            """The function that a job names, and what it is given."""
            import importlib
            import importlib.util
            import os
            import sys

            if name not in sys.modules and os.path.isfile(os.path.join(folder, "__init__.py")):
                spec: Any = importlib.util.spec_from_file_location(
                    name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
                )
                sys.modules[name] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(sys.modules[name])
            entry, setup, version = job
            found = importlib.import_module(name).__version__
            if found != version:
                raise ValueError(f"{name} is {found} here and {version} where the set is drawn from")
            module, _, function = entry.partition(":")
            return getattr(importlib.import_module(f"{name}.{module}"), function), setup

        def early(self, folder: str, name: str, job: Any) -> None:
            """Begin what needs no answer; if it fails, so will `begin`, which says why."""
            import contextlib

            with contextlib.suppress(Exception):
                function, setup = self.entry(folder, name, job)

                def do() -> None:
                    with contextlib.suppress(Exception):
                        function(setup)

                self.waiting.put(do)

        def begin(self, folder: str, name: str, job: Any) -> Any:
            """Make the work; what is wrong is said, not raised."""
            import os
            import socket

            self.said = None  # what is in work is of a run that has ended
            try:
                function, setup = self.entry(folder, name, job)
                self.work_of = function(setup)
            except Exception as error:
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                return ["refused", socket.gethostname(), f"{kind}{str(error)[:500]}"]
            return ["made", os.getpid(), getattr(self.work_of, "kind", "")]

        def work(self, task: Any) -> Any:
            """Begin a task, and say what there is to say first."""
            import queue

            said: Any = queue.SimpleQueue()

            def tell(value: Any) -> None:
                if self.said is not said:
                    raise RuntimeError("the run has ended")
                said.put(("told", value))

            def do(work_of: Any = self.work_of) -> None:
                try:
                    said.put(("done", work_of(task, tell)))
                except OSError as error:
                    said.put(("disk", str(error)[:500]))
                except Exception as error:
                    said.put(("failed", f"{type(error).__name__}: {str(error)[:500]}"))

            self.said = said
            self.waiting.put(do)
            return self.more()

        def more(self) -> Any:
            """What there is to say: waits a moment for something."""
            import queue

            found = []
            with_patience = 1.0
            try:
                found.append(self.said.get(timeout=with_patience))
                while True:
                    found.append(self.said.get_nowait())
            except queue.Empty:
                return found

    return ray.remote(max_restarts=0, max_task_retries=0)(Worker)
