"""What tells a decoder from another one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

READ = 32  # numbers of each tensor that a fingerprint reads


def decoder_fingerprint(decoder: KandinskyV22Pipeline) -> str:
    """What tells one decoder's UNet from another's: 16 hexadecimal digits of a few numbers of each of its weights."""
    hashed = hashlib.sha256()
    for name, weight in sorted(decoder.unet.named_parameters()):
        values = weight.detach().flatten()
        few = values[:: max(1, len(values) // READ)][:READ].float().cpu().numpy()
        hashed.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + few.tobytes())
    return hashed.hexdigest()[:16]
