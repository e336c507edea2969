"""A set of 100,000 prompts on 1,000 workers, simulated: what breaks first, and what answers it.

    python benchmarks/scale_simulation.py [--prompts 100000] [--workers 1000] [--acceleration none]
                                          [--costs costs.json] [--seed 0]

Events: a worker asks a driver for work, gets a piece of the plan over the driver's link, denoises it batch by batch,
decodes, and sends back what the design says. Pieces are cut as `hierdiff_core/sampling/executor_cut.py` cuts them.
Costs are measured or assumed, as `scale_model.Costs` says; `scale_costs.py` measures those of a driver on your machine.
The same seed gives the same figures. Tables in docs/measurements/scale.md; what follows is in docs/scale-out.md.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from scale_calls import ROW_MS
from scale_model import DEEP, FLAT, PER_GPU, Costs, Design, Simulation, World, tree_of

BASE = Design("one driver, latents to it")
WRITE = replace(BASE, name="workers write pictures", sends="nothing")
WARM = replace(WRITE, name="workers write, and were there before", warm=True)
TREE = replace(WARM, name="warm, 8 drivers", drivers=8)
DESIGNS = (
    BASE,
    replace(BASE, name="pictures to it", sends="pictures"),
    WRITE,
    replace(WRITE, name="workers write, weights on local disks", local_weights=True),
    WARM,
    replace(WARM, name="warm, each piece recomputes its trunk", recompute=True),
    replace(WARM, name="warm, half as many pieces", per_worker=PER_GPU / 2),
    replace(WARM, name="warm, pieces of 32 rows a step", batch=32),
    TREE,
    replace(TREE, name="warm, 8 drivers, recompute", recompute=True),
    replace(TREE, name="warm, 32 drivers", drivers=32),
)
TROUBLED = (
    WARM,
    replace(WARM, name="warm, speeds unknown", by_speed=False),
    replace(WARM, name="warm, speeds unknown, copies at the end", by_speed=False, copies=True),
    replace(WARM, name="warm, speeds unknown, twice as many pieces", by_speed=False, per_worker=2 * PER_GPU),
    replace(WARM, name="warm, copies at the end", copies=True),
)
AUTO = Costs(row_ms=tuple(ROW_MS["H100", "auto"].items()), decode=0.0069)  # docs/measurements/acceleration.md
COLUMNS = {
    "seconds": "{:.1f}",
    "start s": "{:.1f}",
    "efficiency": "{:.3f}",
    "with start": "{:.3f}",
    "first picture s": "{:.1f}",
    "driver": "{:.0%}",
    "link": "{:.0%}",
    "GB": "{:.1f}",
    "pieces": "{}",
    "rows": "{:.3f}",
    "deaths": "{}",
}


def table(title, rows):
    """Print a table of (name, figures)."""
    print(f"\n**{title}**\n\n| | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}", flush=True)
    for name, figures in rows:
        cells = [text.format(figures[column]) for column, text in COLUMNS.items()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--acceleration", default="none", choices=("none", "auto"), help="as of one H100")
    parser.add_argument("--costs", type=Path, help="a JSON object with other `Costs`, as scale_costs.py prints it")
    options = parser.parse_args()
    costs = Costs() if options.acceleration == "none" else AUTO
    costs = replace(costs, **json.loads(options.costs.read_text())) if options.costs else costs
    simulated = lambda tree, design, world: Simulation(tree, design, world, costs).run()  # noqa: E731
    for kind in (DEEP, FLAT):
        tree, world = tree_of(options.prompts, kind, options.seed), World(options.workers, seed=options.seed)
        title = f"{options.prompts} prompts, {tree.rows} rows, {kind}, {options.workers} workers"
        table(title, ((design.name, simulated(tree, design, world)) for design in DESIGNS))
    tree = tree_of(options.prompts, DEEP, options.seed)
    by_workers(tree, options, simulated)
    trouble(tree, options, simulated)
    few(options, simulated)


def few(options, simulated):
    """What scale.py should find on one machine."""
    sets = [(prompts, kind) for prompts in (256, 2000) for kind in (DEEP, FLAT)]
    trees = {f"{prompts} prompts, {kind}": tree_of(prompts, kind, options.seed) for prompts, kind in sets}
    worlds = [World(workers, seed=options.seed) for workers in (2, 4, 8)]
    rows = (
        (f"{name}, {world.workers} workers", simulated(tree, WARM, world))
        for name, tree in trees.items()
        for world in worlds
    )
    table(f"Few prompts, few workers, {WARM.name}", rows)


def by_workers(tree, options, simulated):
    """From which number of workers on a design breaks."""
    for design in (WARM, TREE):
        worlds = [World(options.workers // part, seed=options.seed) for part in (30, 10, 3, 1)]
        rows = ((world.workers, simulated(tree, design, world)) for world in worlds if world.workers >= design.drivers)
        table(f"{options.prompts} prompts, {DEEP}, {design.name}, by workers", rows)


def trouble(tree, options, simulated):
    """Slow workers and dying ones."""
    worlds = {
        "all well": World(options.workers // 10, seed=options.seed),
        "5 % three times as slow": World(options.workers // 10, slow=0.05, seed=options.seed),
        "each dies once in an hour": World(options.workers // 10, deaths=1.0, seed=options.seed),
        "each dies ten times in an hour": World(options.workers // 10, deaths=10.0, seed=options.seed),
    }
    for design in TROUBLED:
        rows = ((name, simulated(tree, design, world)) for name, world in worlds.items())
        table(f"{options.prompts} prompts, {DEEP}, {options.workers // 10} workers, {design.name}", rows)


if __name__ == "__main__":
    main()
