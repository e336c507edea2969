"""Train the CLIP pair: a text encoder and an image encoder whose embeddings of a caption and of its picture agree.

python training/clip_pair.py [--out RUN] [--data FOLDER] [--minutes M] [--smoke] [--device D]

The image encoder's embedding is the middle of a Kandinsky-shaped model: the prior predicts it from a caption, the UNet
draws from it. So it must say which emoji and which style a picture shows (contrast with captions, classification), and
also how it looks (a small network that is thrown away rebuilds the picture from it).
"""

import hashlib

import torch
import torch.nn.functional as F
from config import EMBEDDING, IMAGE_ENCODER, PICTURE, TEXT_ENCODER
from loop import Run
from safetensors.torch import save_file
from stage import (
    batches,
    exact_distances,
    flat_pictures,
    rounded_to_half,
    run_stage,
    to_signed,
    trained_indices,
)
from tokens import BEGIN, END, caption_texts, keep_tokenizer, tokenise
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection

FOLDER = "clip_pair"
EMBEDDINGS = "embeddings.safetensors"
SHARPEST = 100.0  # largest factor of the cosines, as in CLIP


class Scale(nn.Module):
    """The learned factor of the cosines; starts at CLIP's 1 / 0.07."""

    def __init__(self):
        super().__init__()
        self.log = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self):
        return self.log.exp().clamp(max=SHARPEST)


def make_networks(tokenizer, emoji, config):
    """All that is trained: both encoders, and what is thrown away afterwards."""
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.eos_token_id, **ends, **TEXT_ENCODER)
    size = config.rebuilt_size
    return {
        "text": CLIPTextModelWithProjection(text),
        "image": CLIPVisionModelWithProjection(CLIPVisionConfig(**IMAGE_ENCODER)),
        "scale": Scale(),
        "rebuild": nn.Sequential(
            nn.Linear(EMBEDDING, 512), nn.SiLU(), nn.Linear(512, 1024), nn.SiLU(), nn.Linear(1024, 3 * size * size)
        ),
        "style": nn.Linear(EMBEDDING, emoji.pictures.shape[1]),
        "subcategory": nn.Linear(EMBEDDING, len(set(emoji.subcategories))),
    }


def shifted(pictures, most, generator):
    """uint8 pictures moved by up to `most` pixels in each direction; white comes in at the border."""
    count, size, device = len(pictures), pictures.shape[-1], pictures.device
    padded = F.pad(pictures, (most,) * 4, value=255)
    start = torch.randint(2 * most + 1, (2, count, 1), generator=generator, device=device)
    rows, columns = start + torch.arange(size, device=device)
    picture = torch.arange(count, device=device)[:, None, None]
    return padded[picture, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def noisy(embeddings, amount, generator):
    """Embeddings with noise of `amount` deviations of the batch in each number: only margins help, not length."""
    noise = torch.randn(embeddings.shape, generator=generator, device=embeddings.device)
    return embeddings + amount * embeddings.detach().std(0) * noise


def soft_contrast(images, texts, scale, same):
    """InfoNCE in both directions where a picture may have several right captions in the batch, and the reverse.

    Parameters
    ----------
    images, texts : (B, D) tensors
    scale : scalar tensor            factor of the cosines
    same : (B, B) bool tensor        pairs that belong together; the diagonal at least
    """
    logits = scale * F.normalize(images.float(), dim=1) @ F.normalize(texts.float(), dim=1).T
    target = same.float()
    by_picture = F.cross_entropy(logits, target / target.sum(1, keepdim=True))
    by_caption = F.cross_entropy(logits.T, target.T / target.T.sum(1, keepdim=True))
    return (by_picture + by_caption) / 2


def equal_pictures(pictures):
    """(P,) int64: the first picture that each one is equal to."""
    first = {}
    digests = (hashlib.sha256(picture.numpy().tobytes()).digest() for picture in pictures.cpu())
    return torch.tensor([first.setdefault(digest, i) for i, digest in enumerate(digests)])


class Batches:
    """Draws batches of pictures and captions and has the loss of the networks on them."""

    def __init__(self, emoji, texts, run, tokenizer, config):
        self.run, self.config = run, config
        self.pictures = flat_pictures(emoji, run.device)
        self.captions = tokenise(texts, tokenizer, run.device)
        self.trained = trained_indices(emoji, run.device)
        self.same = equal_pictures(self.pictures).to(run.device)
        self.targets = F.adaptive_avg_pool2d(to_signed(self.pictures), config.rebuilt_size).flatten(1)
        styles = emoji.pictures.shape[1]
        kinds = {name: i for i, name in enumerate(sorted(set(emoji.subcategories)))}
        kinds = torch.tensor([kinds[name] for name in emoji.subcategories], device=run.device)
        self.styles, self.kinds = styles, kinds
        self.text, self.image = run.compile(run.networks["text"]), run.compile(run.networks["image"])

    def draw(self):
        """Indices of pictures, all different where there are enough, and rows of captions."""
        generator, count = self.run.generator, self.config.optimisation.batch
        order = torch.randperm(len(self.trained), generator=generator, device=self.run.device)
        pictures = self.trained[order.repeat(-(-count // len(order)))[:count]]
        return pictures, self.captions.draw(pictures, self.config.canonical, generator)

    def loss(self):
        networks, config = self.run.networks, self.config
        pictures, captions = self.draw()
        pixels = to_signed(shifted(self.pictures[pictures], config.shift, self.run.generator))
        images = self.image(pixel_values=pixels).image_embeds.float()
        images = noisy(images, config.noise, self.run.generator)
        texts = self.text(input_ids=self.captions.tokens[captions]).text_embeds
        equal = self.same[pictures]
        same = (equal[:, None] == equal) | (captions[:, None] == captions)
        contrast = soft_contrast(images, texts, networks["scale"](), same)
        rebuilt = F.mse_loss(networks["rebuild"](images).float(), self.targets[pictures])
        style = F.cross_entropy(networks["style"](images).float(), pictures % self.styles)
        kind = F.cross_entropy(networks["subcategory"](images).float(), self.kinds[pictures // self.styles])
        value = contrast + config.rebuild * rebuilt + config.classify * (style + kind)
        return value, {"contrast": contrast, "rebuilt": rebuilt, "style": style, "subcategory": kind}

    def evaluate(self):
        """How well captions find pictures, and how far apart pictures are.

        Returns
        -------
        figures : dict   retrieval: share of the trained pictures that their canonical caption finds among all; nearest:
            distance to the nearest other picture in deviations, root mean square over the numbers, median of the
            pictures; nearest_5: what 5 % of them are below
        """
        embeddings = embed_pictures(self.run.networks["image"], self.pictures)
        distances = nearest_distances((embeddings - embeddings.mean(0)) / embeddings.std(0))
        images = F.normalize(embeddings, dim=1)
        captions = self.captions.rows[self.trained, 0]
        text = self.run.networks["text"]
        found = [
            (F.normalize(text(input_ids=self.captions.tokens[captions[rows]]).text_embeds, dim=1) @ images.T).argmax(1)
            for rows in batches(len(captions), 1024)
        ]
        return {
            "retrieval": float((self.same[torch.cat(found)] == self.same[self.trained]).float().mean()),
            "nearest": float(distances.quantile(0.5)),
            "nearest_5": float(distances.quantile(0.05)),
        }


def nearest_distances(rows):
    """(P,) distance of each row to the nearest other one, root mean square over the columns."""
    distances = exact_distances(rows, rows) / rows.shape[1] ** 0.5
    return distances.fill_diagonal_(torch.inf).amin(1)


@torch.no_grad()
def embed_pictures(image_encoder, pictures):
    """(P, D) float32 embeddings of uint8 pictures."""
    return torch.cat(
        [
            image_encoder(pixel_values=to_signed(pictures[rows])).image_embeds.float()
            for rows in batches(len(pictures), 512)
        ]
    )


def keep(folder, networks, pictures):
    """Save both encoders, the embeddings of all pictures, and the one that stands for no picture.

    The latter is what `KandinskyV22PriorPipeline.get_zero_embed` takes as negative embedding: zeros as pixels.
    """
    for name, network in (("text_encoder", networks["text"]), ("image_encoder", networks["image"])):
        rounded_to_half(network).save_pretrained(folder / name)
    empty = torch.zeros(1, 3, PICTURE, PICTURE, device=pictures.device)
    with torch.no_grad():
        zero = networks["image"](pixel_values=empty).image_embeds[0]
    embeddings = embed_pictures(networks["image"], pictures)
    save_file({"embeddings": embeddings.cpu(), "zero": zero.cpu()}, folder / EMBEDDINGS)


def train_clip_pair(out, emoji, config, minutes, device):
    """Train the pair, or go on with it. Parameters as in `stage.run_stage`; returns figures."""
    folder = out / FOLDER
    texts = caption_texts(emoji)
    tokenizer = keep_tokenizer((text for row in texts for text in row), folder / "tokenizer")
    assert tokenizer.convert_tokens_to_ids([BEGIN, END]) == [len(tokenizer) - 2, len(tokenizer) - 1]
    run = Run(folder, make_networks(tokenizer, emoji, config.clip_pair), config.clip_pair.optimisation, minutes, device)
    work = Batches(emoji, texts, run, tokenizer, config.clip_pair)
    figures = run.train(work.loss, work.evaluate)
    with torch.no_grad():
        figures |= work.evaluate()
    print(f"retrieval {figures['retrieval']:.3f}", flush=True)
    keep(folder, run.networks, work.pictures)
    return figures | {"steps": run.step}


if __name__ == "__main__":
    run_stage(FOLDER, train_clip_pair, __doc__.splitlines()[0])
