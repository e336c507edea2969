"""NFE and tau on the paper's prompt sets, embedded by the bundled prior, beside what the paper reports.

    python benchmarks/paper_sets.py --prompts FOLDER [--first N]

FOLDER holds the paper's prompt lists, a prompt a line: genai_bench.txt, prompt_templates.txt, style_variations.txt,
animals.txt. The bundled prior has seen names of emoji only; the last column says how many of a set's words its
tokenizer knows as a whole.
"""

import argparse
import sys
from pathlib import Path

import diffusers
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hierdiff_core import (
    Budget,
    Profile,
    PromptTree,
    embed_prompts,
    load_prior,
    plan_for,
)

STEPS = 40
# saved at tau = 1 with Kandinsky 2.2's prior: the paper's tables
REPORTED = {
    "genai_bench": 0.5043,
    "prompt_templates": 0.6925,
    "style_variations": 0.7393,
    "animals": 0.6280,
}


def known_words(tokenizer, prompts):
    """Share of the words that are a single token."""
    words = [word for prompt in prompts for word in prompt.lower().replace(",", " ").replace(".", " ").split()]
    return np.mean([len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in words])


def row(name, prompts, embeddings, known):
    profile = Profile(STEPS)
    cells = []
    for metric in ("cosine", "chord"):
        tree = PromptTree.of(embeddings.positive, metric)
        saved = [plan_for(tree, Budget("tau", tau), profile).saved for tau in (0.25, 0.5, 1.0, 2.0)]
        tau = Budget("saving", REPORTED[name], clamp=True).tau(tree, profile)
        cells += [f"{tree.root_height:.2f}", *(f"{100 * share:.1f}" for share in saved), f"{tau:.3f}"]
    paper = f"{100 * REPORTED[name]:.1f}"
    return f"| {name} | {len(prompts)} | {paper} | " + " | ".join(cells) + f" | {known:.0%} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=Path, required=True, help="folder with the paper's prompt lists")
    parser.add_argument("--first", type=int, help="only so many prompts of each set")
    options = parser.parse_args()
    diffusers.utils.logging.set_verbosity_error()  # it prints each prompt that is longer than the prior reads
    prior = load_prior(device="cuda" if torch.cuda.is_available() else "cpu")
    columns = "root height | τ=0.25 | 0.5 | 1 | 2 | τ for the paper's saving"
    print("| | | paper | cosine | | | | | | chord | | | | | | |")
    print("|---" * 16 + "|")
    print(f"| set | prompts | saved %, τ=1 | {columns} | {columns} | words known |")
    for name in REPORTED:
        prompts = (options.prompts / f"{name}.txt").read_text(encoding="utf-8").split("\n")
        prompts = [prompt.strip() for prompt in prompts if prompt.strip()][: options.first]
        embeddings = embed_prompts(prior, prompts, guidance=4.0, seed=42, batch_size=64)
        print(row(name, prompts, embeddings, known_words(prior.tokenizer, prompts)), flush=True)


if __name__ == "__main__":
    main()
