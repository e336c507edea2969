"""A Kandinsky decoder whose UNet has a few lines, and sets of prompts for it."""

from types import SimpleNamespace

import torch

from hierdiff_core import Budget, Profile, PromptEmbeddings, PromptTree, plan_for

WIDTH, STEPS = 6, 8
CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear", "clip_sample": False}


class Config(dict):
    __getattr__ = dict.__getitem__


class ToyUNet(torch.nn.Module):
    """Moved by the latents, the time and the embeddings, none of it linearly; learns a variance, as Kandinsky's."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, strength=1.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((1,), strength))
        self.config = Config(encoder_hid_dim=WIDTH, in_channels=4, block_out_channels=[4])
        self.sizes = []  # of its calls: several threads may make some, and none may be lost

    @property
    def rows(self):
        return sum(self.sizes)

    @property
    def calls(self):
        return len(self.sizes)

    def forward(self, latents, t, encoder_hidden_states, added_cond_kwargs, return_dict):
        self.sizes.append(len(latents))
        means = added_cond_kwargs["image_embeds"]
        told = torch.sin(3 * means @ torch.arange(4.0 * WIDTH).reshape(WIDTH, 4).cos()).view(-1, 4, 1, 1)
        noise = torch.tanh(self.weight * latents + told + t / 1000)
        return (torch.cat([noise, 0.1 * torch.sin(noise)], dim=1),)


def toy_decoder(strength=1.0):
    unet = ToyUNet(strength)
    config = Config(CONFIG, variance_type="learned_range", num_train_timesteps=1000, prediction_type="epsilon")
    return SimpleNamespace(unet=unet, scheduler=SimpleNamespace(config=config), movq_scale_factor=8)


def embeddings_of(names, seed=0):
    """Of names; those that begin alike are neighbours."""
    rows = []
    for name in names:
        centre, own = (torch.Generator().manual_seed(seed + sum(map(ord, text))) for text in (name[:1], name))
        rows.append(torch.randn(WIDTH, generator=centre) + 0.4 * torch.randn(WIDTH, generator=own))
    return PromptEmbeddings(torch.stack(rows), 0.1 * torch.stack(rows).flip(1), names)


def planned(embeddings, saving=0.4, steps=STEPS):
    tree = PromptTree.of(embeddings.positive, "chord", embeddings.prompts)
    return plan_for(tree, Budget("saving", saving, clamp=True), Profile(steps))
