"""What makes a prior work at high guidance: four ways to train a small one on random embeddings, compared on a CPU.

python training/guidance.py [--steps 700]

400 embeddings of 24 numbers, in 80 groups of 5 as emoji have styles, each with a random caption; a prior of two layers.
"""

import argparse
import contextlib
import io
import tempfile
from dataclasses import replace

import torch
import torch.nn.functional as F
from config import FULL, PRIOR, Optimisation
from loop import Run
from prior import Batches, make_prior, noised, rollout
from tokens import Captions

GROUPS, STYLES, WIDTH, TOKENS = 80, 5, 24, 4
COUNT = GROUPS * STYLES
SHAPE = {**PRIOR, "num_attention_heads": 3, "num_layers": 2, "embedding_dim": WIDTH, "num_embeddings": TOKENS}
LONGEST = FULL.prior.largest_guidance


class Toy:
    """Embeddings with captions, and a prior that is trained on them in the way of `name`, a key of `WAYS`."""

    def __init__(self, name, steps, folder):
        torch.manual_seed(0)
        rows = torch.randn(GROUPS, 1, WIDTH) + 0.6 * torch.randn(GROUPS, STYLES, WIDTH)
        rows = (rows + 0.5 * torch.randn(1, STYLES, WIDTH)).flatten(0, 1)
        self.embeddings = (rows - rows.mean(0)) / rows.std(0)
        self.hidden = torch.randn(COUNT + 1, TOKENS, WIDTH)
        self.hidden[0] = 0  # the empty caption
        with torch.no_grad():
            prior = make_prior(torch.zeros(WIDTH), torch.ones(WIDTH), SHAPE)
        self.way, changes, batch = WAYS[name]
        optimisation = Optimisation(batch, 2e-3, warm_up=50, ema=0.995, max_steps=steps)
        self.config = replace(FULL.prior, optimisation=optimisation, rollout_every=20, rollout_rows=256, **changes)
        self.run = Run(folder, {"prior": prior}, optimisation, 60, torch.device("cpu"))
        rows = torch.arange(1, COUNT + 1)[:, None]
        captions = Captions(torch.zeros(COUNT + 1, TOKENS), torch.ones(COUNT + 1, TOKENS, dtype=torch.bool), rows)
        everything = torch.arange(COUNT)
        self.batches = Batches(self.run, self.texts, captions, self.embeddings, everything, self.config)

    def texts(self, rows):
        hidden = self.hidden[rows]
        mask = torch.ones(len(rows), TOKENS, dtype=torch.bool)
        return {"proj_embedding": hidden.mean(1), "encoder_hidden_states": hidden, "attention_mask": mask}

    def train(self):
        with contextlib.redirect_stdout(io.StringIO()):
            self.run.train(lambda: self.way(self.batches))

    @torch.no_grad()
    def measure(self, guidance, steps=25):
        """Top-1 retrieval, and squared error in deviations, of samples for all captions."""
        texts = self.batches.both_texts(torch.arange(1, COUNT + 1))
        generator = torch.Generator().manual_seed(1)

        def predict(x, t):
            return self.run.networks["prior"](x.repeat(2, 1), t, **texts, return_dict=False)[0].chunk(2)

        start = torch.randn((COUNT, WIDTH), generator=generator)
        guidances = torch.full((COUNT, 1), guidance)
        found = rollout(predict, self.batches.scheduler, steps, start, guidances, generator)[2]
        nearest = torch.cdist(found, self.embeddings).argmin(1)
        return float((nearest == torch.arange(COUNT)).float().mean()), float(F.mse_loss(found, self.embeddings))


def guided_loss(batches):
    """The loss of prior.py."""
    return batches.loss()


def usual_loss(batches, longer=0.0):
    """Squared error of single predictions, a tenth without caption; `longer` is the share of lengthened embeddings."""
    count = batches.config.optimisation.batch
    pictures, captions = batches.draw(count)
    captions = captions.masked_fill(batches.uniform(count) < 0.1, 0)
    x0 = batches.embeddings[pictures]
    length = torch.where(batches.uniform(count) < longer, 1 + (LONGEST - 1) * batches.uniform(count), 1.0)
    limit = batches.scheduler.config.clip_sample_range
    timesteps = batches.integers(len(batches.signal), count)
    x = noised((length[:, None] * x0).clamp(-limit, limit), batches.normal(count), batches.signal[timesteps])
    predicted = batches.prior(x, timesteps, **batches.texts(captions), return_dict=False)[0]
    return F.mse_loss(predicted, x0), {}


def lengthened_loss(batches):
    return usual_loss(batches, longer=0.5)


# loss, changes of config.Prior, and batch: a guided prediction takes two passes
WAYS = {
    "single predictions, 10 % without caption": (usual_loss, {}, 512),
    "the same, half of the inputs from embeddings 1 to 4.2 times as long": (lengthened_loss, {}, 512),
    "guided predictions": (guided_loss, {"rollout_share": 0.0}, 256),
    "guided predictions, half of the inputs from rollouts": (guided_loss, {}, 256),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=700)
    steps = parser.parse_args().steps
    print("| what is trained | top-1 at guidance 1 | error | top-1 at 4 | error |\n|---|---|---|---|---|")
    for name in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            toy = Toy(name, steps, folder)
            toy.train()
            figures = [figure for guidance in (1.0, 4.0) for figure in toy.measure(guidance)]
        print(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |", flush=True)


if __name__ == "__main__":
    main()
