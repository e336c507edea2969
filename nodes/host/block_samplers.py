"""Samplers of newer hosts that draw one block of frames after another."""

from __future__ import annotations

import inspect

import comfy.samplers


def check_block_sampler(sampler: comfy.samplers.Sampler) -> None:
    """Refuse a sampler that begins anew with each block of frames.

    Its later blocks take all steps again, after the clusters have split for good, and it keeps what the model made of
    earlier blocks by row: rows that a shared call of the model does not have.

    Parameters
    ----------
    sampler : Sampler

    Raises
    ------
    ValueError
        Naming the sampler.
    """
    function = getattr(sampler, "sampler_function", None)
    if function is None or "num_frame_per_block" not in inspect.signature(function).parameters:
        return
    name = getattr(function, "__name__", type(sampler).__name__).removeprefix("sample_")
    raise ValueError(
        f"{name} draws a video in blocks, each with all steps, and keeps what the model made of earlier blocks by row: "
        "its steps cannot be shared; use another sampler, or connect the model from before its steps were shared"
    )
