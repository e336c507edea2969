"""Train the bundled model again, all of it.

python training/train.py [--out RUN] [--data FOLDER] [--minutes M] [--smoke] [--device D]

The stages run as processes of their own, those that do not need each other at the same time. What was interrupted goes
on where it was when this is run again.
"""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from stage import hide_progress_bars, parse_options, read_pictures

HERE = Path(__file__).resolve().parent
SECONDS_TO_STOP = 20


class Stage:
    """A running stage; its lines go to the terminal with its name before them, and to out.txt in its folder."""

    def __init__(self, name, options, minutes, script):
        self.name = name
        self.log = options.out / name / "out.txt"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-u", *script, "--out", options.out, "--data", options.data]
        command += ["--minutes", f"{minutes:.3f}"]
        command += ["--smoke"] * options.smoke + (["--device", options.device] if options.device else [])
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        with open(self.log, "a", encoding="utf-8") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                print(f"{self.name:>9} | {line}", end="", flush=True)

    def stop(self):
        """End the process, at once if it takes too long."""
        self.process.terminate()
        try:
            self.process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def own_script(name):
    return [HERE / f"{name}.py"]


def run_phase(shares, options, script=own_script):
    """Run stages at the same time; exits when one fails, after stopping the others.

    Parameters
    ----------
    shares : dict       stage -> share of the minutes
    options : Namespace
    script : callable   ``script(stage) -> list``, what Python runs: a file, and arguments
    """
    stages = []
    try:
        for name, share in shares.items():
            stages.append(Stage(name, options, share * options.minutes, script(name)))
        while any(stage.process.poll() is None for stage in stages):
            if any(stage.process.poll() for stage in stages):
                break
            time.sleep(0.2)
    finally:  # Ctrl-C too
        running = [stage for stage in stages if stage.process.poll() is None]
        for stage in running:
            stage.stop()
        for stage in stages:
            stage.reader.join(timeout=5)
    for stage in stages:
        if stage not in running and stage.process.returncode:
            sys.exit(f"{stage.name} failed (see {stage.log}); the others were stopped. Run again to go on.")


def main():
    options = parse_options(__doc__.splitlines()[0])
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: the stages must not stay behind
    read_pictures(options.data, options.config)  # drawn once, before any stage wants them
    try:
        for shares in options.config.phases:
            run_phase(shares, options)
    except KeyboardInterrupt:
        sys.exit("\nstopped; run again to go on")
    from assemble import assemble, weights_size  # here, since it imports all the libraries

    hide_progress_bars()
    folder = assemble(options.out)
    print(f"{folder}: {weights_size(folder) / 2**20:.1f} MiB of weights, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
