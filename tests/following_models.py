"""A small MODEL of the host's own class that does what its prompts say, for tests that measure how well it does."""

import comfy.model_base
import torch
from native_models import WIDTH, unet_model

TRUNK = 0.5  # noise level above which it lays a picture out; later the layout stays


class FollowingModel(comfy.model_base.BaseModel):
    """Expects a picture that is a linear function of the prompt's tokens, the more so the less noise there is.

    What is behind the noise counts too: where a picture was begun for another prompt, some of that stays.
    """

    calls = 0

    def apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        """Clean latents; outside the host's executor, so that no wrapper sees it."""
        FollowingModel.calls += len(x)
        wanted = c_crossattn.float().mean(dim=1)  # (R, 16)
        rows, height, width = len(x), *x.shape[-2:]
        wide = wanted.reshape(rows, WIDTH // 4, 2, 2).repeat_interleave(height // 2, 2).repeat_interleave(width // 2, 3)
        grain = torch.linspace(-1, 1, height * width).cos().mul(40).sin().reshape(height, width)
        level = (t / (1 + t)).reshape(-1, 1, 1, 1).float()
        seen = x.float() / (1 + t.reshape(-1, 1, 1, 1) ** 2)
        share = level.clamp(TRUNK, 1)
        return (wide * 2 + 0.3 * grain * wide) * share + seen * (1 - share)


class FickleModel(FollowingModel):
    """Makes another picture of the least change: nothing saves without a loss."""

    def apply_model(self, x, *args, **kwargs):
        return super().apply_model(x, *args, **kwargs) + torch.sin(1000 * x.float())


def following_model(kind=FollowingModel):
    """ModelPatcher of one."""
    return unet_model(kind)
