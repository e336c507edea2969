"""Train the prior: a transformer that predicts the embedding of a picture from its caption, by diffusion.

python training/prior.py [--out RUN] [--data FOLDER] [--minutes M] [--smoke] [--device D]

It predicts the clean embedding x0 from a noised one x: c with the caption, u without. A sampler with guidance w goes on
from u + w (c - u). Trained one by one, c and u spoil this: c is exact, since the caption says which picture is meant,
but u has to guess, and at w = 4 the guided embedding is off by three times the error of u, in each step anew. So the
loss is that of the guided embedding itself, for a random w between 1 and `largest_guidance`. For any error of u the
best c then lies about a third of the way from u to x0, and each step of a sampler leaves between -0.4 and 0.7 of the
error that it found, whatever the guidance. Half of the noised embeddings are states that guided samplers reached
(rollouts), so that the network knows what guidance makes of them.
"""

import torch
import torch.nn.functional as F
from clip_pair import EMBEDDINGS
from clip_pair import FOLDER as PAIR
from config import IMAGE_PROCESSOR, PRIOR, PRIOR_SCHEDULER
from diffusers import KandinskyV22PriorPipeline, PriorTransformer, UnCLIPScheduler
from loop import Run
from safetensors.torch import load_file
from stage import batches, exact_distances, rounded_to_half, run_stage, trained_indices
from tokens import caption_texts, tokenise
from transformers import CLIPImageProcessor, CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection

FOLDER = "prior"
ROLLOUT_STEPS = (10, 25, 50)


def noised(x0, noise, signal):
    """The diffusion's forward process; `signal` (B,) is the product of the alphas."""
    return signal.sqrt()[:, None] * x0 + (1 - signal).sqrt()[:, None] * noise


def guided(unconditional, conditional, guidance):
    """Classifier-free guidance; `guidance` is a number or (B, 1)."""
    return unconditional + guidance * (conditional - unconditional)


@torch.no_grad()
def rollout(predict, scheduler, steps, start, guidance, generator):
    """The states that a guided sampler passes through.

    Parameters
    ----------
    predict : callable           ``(x_t, t) -> (unconditional, conditional)`` predictions of x0
    scheduler : UnCLIPScheduler
    steps : int
    start : (B, D) tensor        noise
    guidance : (B, 1) tensor
    generator : torch.Generator

    Returns
    -------
    states : (steps, B, D) tensor    what each prediction was made from
    timesteps : list of int
    result : (B, D) tensor           the sample
    """
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    states, x = [], start
    for t, previous in zip(timesteps, [*timesteps[1:], None], strict=True):
        states.append(x)
        x0 = guided(*predict(x, t), guidance)
        x = scheduler.step(x0, t, x, prev_timestep=previous, generator=generator).prev_sample
    return torch.stack(states), timesteps, x


class Texts:
    """What the text encoder says about every caption; computed once, kept in half precision."""

    @torch.no_grad()
    def __init__(self, text_encoder, captions):
        parts = [text_encoder(input_ids=captions.tokens[rows]) for rows in batches(len(captions.tokens), 1024)]
        self.embeds = torch.cat([part.text_embeds.half() for part in parts])
        self.hidden = torch.cat([part.last_hidden_state.half() for part in parts])
        self.mask = captions.mask

    def __call__(self, rows):
        """Keyword arguments of `PriorTransformer` for rows of captions, as the pipeline passes them."""
        return {
            "proj_embedding": self.embeds[rows].float(),
            "encoder_hidden_states": self.hidden[rows].float(),
            "attention_mask": self.mask[rows],
        }


class Batches:
    """Draws noised embeddings and captions and has the loss of the prior on them.

    Parameters
    ----------
    run : Run                        with a network "prior"
    texts : callable                 rows -> keyword arguments of the prior
    captions : Captions
    embeddings : (P, D) tensor       of all pictures, normalised
    trained : (T,) int64 tensor      pictures to train on
    config : config.Prior
    """

    def __init__(self, run, texts, captions, embeddings, trained, config):
        self.run, self.texts, self.captions, self.config = run, texts, captions, config
        self.embeddings, self.trained = embeddings, trained
        self.scheduler = UnCLIPScheduler(**PRIOR_SCHEDULER)
        self.signal = self.scheduler.alphas_cumprod.to(run.device)
        self.prior = run.compile(run.networks["prior"])
        self.states = None  # of rollouts: (noised, timesteps, pictures, captions)

    def uniform(self, count):
        return torch.rand(count, generator=self.run.generator, device=self.run.device)

    def integers(self, high, count):
        return torch.randint(high, (count,), generator=self.run.generator, device=self.run.device)

    def draw(self, count):
        """Pictures with captions of theirs: two (B,) int64 tensors."""
        pictures = self.trained[self.integers(len(self.trained), count)]
        return pictures, self.captions.draw(pictures, self.config.canonical, self.run.generator)

    def guidances(self, count):
        return 1 + (self.config.largest_guidance - 1) * self.uniform(count)

    def normal(self, count):
        shape = (count, self.embeddings.shape[1])
        return torch.randn(shape, generator=self.run.generator, device=self.run.device)

    def from_data(self, count):
        """Noised embeddings, timesteps, pictures, captions, guidances."""
        pictures, captions = self.draw(count)
        timesteps = self.integers(len(self.signal), count)
        x = noised(self.embeddings[pictures], self.normal(count), self.signal[timesteps])
        return x, timesteps, pictures, captions, self.guidances(count)

    def from_rollouts(self, count):
        """The same from states that guided samplers reached; the guidance is that of the sampler."""
        if self.states is None or self.run.step % self.config.rollout_every == 0:
            self.states = self.roll_out(self.config.rollout_rows)
        rows = self.integers(len(self.states[0]), count)
        return [part[rows] for part in self.states]

    @torch.no_grad()
    def roll_out(self, count):
        """Run guided samplers with the network as it is, on captions of random pictures."""
        pictures, captions = self.draw(count)
        texts = self.both_texts(captions)
        guidances = self.guidances(count)

        def predict(x, t):
            return self.run.networks["prior"](x.repeat(2, 1), t, **texts, return_dict=False)[0].float().chunk(2)

        steps = ROLLOUT_STEPS[self.run.step // self.config.rollout_every % len(ROLLOUT_STEPS)]
        states, timesteps, _ = rollout(
            predict, self.scheduler, steps, self.normal(count), guidances[:, None], self.run.generator
        )
        timesteps = torch.tensor(timesteps, device=self.run.device).repeat_interleave(count)
        return states.flatten(0, 1), timesteps, pictures.repeat(steps), captions.repeat(steps), guidances.repeat(steps)

    def both_texts(self, captions):
        """What the prior is told of nothing, then of the captions: the pipeline's order."""
        return self.texts(torch.cat([torch.zeros_like(captions), captions]))

    def loss(self):
        """Squared error of the guided embedding, and of the one without a caption."""
        count = self.config.optimisation.batch
        rolled = round(self.config.rollout_share * count)
        drawn = [self.from_data(count - rolled)] + ([self.from_rollouts(rolled)] if rolled else [])
        x, timesteps, pictures, captions, guidances = (torch.cat(part) for part in zip(*drawn, strict=True))
        predicted = self.prior(x.repeat(2, 1), timesteps.repeat(2), **self.both_texts(captions), return_dict=False)[0]
        unconditional, conditional = predicted.float().chunk(2)
        x0 = self.embeddings[pictures]
        errors = (guided(unconditional, conditional, guidances[:, None]) - x0).square().mean(1)
        alone = F.mse_loss(unconditional, x0)
        value = errors.mean() + self.config.unconditional * alone
        figures = {"guided": errors[: count - rolled].mean(), "unconditional": alone}
        return value, figures | ({"rollout": errors[count - rolled :].mean()} if rolled else {})


def statistics(embeddings):
    """Mean and deviation (D,) of embeddings: what `PriorTransformer` keeps as clip_mean and clip_std."""
    return embeddings.mean(0), embeddings.std(0).clamp(min=1e-3)


def make_prior(mean, deviation, shape=PRIOR):
    """A `PriorTransformer` with these statistics, which are not trained."""
    prior = PriorTransformer(**shape)
    for parameter, value in ((prior.clip_mean, mean), (prior.clip_std, deviation)):
        parameter.requires_grad_(False).copy_(value[None])
    torch.nn.init.normal_(prior.positional_embedding, std=0.02)
    torch.nn.init.normal_(prior.prd_embedding, std=0.02)
    return prior


def make_pipeline(folder, prior):
    """`KandinskyV22PriorPipeline` of a prior and the CLIP pair in `folder`, in float32 on the prior's device."""
    pipeline = KandinskyV22PriorPipeline(
        prior=prior,
        text_encoder=CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder"),
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=UnCLIPScheduler(**PRIOR_SCHEDULER),
        image_processor=CLIPImageProcessor(**IMAGE_PROCESSOR),
    ).to(prior.device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measure(pipeline, prompts, pictures, embeddings, guidance, steps=25, seed=0):
    """How well a prior's embeddings of canonical captions fit, through the pipeline itself.

    Parameters
    ----------
    pipeline : KandinskyV22PriorPipeline
    prompts : list of B str
    pictures : (B,) int64 tensor     the picture of each prompt
    embeddings : (P, D) tensor       of all pictures, as the image encoder has them

    Returns
    -------
    figures : dict   cosine and top-1 retrieval among all pictures (nearest in deviations), and the mean squared error
        in deviations
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn((len(prompts), embeddings.shape[1]), generator=generator).to(embeddings.device)
    noise = torch.Generator(embeddings.device).manual_seed(seed)
    found = pipeline(
        prompts, num_inference_steps=steps, guidance_scale=guidance, latents=start, generator=noise
    ).image_embeds.float()
    mean, deviation = pipeline.prior.clip_mean, pipeline.prior.clip_std
    distances = exact_distances((found - mean) / deviation, (embeddings - mean) / deviation)
    error = F.mse_loss(found / deviation, embeddings[pictures] / deviation)
    return {
        f"cosine_{guidance:g}": float(F.cosine_similarity(found, embeddings[pictures]).mean()),
        f"top1_{guidance:g}": float((distances.argmin(1) == pictures).float().mean()),
        f"error_{guidance:g}": float(error),
    }


def train_prior(out, emoji, config, minutes, device):
    """Train the prior, or go on with it; needs the CLIP pair. Parameters as in `stage.run_stage`; returns figures."""
    folder, pair = out / FOLDER, out / PAIR
    embeddings = load_file(pair / EMBEDDINGS)["embeddings"].to(device)
    trained = trained_indices(emoji, device)
    mean, deviation = statistics(embeddings[trained])
    with torch.no_grad():
        prior = make_prior(mean, deviation)
    pipeline = make_pipeline(pair, prior.to(device))
    texts = caption_texts(emoji)
    captions = tokenise(texts, pipeline.tokenizer, device)
    run = Run(folder, {"prior": prior}, config.prior.optimisation, minutes, device)
    work = Batches(
        run, Texts(pipeline.text_encoder, captions), captions, (embeddings - mean) / deviation, trained, config.prior
    )

    def evaluate(count):
        chosen = trained[torch.linspace(0, len(trained) - 1, min(count, len(trained)), device=device).long()]
        prompts = [texts[i][0] for i in chosen.tolist()]
        figures = [measure(pipeline, prompts, chosen, embeddings, guidance) for guidance in (1.0, 4.0)]
        return figures[0] | figures[1]

    figures = run.train(work.loss, lambda: evaluate(config.prior.evaluated))
    rounded_to_half(prior).save_pretrained(folder / "model")
    figures |= evaluate(len(trained) if device.type == "cuda" else config.prior.evaluated)
    print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)
    return figures | {"steps": run.step}


if __name__ == "__main__":
    run_stage(FOLDER, train_prior, __doc__.splitlines()[0])
