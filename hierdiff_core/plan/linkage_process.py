"""Large trees in a process of their own.

SciPy makes the tree in one call that holds Python's lock: at 20,000 prompts no other thread runs for most of a
minute: no page is served, no cancel is heard. A process can be ended at any time, and its memory is free at once.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy

from ..host_memory import free_host_memory, gibibytes
from . import scipy_ward

PROGRAM = Path(scipy_ward.__file__)
# The process finds the same numpy and SciPy, and nothing in the folder that it happens to start in.
START = (
    "import sys; sys.path[:] = sys.argv[4:] + [path for path in sys.path if path]; "
    "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
KILLED = -9  # what Linux does to a program that takes more memory than there is
SECONDS_BETWEEN_CHECKS = 0.1
# From here on the tree is made in a process: what this one would not answer for longer.
LONGEST_IN_PROCESS = 2.0
SMALL_TREE = 2**29  # bytes


def tree_seconds(num_prompts: int, width: int, metric: str) -> float:
    """About how long SciPy takes for a tree on one core, in seconds.

    Parameters
    ----------
    num_prompts : int
        Rows of the tree.
    width : int
        Numbers in an embedding.
    metric : "cosine" or "chord"
        Of the distances.

    Returns
    -------
    seconds : float
        On one core.
    """
    distances = (0.45e-9 if metric == "cosine" else 0.3e-9) * width
    return num_prompts**2 / 2 * (1.5e-7 + distances)


def tree_bytes(num_prompts: int, width: int) -> int:
    """Bytes of main memory that SciPy's tree takes: the distances, its own copy of them, and the vectors some times."""
    python = 2**27  # with numpy and SciPy
    return 8 * num_prompts**2 * 17 // 16 + 8 * num_prompts * width * 3 + python


def tree_fits(num_prompts: int, width: int) -> bool:
    """Whether the main memory that is free holds a tree's distances; nobody asks it for a small tree."""
    return tree_bytes(num_prompts, width) <= SMALL_TREE or tree_bytes(num_prompts, width) <= free_host_memory()


def check_tree_fits(num_prompts: int, width: int) -> None:
    """`ValueError` if the main memory that is free does not hold a tree's distances."""
    needed, free = tree_bytes(num_prompts, width), free_host_memory()
    if needed > free:
        raise ValueError(
            f"a tree of {num_prompts} prompts takes {gibibytes(needed)} of main memory for their distances, and "
            f"{gibibytes(free)} are free; take metric chord, which can do without, close other programs, or split the "
            "prompts into two sets"
        )


def ward_tree(vectors: np.ndarray, metric: str, smallest: float, check: Callable[[], Any] | None = None) -> np.ndarray:
    """`scipy_ward.ward_tree`, which takes a process of its own where it takes long.

    Parameters
    ----------
    vectors : (N, D) float64 array
        See `scipy_ward.ward_tree`.
    metric : "cosine" or "chord"
        See `scipy_ward.ward_tree`.
    smallest : float
        See `scipy_ward.ward_tree`.
    check : callable, optional
        Called every tenth of a second while a process works; may raise to stop.

    Returns
    -------
    Z : (N-1, 4) float64
        As `scipy_ward.ward_tree`.

    Raises
    ------
    ValueError
        If the distances do not fit in the main memory.
    """
    rows, width = vectors.shape
    if tree_seconds(rows, width, metric) <= LONGEST_IN_PROCESS:
        return scipy_ward.ward_tree(vectors, metric, smallest)
    check_tree_fits(rows, width)
    with ExitStack() as stack:
        try:  # files, not pipes: nobody waits for anybody
            given, made, errors = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
            np.lib.format.write_array(given, np.ascontiguousarray(vectors))
            given.seek(0)
            child = start(metric, smallest, given, made, errors)
        except OSError:  # no room on the disk, or no more processes
            child = None
        if child is None:
            return scipy_ward.ward_tree(vectors, metric, smallest)
        wait_for(child, check or (lambda: None))
        if child.returncode != 0:
            raise failure(child.returncode, errors, vectors.shape)
        made.seek(0)
        return np.lib.format.read_array(made, allow_pickle=False)


def start(
    metric: str, smallest: float, given: IO[bytes], made: IO[bytes], errors: IO[bytes]
) -> subprocess.Popen | None:
    """The process, or None where there is no Python to start, as in a program that was frozen into one file."""
    if getattr(sys, "frozen", False) or "python" not in Path(sys.executable or "").name.lower():
        return None
    packages = sorted({str(Path(str(module.__file__)).parents[1]) for module in (np, scipy)})
    command = [sys.executable, "-c", START, str(PROGRAM), metric, repr(float(smallest)), *packages]
    options = {"creationflags": subprocess.CREATE_NO_WINDOW} if sys.platform == "win32" else {}
    return subprocess.Popen(command, stdin=given, stdout=made, stderr=errors, **options)


def wait_for(child: subprocess.Popen, check: Callable[[], Any]) -> None:
    """Until a process ends; it ends with this call, whatever happens."""
    try:
        while child.poll() is None:
            check()
            with suppress(subprocess.TimeoutExpired):
                child.wait(SECONDS_BETWEEN_CHECKS)
    finally:
        child.kill()
        child.wait()


def failure(code: int, errors: IO[bytes], shape: tuple[int, ...]) -> Exception:
    """The error to raise for a process that has failed."""
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines() or [f"exit code {code}"]
    if code == KILLED or "MemoryError" in lines[-1]:
        return ValueError(
            f"main memory ran out while a tree of {shape[0]} prompts was made, which takes "
            f"{gibibytes(tree_bytes(*shape))}; close other programs, or split the prompts into two sets"
        )
    return RuntimeError(f"clustering {shape[0]} prompts failed: {lines[-1]}")
