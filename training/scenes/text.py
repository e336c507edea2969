"""Train the text encoder alone for a minute: its last token learns to say what a caption tells.

The UNet's training, which goes on with it, then need not teach it the words first.
"""

import torch
import torch.nn.functional as F
from loop import Run
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from .captions import PARTS
from .config import TEXT_ENCODER, TOKENS, WIDTH
from .tokens import keep_tokenizer, write_captions
from .vae import parts_counts

FOLDER = "text"
CAPTIONS = 200_000


def make_text_encoder(tokenizer):
    """A `CLIPTextModel` for a tokenizer."""
    config = CLIPTextConfig(
        **TEXT_ENCODER,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def to_full_length(tokens, end):
    """(B, L) ids as (B, 77) int64, padded with the end."""
    return F.pad(tokens.long(), (0, TOKENS - tokens.shape[1]), value=end)


class Speaker(nn.Module):
    """Text encoder with a linear answer for each part of a scene."""

    def __init__(self, encoder, counts):
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleList(nn.Linear(WIDTH, count) for count in counts)

    def forward(self, ids):
        pooled = self.encoder(input_ids=ids).pooler_output
        return [head(pooled) for head in self.heads]


def train_text(options, icons, device):
    """Train the text encoder, or go on with it. As `stage.run_stage` says."""
    folder, config = options.work / FOLDER, options.config.text
    tokenizer = keep_tokenizer(icons.names, folder / "tokenizer")
    count = 64 if options.smoke else CAPTIONS
    written = write_captions(icons.names, tokenizer, count, 1, seed=1)
    scenes, tokens, told = (torch.from_numpy(found).to(device) for found in written)
    encoder = make_text_encoder(tokenizer)
    speaker = Speaker(encoder, parts_counts(len(icons.names)))
    run = Run(folder, {"speaker": speaker}, config.optimisation, options.minutes, device)
    certain = torch.tensor([name not in ("first", "second") for name in PARTS], device=device)

    def loss():
        rows = torch.randint(len(scenes), (config.optimisation.batch,), generator=run.generator, device=device)
        answers = speaker(to_full_length(tokens[rows, 0], tokenizer.eos_token_id))
        # where the objects are told without their relation, nothing says which is the first
        asked = told[rows, 0] & (told[rows, 0, 3:4] | certain)
        truth = scenes[rows].long().masked_fill(~asked, -1)
        parts = [F.cross_entropy(a.float(), truth[:, i], ignore_index=-1) for i, a in enumerate(answers)]
        parts = [part.nan_to_num(0.0) for part in parts]  # of a part that nothing in the batch tells
        return sum(parts), dict(zip(PARTS, parts, strict=True))

    figures = run.train(loss)
    torch.save(encoder.state_dict(), folder / "encoder.pt")
    return figures | {"steps": run.step}
