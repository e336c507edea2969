"""Writes reference.json: the planning half of Algorithm 1 on made-up embeddings, in SciPy's and NumPy's own calls.

Shares no code with hierdiff_core. Run it from anywhere: python tests/data/make_reference.py
"""

import json
from pathlib import Path

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

# prompts N, groups, width D, steps K, tau
SETS = [(4, 2, 5, 8, 1.0), (12, 3, 6, 10, 0.6), (30, 5, 6, 15, 2.0)]


def clustered_embeddings(rng, num_prompts, num_groups, width):
    """(2, N, D) float32 values, as a list; positives lie around a few centres."""
    centres = rng.normal(size=(num_groups, width))
    positive = centres[rng.integers(num_groups, size=num_prompts)] + 0.3 * rng.normal(size=(num_prompts, width))
    negative = rng.normal(size=(num_prompts, width))
    return np.stack([positive, negative]).astype(np.float32).astype(np.float64)


def run_steps(E, num_steps, tau):
    Z = linkage(pdist(E[0], "cosine"), method="ward")
    phi = np.linspace(0, tau, num_steps)[::-1]
    previous = np.ones(E.shape[1], dtype=int)
    steps = []
    for threshold in phi:
        raw = fcluster(Z, threshold, criterion="distance")
        names, first, labels, counts = np.unique(raw, return_index=True, return_inverse=True, return_counts=True)
        parents = [int(previous[i]) - 1 for i in first]
        means = [[E[side, raw == name].mean(axis=0).tolist() for name in names] for side in (0, 1)]
        steps.append(
            {
                "labels": labels.tolist(),
                "first": first.tolist(),
                "counts": counts.tolist(),
                "parents": parents,
                "means": means,
            }
        )
        previous = raw
    half = num_steps // 2
    mean_embeddings = {"step": half, "value": steps[half]["means"]}
    for step in steps:
        del step["means"]
    return {
        "N": E.shape[1],
        "tau": tau,
        "K": num_steps,
        "embeddings": E.tolist(),
        "Z": Z.tolist(),
        "phi": phi.tolist(),
        "steps": steps,
        "nfe": sum(len(step["counts"]) for step in steps),
        "mean_embeddings_at_half": mean_embeddings,
    }


def main():
    rng = np.random.default_rng(20250828)
    reference = [run_steps(clustered_embeddings(rng, n, groups, d), k, tau) for n, groups, d, k, tau in SETS]
    Path(__file__).with_name("reference.json").write_text(json.dumps(reference) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
