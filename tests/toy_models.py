"""Models of a few lines whose time of decision is a parameter, on a workbench for the advisor.

A picture is a point. While the noise level passes through the decision, it moves towards the point of its prompt; what
it was before is forgotten, and what comes after changes nothing any more.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from hierdiff_core import PromptTree
from hierdiff_core.measure.advice import Drawn, sampled_prompts, sampled_tree

RATE = 8.0  # exp(-RATE) is what is left of before


@dataclass
class ToyBench:
    """A model with S sampled prompts.

    `decision` is the noise level at which pictures are decided, `width` how gradually. `per_step` is what few steps
    cost, `unguided` what a run without guidance would; `mended` how much a boost quickens the decision, `spoilt` what
    it costs. `blur` is chance, in shares of the adherence.
    """

    positive: np.ndarray
    decision: float = 0.1
    width: float = 0.04
    per_step: float = 0.0
    unguided: float = 0.0
    mended: float = 0.0
    spoilt: float = 0.0
    blur: float = 0.005
    steps: int = 40
    samples: int = 8
    seed: int = 0
    guided: bool = True
    caches: tuple = ()
    fingerprint: str = "toy"
    settings: dict = field(default_factory=lambda: {"sampler": "euler", "steps": 40, "cfg": 3.0})
    adherence_passes: int = 10
    decodes: bool = False
    whole: PromptTree | None = None

    def __post_init__(self):
        if self.whole is None:
            self.whole = PromptTree.of(self.positive, "chord", [f"prompt {i}" for i in range(len(self.positive))])
        self.rows = sampled_prompts(self.whole, self.samples, self.seed)
        self.tree = sampled_tree(self.whole, self.rows)
        self.ways, self.stop_at = [], None

    def levels(self, steps):
        return np.linspace(1, 0, steps + 1)[:-1]

    def draw(self, way, plan, repeat=0):
        if self.stop_at is not None and len(self.ways) == self.stop_at:
            raise KeyboardInterrupt
        self.ways.append((way, repeat))
        return self.drawn(plan, self.positive[self.rows], way, repeat)

    def drawn(self, plan, positive, way, repeat):
        unit = positive / np.linalg.norm(positive, axis=1, keepdims=True)
        points, quickened = np.zeros((1, unit.shape[1])), plan.guidance.factors(plan, way.levels)
        edges = np.append(way.levels, 0)
        lost, courses = np.zeros(1), zip(plan.steps, quickened, edges, edges[1:], strict=False)
        for step, factors, high, low in courses:
            means = np.stack([unit[own].mean(axis=0) for own in step.members])
            rate = self.decided(high, low) * np.where(factors > 1, 1 + self.mended, 1)
            points, lost = points[step.parents], lost[step.parents]
            points = means + (points - means) * np.exp(-rate)[:, None]
            lost = lost + self.spoilt * (factors > 1) / plan.num_steps
            lost = lost + self.unguided * (factors == 0) * (high**3 - low**3) * self.guided
        labels = plan.steps[-1].labels
        cost = lost[labels] + self.per_step / plan.num_steps**2 + (0.01 if way.cache else 0)
        rng = np.random.default_rng([repeat, len(way.levels), round(1e6 * way.trunk), round(1e6 * way.guidance.end)])
        cost = cost + self.blur * np.abs(rng.normal(size=len(labels)))
        numbers = np.concatenate([points[labels], np.sqrt(np.maximum(cost, 0))[:, None]], axis=1)
        pictures = None
        if self.decodes:
            pictures = torch.from_numpy(np.random.default_rng(repeat).random((len(labels), 32, 32, 3)))
        passes = way.passes(self.tree, self.guided) * self.tree.num_distinct / 2 if way.cache else None
        return Drawn(torch.from_numpy(numbers), pictures, passes)

    def decided(self, high, low):
        """How much of the decision lies between two noise levels, times RATE."""
        places = [(level - self.decision) / self.width for level in (low, high)]
        return RATE * (math.erf(places[1]) - math.erf(places[0])) / 2

    def adherence(self, latents):
        return self.followed(latents, self.positive[self.rows])

    def followed(self, latents, positive):
        """What the prompts take off the error, at most 0.8 of it."""
        unit = positive / np.linalg.norm(positive, axis=1, keepdims=True)
        numbers = latents.numpy()
        own = np.square(numbers[:, :-1] - unit).sum(axis=1) + numbers[:, -1] ** 2
        return (0.8 - own) / 1.0

    def loss_on_all(self, way, repeat=7):
        """Per cent lost on the whole set, with a noise that nobody saw."""
        whole, full = self.whole, type(way)(tuple(self.levels(self.steps)))
        found = [
            self.followed(self.drawn(own.plan(whole), self.positive, own, repeat).latents, self.positive).mean()
            for own in (full, way)
        ]
        return 100 * (found[0] - found[1]) / found[0]


def prompts(parts=6, each=6, near=0.3, seed=0, width=16):
    """(parts * each, width) embeddings in groups of neighbours."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.normal(size=(parts, width)), each, 0) + near * rng.normal(size=(parts * each, width))
