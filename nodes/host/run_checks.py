"""What a run with shared steps is not made for: refused before anything is drawn."""

from __future__ import annotations

import torch


def check_context_windows(model_options: dict, latents: torch.Tensor, num_prompts: int) -> None:
    """Refuse context windows that are in force: the host takes them for a single row only.

    Raises
    ------
    ValueError
        If there are several prompts.
    """
    handler = model_options.get("context_handler")
    if handler is None or num_prompts == 1:
        return
    dim, length = getattr(handler, "dim", None), getattr(handler, "context_length", 0)
    size = num_prompts if dim == 0 else latents.shape[dim] if isinstance(dim, int) and dim < latents.ndim else None
    if size is None or size > length:
        raise ValueError(
            f"the model has context windows ({type(handler).__name__}), which ComfyUI takes for one latent at a time, "
            f"not for {num_prompts} prompts; remove them, or make each window at least as long as the latent"
        )


def check_one_medium(latent_shapes: list | None) -> None:
    """Refuse what the host has packed into one tensor.

    Raises
    ------
    ValueError
        If there are several media.
    """
    if latent_shapes is not None and len(latent_shapes) > 1:
        raise ValueError("the latent batch is a nested latent (several media in one); step sharing takes one medium")


def check_no_video(latents: torch.Tensor) -> None:
    """Refuse to save what a model for videos draws as if it were a picture.

    Raises
    ------
    ValueError
        If latents (N, C, T, H, W) have several frames.
    """
    if latents.ndim == 5 and latents.shape[2] > 1:
        raise ValueError(
            f"saving is for images, and this latent is a video of {latents.shape[2]} frames: leave saving unconnected, "
            "and save the videos after VAE Decode"
        )
