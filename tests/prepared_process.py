"""Python scripts in processes that have the slow libraries from the start: importing them takes six seconds each time.

A clean process imports the libraries and is copied for each script. It computes nothing itself: threads of torch would
be lost in a copy.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

LIBRARIES = (
    "torch",
    "diffusers.pipelines.kandinsky2_2",
    "diffusers.models.autoencoders.autoencoder_kl",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
)
TESTS = Path(__file__).resolve().parent
HIDDEN = {str(folder) for folder in (TESTS, *TESTS.iterdir(), TESTS.parent, TESTS.parent / "scripts")}


class PreparedProcess:
    """What `training/train.py` asks of `subprocess.Popen`, for ``[python, "-u", script, *arguments]``."""

    def __init__(self, command, stdout, stderr, text, errors):
        assert command[:2] == [sys.executable, "-u"]
        assert (stdout, stderr, text) == (subprocess.PIPE, subprocess.STDOUT, True)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(LIBRARIES))
        reading, writing = context.Pipe(duplex=False)
        with reading, writing:
            self.stdout = os.fdopen(os.dup(reading.fileno()), errors=errors)
            self.process = context.Process(target=run_script, args=(command[2:], writing))
            self.process.start()
        self.terminate, self.kill = self.process.terminate, self.process.kill

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.process.name, timeout)
        return self.process.exitcode


PREPARED = SimpleNamespace(
    Popen=PreparedProcess,
    PIPE=subprocess.PIPE,
    STDOUT=subprocess.STDOUT,
    TimeoutExpired=subprocess.TimeoutExpired,
)


def run_script(arguments, writing):
    """As a fresh Python runs it, which finds what lies beside the script and nothing of the tests."""
    with writing:
        for output in (1, 2):
            os.dup2(writing.fileno(), output)
    sys.stdout.reconfigure(line_buffering=True)
    sys.argv = list(arguments)
    sys.path[:] = [str(Path(arguments[0]).parent), *(folder for folder in sys.path if folder not in HIDDEN)]
    runpy.run_path(arguments[0], run_name="__main__")
