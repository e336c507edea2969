"""The training loop that all networks share: steps over wall time, averaged weights, checkpoints, progress."""

import json
import math
import os
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
FINISHED = "finished.json"
CHECKPOINT_SECONDS = 20
PROGRESS_SECONDS = 5
EVALUATION_SECONDS = 30


def learning_rate(optimisation, step, progress):
    """Learning rate: linear warm-up over steps, then a cosine to zero over `progress`, the share (0 ... 1) done."""
    warm = min(1.0, (step + 1) / max(1, optimisation.warm_up))
    return optimisation.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def ema_decay(optimisation, step):
    """Decay of the averaged weights, which grows with the steps so that the first weights are soon forgotten."""
    return min(optimisation.ema, (1 + step) / (10 + step))


def parameter_groups(networks, weight_decay):
    """Matrices and kernels with weight decay, biases and norms without."""
    parameters = [p for p in networks.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def is_finished(folder):
    """Whether the stage of this folder is done."""
    return (Path(folder) / FINISHED).is_file()


def mark_finished(folder, figures):
    """Say that a stage is done; its last figures are kept."""
    write_atomically(Path(folder) / FINISHED, lambda path: path.write_text(json.dumps(figures, indent=1) + "\n"))


def write_atomically(path, write):
    """``write(temporary path)``, then rename: the file is whole whenever the process is stopped."""
    temporary = path.with_name(path.name + ".part")
    write(temporary)
    os.replace(temporary, path)


def prepare(device, seed=0):
    """A device by name (the best there is when None), set up for fast training."""
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return device


class Compiled:
    """A module that runs through `torch.compile` until `switch_off`; equal to the module otherwise."""

    def __init__(self, module, enabled):
        self.module = module
        self.call = torch.compile(module, dynamic=False) if enabled else module

    def __call__(self, *args, **kwargs):
        return self.call(*args, **kwargs)

    def switch_off(self):
        """True if it was on."""
        was_on = self.call is not self.module
        self.call = self.module
        return was_on


class Run:
    """One stage of the training, with everything that a checkpoint holds.

    Parameters
    ----------
    folder : path                 checkpoint and log; training goes on from the checkpoint if there is one
    networks : dict of modules    all that is trained; moved to the device
    optimisation : Optimisation
    minutes : float               of training in all, those before an interruption included
    device : torch.device
    seed : int                    of the batches

    Attributes
    ----------
    generator : torch.Generator   on the device, for everything that is drawn
    step : int                    steps taken
    """

    def __init__(self, folder, networks, optimisation, minutes, device, seed=0):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.networks = torch.nn.ModuleDict(networks).to(device).train()
        self.optimisation = optimisation
        self.budget = 60.0 * minutes
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.step = 0
        self.elapsed = 0.0  # before this process
        self.waited = 0.0  # for first steps, which compile
        self.began = time.monotonic()
        self.parameters = [p for p in self.networks.parameters() if p.requires_grad]
        self.averages = [p.detach().clone() for p in self.parameters]
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.networks, optimisation.weight_decay), lr=0.0, betas=optimisation.betas, fused=True
        )
        self.compiled = []
        self.resume()

    def compile(self, module):
        """The module as `Compiled`; with torch.compile where the recipe says so and the device is a GPU."""
        self.compiled.append(Compiled(module, self.optimisation.compile and self.device.type == "cuda"))
        return self.compiled[-1]

    @property
    def seconds(self):
        """Of training, in all."""
        return self.elapsed + time.monotonic() - self.began

    @property
    def progress(self):
        """Share of the training that is done, 0 ... 1."""
        steps = self.step / self.optimisation.max_steps if self.optimisation.max_steps else 0.0
        return min(1.0, max(steps, self.seconds / self.budget if self.budget > 0 else 1.0))

    @property
    def schedule(self):
        """`progress` of the learning rate: compiling does not count."""
        waited = self.waited / self.budget if self.budget > 0 else 0.0
        return max(0.0, (self.progress - waited) / max(1e-9, 1 - waited))

    def train(self, loss, evaluate=None):
        """Take steps until the time is over; then the networks hold the averaged weights, in evaluation mode.

        Parameters
        ----------
        loss : callable       ``loss() -> (scalar tensor, dict of scalar tensors to log)`` for a fresh batch
        evaluate : callable   ``evaluate() -> dict of floats``, called now and then with the averaged weights

        Returns
        -------
        figures : dict of floats   of the last report

        Raises
        ------
        RuntimeError  if the gradients are no longer finite.
        """
        report = Report(self)
        clock = {"progress": time.monotonic(), "checkpoint": time.monotonic(), "evaluation": time.monotonic()}

        def is_due(name, seconds):
            if time.monotonic() - clock[name] < seconds:
                return False
            clock[name] = time.monotonic()
            return True

        if self.progress < 1.0:
            began = time.monotonic()
            report.add(self.take_step(loss))
            self.waited += time.monotonic() - began
        while self.progress < 1.0:
            report.add(self.take_step(loss))
            if is_due("progress", PROGRESS_SECONDS):
                report.write()
            if evaluate and is_due("evaluation", EVALUATION_SECONDS):
                with self.averaged(), report.paused():
                    report.log(evaluate())
            if is_due("checkpoint", CHECKPOINT_SECONDS):
                report.write()  # which refuses weights that are broken
                self.save()
        report.write()
        self.save()
        self.load_averages()
        return report.last

    def take_step(self, loss):
        """One step of the optimiser; tensors to log."""
        rate = learning_rate(self.optimisation, self.step, self.schedule)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        value, figures = self.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.optimisation.clip_norm)
        # a gradient that is not finite skips the step, without waiting for the device to know it
        skipped = self.optimiser.found_inf = (~torch.isfinite(norm)).float()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        get_ema_multi_avg_fn(ema_decay(self.optimisation, self.step))(self.averages, self.parameters, None)
        self.step += 1
        figures = {"loss": value, **figures, "gradient": norm, "skipped": skipped}
        return {name: figure.detach() for name, figure in figures.items()}

    def backward(self, loss):
        """Loss and its gradients; a first compiled step that fails is taken again without torch.compile."""
        try:
            return self.try_backward(loss)
        except Exception as error:
            were_on = [compiled.switch_off() for compiled in self.compiled]
            if not any(were_on):
                raise
            print(f"torch.compile does not work here, going on without it: {str(error)[:500]}", flush=True)
        self.optimiser.zero_grad(set_to_none=True)
        return self.try_backward(loss)

    def try_backward(self, loss):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            value, figures = loss()
        value.backward()
        return value, figures

    @contextmanager
    def averaged(self):
        """The networks with their averaged weights, in evaluation mode and without gradients."""
        kept = [p.detach().clone() for p in self.parameters]
        self.load_averages()
        try:
            with torch.no_grad():
                yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, kept)
            self.networks.train()

    @torch.no_grad()
    def load_averages(self):
        torch._foreach_copy_(self.parameters, self.averages)
        self.networks.eval()

    def save(self):
        state = {
            "networks": self.networks.state_dict(),
            "averages": self.averages,
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "seconds": self.seconds,
            "waited": self.waited,
        }
        write_atomically(self.folder / CHECKPOINT, lambda path: torch.save(state, path))

    @torch.no_grad()
    def resume(self):
        """Go on from the folder's checkpoint, and drop what was logged after it."""
        if not (self.folder / CHECKPOINT).is_file():
            (self.folder / LOG).unlink(missing_ok=True)
            return
        state = torch.load(self.folder / CHECKPOINT, map_location=self.device, weights_only=True)
        self.networks.load_state_dict(state["networks"])
        torch._foreach_copy_(self.averages, state["averages"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"].cpu())
        self.step, self.elapsed, self.waited = state["step"], state["seconds"], state["waited"]
        rows = (self.folder / LOG).read_text().splitlines() if (self.folder / LOG).is_file() else []
        kept = [row for row in rows if json.loads(row)["step"] <= self.step]
        write_atomically(self.folder / LOG, lambda path: path.write_text("".join(row + "\n" for row in kept)))
        print(f"going on from step {self.step}, after {self.elapsed:.0f} s", flush=True)


class Report:
    """Means of the figures since the last line: to the terminal and to the log.

    Attributes
    ----------
    last : dict of floats   what was written last
    """

    def __init__(self, run):
        self.run = run
        self.sums, self.count = {}, 0
        self.since = time.monotonic()
        self.last = {}

    def add(self, figures):
        """Add up the tensors of a step; nothing waits for the device."""
        for name, value in figures.items():
            value = value.float().nan_to_num(0.0, 0.0, 0.0)
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def write(self):
        """Means since the last line; `RuntimeError` when most of its steps were skipped."""
        if not self.count:
            return
        means = {name: float(value) / self.count for name, value in self.sums.items()}  # waits for the device
        now = time.monotonic()
        speed = self.count / max(now - self.since, 1e-9)
        self.sums, self.count, self.since = {}, 0, now
        if means["skipped"] > 0.5:
            raise RuntimeError(
                f"most gradients up to step {self.run.step} are not finite; run again to go on from the last "
                "checkpoint, or lower the learning rate in training/config.py"
            )
        self.log({**means, "steps_per_second": speed})

    @contextmanager
    def paused(self):
        """Time that does not count as training, for the steps per second."""
        began = time.monotonic()
        yield
        self.since += time.monotonic() - began

    def log(self, figures):
        run = self.run
        self.last.update(figures)
        row = {"step": run.step, "seconds": round(run.seconds, 2), **{k: float(f"{v:.5g}") for k, v in figures.items()}}
        with open(run.folder / LOG, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        texts = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"{100 * run.progress:3.0f} %  step {run.step}  {texts}", flush=True)
