"""Whether the advisor's advice holds: on sets, seeds and settings that it was not measured on, by judges.

    python benchmarks/advice.py [--small] [--models emoji scenes] [--minutes 6] [--workers 10] [--out advice.jsonl]
                                [--emoji-judge FOLDER] [--scene-judge FILE] [--scenes FOLDER]
    python benchmarks/advice.py --report advice.jsonl [--figure advice.png]

For each model: advice is measured once on a calibration set, with goal *no visible loss* (the scene model also with
step caches) and for five budgets; its plans then draw 10 other sets with 4 other seeds, beside full sampling and, at
equal passes, each single means. And 40 random cases of a set, a sampler and a strength of guidance: is more lost on the
whole set, with other seeds, than was promised?

Every result is a line of the file as soon as there is one. A second run goes on with what is missing.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from advice_report import ADVISED, FULL, figure, report
from advice_ways import SINGLE, passes_of
from judged_models import (
    JUDGES,
    SCENES,
    Emoji,
    Scenes,
    device_of,
    emoji_judge,
    emoji_sets,
    scene_judge,
    scene_sets,
    scored,
    slices,
)

from hierdiff_core.measure.advice import GOALS, advise, read_advice, write_advice
from hierdiff_core.measure.detail import detail_loss
from hierdiff_core.measure.losses import mean_and_error, relative_loss
from hierdiff_core.plan.algebra import alone

LOSSLESS, ROWS = GOALS
ALLOWED = 3.0  # per cent
BUDGETS = (0.6, 0.45, 0.3, 0.2, 0.125)  # of the passes of full sampling
FAILED = "failed"
CALIBRATION_SEED, FIRST_SEED, CASE_SEED = 7, 1000, 5000
EMOJI_CASES = {"scheduler": ("DDPM", "DDIM", "Euler", "Euler ancestral", "DPM++ 2M", "UniPC"), "guidance": (2, 3, 4, 6)}
SCENE_CASES = {
    "sampler": ("euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "ddim", "uni_pc", "res_multistep", "heun"),
    "scheduler": ("simple", "normal", "beta", "sgm_uniform"),
    "cfg": (2.0, 3.0, 4.5, 6.0),
}


# --- models ----------------------------------------------------------------------------------------------------------


class Work:
    """One worker's models, judges and file.

    Parameters
    ----------
    options : Namespace
    lock : Lock   of the file
    """

    def __init__(self, options, lock):
        self.options, self.lock = options, lock
        self.judges = {}
        torch.backends.cudnn.allow_tf32 = False
        torch.set_num_threads(1)

    def judge(self, name):
        if name not in self.judges:
            load, path = (
                (emoji_judge, self.options.emoji_judge) if name == "emoji" else (scene_judge, self.options.scene_judge)
            )
            self.judges[name] = load(path, device_of())
        return self.judges[name]

    def model(self, name, sets, **settings):
        """`Emoji` or `Scenes` of some sets."""
        judge = self.judge(name)
        if name == "emoji":
            return Emoji(sets, judge, **settings)
        return Scenes(sets, judge.names, judge, self.options.scenes, **settings)

    def sets(self, name, count, size, seed=0):
        """Sets that calibration never saw (seed 0), or others."""
        if name == "emoji":
            return emoji_sets(count, size)
        return scene_sets(count, size, len(self.judge(name).names), seed)

    def calibration(self, name):
        """One set of other prompts, of all kinds."""
        count = 6 if self.options.small else 48
        if name == "emoji":
            return self.model(name, emoji_sets(None, count, calibration=True))
        return self.model(name, {"all kinds": np.concatenate([*self.sets(name, 4, count // 4, 99).values()])})

    def write(self, **row):
        with self.lock, self.options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def steps(self, name):
        return (8 if name == "emoji" else 6) if self.options.small else {"emoji": 40, "scenes": 20}[name]


# --- sets that calibration never saw ---------------------------------------------------------------------------------


class Unseen:
    """Advice from a calibration set, and what it makes of other sets.

    Parameters
    ----------
    work : Work
    name : str   of the model
    """

    def __init__(self, work, name):
        self.work, self.name, self.options = work, name, work.options
        self.steps = work.steps(name)
        self.folder = self.options.out.with_suffix(".kept") / name

    @property
    def goals(self):
        """name -> goal, value, whether with step caches"""
        budgets = BUDGETS[2:3] if self.options.small else BUDGETS
        goals = [(LOSSLESS, ALLOWED, False), *((ROWS, share * self.steps, False) for share in budgets)]
        goals += [(LOSSLESS, ALLOWED, True)] if self.name == "scenes" else []
        return {
            f"{goal} {value:g}{', with step caches' * caches}": (goal, value, caches) for goal, value, caches in goals
        }

    def path(self, key):
        return self.folder / f"advice {list(self.goals).index(key)}.json"

    def ask(self):
        """Write all advice that is needed: what was drawn for one goal is found again for the next."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / FAILED).unlink(missing_ok=True)
        calibration = self.work.calibration(self.name)
        calibration.start(CALIBRATION_SEED)
        for key, (goal, value, caches) in self.goals.items():
            began = time.monotonic()
            samples = 4 if self.options.small else 12
            bench, tree = calibration.workbench(samples, CALIBRATION_SEED, self.steps, caches)
            advice = advise(bench, tree, goal, value, folder=self.folder / "trials")
            self.work.write(
                kind="advice",
                model=self.name,
                goal=key,
                passes=advice.chosen.passes,
                full=advice.full.passes,
                loss=advice.loss,
                promised=advice.promised,
                verdict=advice.verdict,
                met=advice.met,
                sentences=advice.sentences,
                seconds=time.monotonic() - began,
            )
            write_advice(advice, self.path(key))

    def draw(self, number):
        """All sets with one seed, in all ways."""
        count, size = (2, 6) if self.options.small else (10, 24)
        model = self.work.model(self.name, self.work.sets(self.name, count, size))
        model.start(FIRST_SEED + number)
        full = self.add(model, FULL, FULL, self.full(model), None)
        for key in self.goals:
            self.wait_for(self.path(key))
            advice = read_advice(self.path(key))
            plans = [advice.plan_for(tree) for tree in model.trees.values()]
            self.add(model, key, ADVISED, plans, full, advice.chosen.way.cache)
            if key.startswith(ROWS):
                self.alone(model, key, plans, full)
        self.work.write(kind="drawn", model=self.name, seed=model.seed)

    def wait_for(self, path):
        """Another worker is measuring."""
        while not path.is_file():
            if (self.folder / FAILED).is_file():
                raise RuntimeError("there is no advice")
            time.sleep(0.5)

    def full(self, model):
        return [alone(tree.num_prompts, self.steps, tree.keys) for tree in model.trees.values()]

    def alone(self, model, goal, advised, full):
        """Each single means with as many passes as the advised plans have on average, or fewer."""
        passes = sum(passes_of(plan) for plan in advised) / len(advised)
        for means, make in SINGLE.items():
            plans = [make(tree, self.steps, passes) for tree in model.trees.values()]
            if all(plan is not None for plan in plans):
                self.add(model, goal, means, plans, full)

    def add(self, model, goal, way, plans, full, cache=""):
        """Draw, judge, write a line for each set; gives the drawing."""
        drawn = model.draw(plans, cache)
        figures = scored(model, drawn, full)
        for (name, plan), here in zip(zip(model.trees, plans, strict=True), slices(model), strict=True):
            self.work.write(
                kind="unseen",
                model=self.name,
                goal=goal,
                way=way,
                set=name,
                seed=model.seed,
                passes=passes_of(plan) if drawn.passes is None else drawn.passes,
                pictures=here.stop - here.start,
                **{key: float(values[here].mean()) for key, values in figures.items()},
            )
        return drawn


# --- wrong advice ----------------------------------------------------------------------------------------------------


def cases(options):
    """Settings of the random cases: (model, number)."""
    count = 2 if options.small else 40
    return [(options.models[i % len(options.models)], i) for i in range(count)]


def settings_of(name, number):
    """Sampler and strength of a case."""
    rng = np.random.default_rng([CASE_SEED, number])
    choices = EMOJI_CASES if name == "emoji" else SCENE_CASES
    return {key: rng.choice(np.array(values)).item() for key, values in choices.items()}, int(rng.integers(1000))


def run_case(work, name, number):
    """Advice on a set, as a user asks for it, and what the whole set loses with two other seeds."""
    began = time.monotonic()
    settings, seed = settings_of(name, number)
    size = 6 if work.options.small else 24
    sets = work.sets(name, 13 if name == "emoji" else 12, size, 50 + number)
    chosen = list(sets)[seed % len(sets)]
    model = work.model(name, {chosen: sets[chosen]}, **settings)
    model.start(seed)
    bench, tree = model.workbench(4 if work.options.small else 8, seed, work.steps(name))
    advice = advise(bench, tree, LOSSLESS, ALLOWED)
    plan = advice.plan_for(tree)
    found = whole_set(model, plan, work.steps(name), (seed + 101, seed + 102))
    work.write(
        kind="case",
        model=name,
        number=number,
        set=chosen,
        settings=settings,
        promised=advice.promised,
        expected=advice.loss,
        verdict=advice.verdict,
        met=advice.met,
        said=advice.sentences[0],
        passes=passes_of(plan) / (2 * work.steps(name)),
        seconds=time.monotonic() - began,
        **found,
    )


def whole_set(model, plan, steps, seeds):
    """Losses in per cent, with standard errors, and what the judge finds."""
    rows, pictures = {"full": [], "advised": []}, []
    for seed in seeds:
        model.seed = seed  # of the noise: the embeddings of the emoji are the user's
        full = model.draw([alone(plan.num_prompts, steps, plan.prompt_keys)])
        pictures.append(full.pictures)
        rows["full"].append(scored(model, full))
        rows["advised"].append(scored(model, model.draw([plan]), full))
    column = {way: {key: np.array([one[key] for one in found]) for key in found[0]} for way, found in rows.items()}
    loss, error = mean_and_error(relative_loss(column["advised"]["adherence"], column["full"]["adherence"]))
    detail, detail_error = mean_and_error(column["advised"]["detail"])
    chance = mean_and_error(detail_loss(pictures[1], pictures[0]))[0]  # as the advisor counts it
    detail = float(np.sqrt(max(detail**2 - chance**2, 0.0))) if detail > 0 else detail
    return {
        "losses": {"adherence": 100 * loss, "detail": 100 * detail},
        "errors": {"adherence": 100 * error, "detail": 100 * detail_error},
        "right": {way: float(values["right"].mean()) for way, values in column.items()},
    }


# --- all of it -------------------------------------------------------------------------------------------------------

WORK = []


def begin(options, lock):
    """In each worker."""
    WORK.append(Work(options, lock))


@torch.no_grad()
def run(task):
    """A task in a worker; what goes wrong is a line of the file too."""
    kind, name, number = task
    work = WORK[0]
    try:
        if kind == "case":
            run_case(work, name, number)
        elif kind == "advice":
            Unseen(work, name).ask()
        else:
            Unseen(work, name).draw(number)
        work.write(kind="done", task=task)
    except Exception as error:  # the others go on
        traceback.print_exc()
        work.write(kind="failed", task=task, error=f"{type(error).__name__}: {error}"[:500])
        if kind == "advice":
            (Unseen(work, name).folder / FAILED).touch()
    return task


def tasks(options):
    """Those that are not done yet, in the order that they begin: what others wait for first."""
    random = [("case", *case) for case in cases(options)]
    seeds = range(1 if options.small else 4)
    unseen = [("unseen", name, number) for number in seeds for name in options.models]
    advice = [("advice", name, 0) for name in options.models]
    while_measured = len(random) // 2
    everything = [*advice, *random[:while_measured], *unseen, *random[while_measured:]]
    done = {tuple(row["task"]) for row in rows_of(options.out) if row["kind"] == "done"}
    return [task for task in everything if task not in done]


def rows_of(path):
    """Lines of a file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check_judges(options):
    """The models whose judges are there."""
    paths = {"emoji": options.emoji_judge / "judge.safetensors", "scenes": options.scene_judge}
    missing = [name for name in options.models if not paths[name].is_file()]
    for name in missing:
        print(f"{name}: left out, there is no judge at {paths[name]}", file=sys.stderr)
    return [name for name in options.models if name not in missing]


def measure(options):
    """All tasks, until the time is over."""
    began, todo = time.monotonic(), tasks(options)
    machine = torch.cuda.get_device_name() if device_of() == "cuda" else "CPU"
    context = multiprocessing.get_context("spawn")
    lock = context.Lock()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": "machine", "machine": f"{machine}, torch {torch.__version__}"}) + "\n")
    with context.Pool(options.workers, begin, (options, lock)) as pool:  # leaving it ends what still runs
        results = pool.imap_unordered(run, todo)
        for _ in todo:
            left = 60 * options.minutes - (time.monotonic() - began)
            try:
                task = results.next(timeout=max(left, 0.1))
            except multiprocessing.TimeoutError:
                print("the time is over: what is done is reported", file=sys.stderr)
                break
            print(f"{time.monotonic() - began:.0f} s: {' '.join(map(str, task))}", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few prompts, steps and cases: for a CPU")
    parser.add_argument("--models", nargs="+", default=["emoji", "scenes"], choices=["emoji", "scenes"])
    parser.add_argument("--minutes", type=float, default=6.0, help="for everything; what is done then is reported")
    parser.add_argument("--workers", type=int, help="processes; 10 by default, 1 with --small")
    parser.add_argument("--emoji-judge", type=Path, default=JUDGES / "run" / "judge")
    parser.add_argument("--scene-judge", type=Path, default=JUDGES / "scenes" / "judges" / "judge-202.safetensors")
    parser.add_argument("--scenes", type=Path, default=SCENES, help="folder of the scene model")
    parser.add_argument("--out", type=Path, default=Path("advice.jsonl"))
    parser.add_argument("--report", type=Path, metavar="JSONL", help="only print the tables again")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="also draw the figure")
    options = parser.parse_args()
    options.workers = options.workers or (1 if options.small else 10)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
    if not options.report:
        options.models = check_judges(options) or sys.exit("nothing can be judged")
        measure(options)
    rows = rows_of(options.report or options.out)
    print(report(rows))
    if options.figure:
        figure(rows).save(options.figure)


if __name__ == "__main__":
    main()
