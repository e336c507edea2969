"""Frames of the growing tree in a real page: milliseconds between frames, and of drawing one, with many leaves.

python benchmarks/frames.py [--leaves 500]
"""

import argparse
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "scripts"))
sys.path.insert(2, str(Path(__file__).resolve().parent.parent / "tests"))

from comfyui_host import ComfyServer
from comfyui_page import ROOT_GRAPH, TREE_PANEL, chromium, comfyui_page
from trees import synthetic_run

SAMPLER = "HierDiffBranchingSampler"
# Sends the messages of a run, 0.3 s apart as the server does, and notes each frame; then scrolls through the rows.
FILM = """async ([messages, selector]) => {
    const { api } = window.comfyAPI.api;
    const [times, frame] = [[], () => new Promise((next) => requestAnimationFrame(next))];
    const film = async (milliseconds, work = () => {}) => {
        const end = performance.now() + milliseconds;
        while (performance.now() < end) { work(); times.push(await frame()); }
    };
    const taken = () => { const gaps = times.slice(1).map((t, i) => t - times[i]); times.length = 0; return gaps; };
    await film(2000);
    const idle = taken();
    for (const message of messages) {
        api.dispatchCustomEvent("hierdiff.tree", message);
        await film(300);
    }
    const growing = taken();
    const panel = document.querySelector(selector);
    panel.querySelector("button").click();
    await frame();
    const view = panel.querySelector(".hierdiff-view");
    await film(3000, () => { view.scrollTop += 20; });
    return { idle, growing, scrolling: taken() };
}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leaves", type=int, default=500)
    leaves = parser.parse_args().leaves
    with ComfyServer() as server, chromium() as browser, comfyui_page(browser, server) as page:
        page.evaluate("(type) => app.graph.add(LiteGraph.createNode(type))", SAMPLER)
        node = page.node_of(SAMPLER)
        page.evaluate("(id) => app.graph.getNodeById(id).setSize([700, 800])", node)
        page.show(node)
        workflow = page.evaluate(f"{ROOT_GRAPH}.id")
        found = page.evaluate(FILM, [synthetic_run(leaves, 40, str(node), workflow), TREE_PANEL])
    print(f"{leaves} leaves, milliseconds from frame to frame")
    print("| page | frames | median | 95 % below | longest |\n|---|---|---|---|---|")
    for name, gaps in found.items():
        ordered = sorted(gaps)
        row = median(ordered), ordered[int(0.95 * len(ordered))], ordered[-1]
        print(f"| {name} | {len(gaps)} | " + " | ".join(f"{value:.1f}" for value in row) + " |")


if __name__ == "__main__":
    main()
