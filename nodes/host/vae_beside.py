"""The host's VAE at work while a MODEL samples: in a thread with a stream of its own, for pictures that are finished.

`VAE.decode` goes through the host's list of loaded models, from which it may move the model that is sampling; that is
not made for two threads. So the thread calls the VAE's network alone, and nothing that loads or frees: only while the
sampler is at work, between the host's loading before it and its clean-up after it, and only where both are on the
device, whole, with memory for both. Whether the network alone gives the host's own pictures is tried first.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.sd
import torch

from ...hierdiff_core.devices import SideStream
from .attachments import MODEL_WRAPPERS, ROW_WRAPPERS, UNET_FUNCTION, objects_of, patches_of, wrappers_of
from .compiled_models import is_compiled
from .dry_run import is_hosts
from .known_embeddings import replaced
from .vae import KandinskyVAE

SIZES = (4, 2, 1)  # pictures of a call
TINY = 8  # latent pixels
ESTIMATE_TIMES = 1.5  # of a model's estimate: as much the host itself wants to have free before it joins rows in a call
SHARE = 0.9  # of the free memory that both may take together
SAMPLER_WRAPPERS = ("outer_sample", "sampler_sample")


class VaeBeside:
    """A VAE that may decode while a model samples.

    Parameters
    ----------
    vae : the host's VAE
    patcher : ModelPatcher
        Of the model.

    Attributes
    ----------
    side : SideStream
        Where it decodes.
    """

    def __init__(self, vae: Any, patcher: Any):
        self.vae, self.patcher = vae, patcher
        self.side = SideStream(vae.device, "HierDiff VAE")

    def at_once(self, rows: Sequence[int], latents: Sequence[int]) -> int:
        """Pictures of a call while the model samples; 0 where the two have to take turns.

        Parameters
        ----------
        rows : (P, ...) shape
            Of what the model samples now.
        latents : (M, ...) shape
            Of what is to be decoded.
        """
        device = self.vae.device
        if not (is_whole(self.vae.patcher, device) and is_whole(self.patcher, device)):
            return 0
        left = SHARE * comfy.model_management.get_free_memory(device) - bytes_of_call(self.patcher, rows)
        fitting = int(left / self.vae.memory_used_decode((1, *latents[1:]), self.vae.vae_dtype))
        return next((size for size in SIZES if size <= fitting), 0)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) images of (B, ...) latents, by the network alone: as `VAE.decode` where nothing runs short."""
        vae = self.vae
        made = vae.first_stage_model.decode(latents.to(vae.vae_dtype).to(vae.device))
        return vae.process_output(made.to(vae.output_device).float()).movedim(1, -1)

    def is_as_the_hosts(self, shape: Sequence[int]) -> bool:
        """Whether a tiny picture is the one that `VAE.decode` makes; the host brings the VAE to the device for it."""
        shape = 1, *shape[1:-2], TINY, TINY
        tiny = torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)
        return torch.equal(self.vae.decode(tiny), self.decode(tiny))


def vae_beside(vae: Any, guider: Any, sampler: Any, rows: Sequence[int]) -> VaeBeside | None:
    """A VAE that may decode while a guider's model samples; None where the two have to take turns.

    Parameters
    ----------
    vae : the host's VAE
    guider : CFGGuider
        Of a run that is about to begin, with its conditioning.
    sampler : KSAMPLER
        As the host made it.
    rows : (P, ...) shape
        Of what the model samples at once.
    """
    patcher = guider.model_patcher
    if not (is_known(vae) and has_streams(vae.device) and vae.device == patcher.load_device):
        return None
    if is_compiled(guider.model_options, patcher):  # it may be compiled, or recorded, at any call
        return None
    if loads_models(guider, sampler) or not has_room(vae, patcher, rows):
        return None
    try:
        beside = VaeBeside(vae, patcher)
        return beside if beside.is_as_the_hosts(rows) else None
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception:  # a VAE that takes no such picture, of whatever kind
        logging.info("HierDiff: pictures are not decoded while others are sampled", exc_info=True)
        return None


def has_streams(device: torch.device) -> bool:
    """Whether a device does several things at once."""
    return device.type == "cuda"


def is_known(vae: Any) -> bool:
    """Whether a VAE is the host's own or Kandinsky's, and nobody has put functions into it."""
    if type(vae) not in (comfy.sd.VAE, KandinskyVAE) or not isinstance(vae.first_stage_model, torch.nn.Module):
        return False
    return not any(map(replaced, [vae, *vae.first_stage_model.modules()]))


def loads_models(guider: Any, sampler: Any) -> bool:
    """Whether something that takes part in a run may load or free models while the sampler is at work.

    ControlNets do, the host's own that have a VAE; whatever other packs have attached may.
    """
    options, inner = guider.model_options, guider.model_options.get("transformer_options", {})
    attached = [*patches_of(inner), *objects_of(guider.model_patcher)]
    attached += wrappers_of(options, (*MODEL_WRAPPERS, *ROW_WRAPPERS, *SAMPLER_WRAPPERS))
    entries = [entry for side in guider.conds.values() for entry in side or ()]
    with_models = any(entry.get(name) is not None for entry in entries for name in ("control", "hooks", "gligen"))
    return bool(attached or with_models or UNET_FUNCTION in options) or not is_hosts(sampler.sampler_function)


def has_room(vae: Any, patcher: Any, rows: Sequence[int]) -> bool:
    """Whether there is memory for a VAE and a model at work, with nobody else's model moved away for it."""
    missing = sum(each.model_size() - each.loaded_size() for each in (vae.patcher, patcher))
    needed = missing + bytes_of_call(patcher, rows) + vae.memory_used_decode((1, *rows[1:]), vae.vae_dtype)
    return needed < SHARE * comfy.model_management.get_free_memory(vae.device)


def bytes_of_call(patcher: Any, rows: Sequence[int]) -> float:
    """Bytes that the host would like to have free for a call of a model with positive and negative of all rows."""
    return ESTIMATE_TIMES * patcher.model.memory_required([2 * rows[0], *rows[1:]])


def is_whole(patcher: Any, device: torch.device) -> bool:
    """Whether all weights of a model are on a device, to stay there until the host is asked for others."""
    if getattr(patcher, "is_dynamic", lambda: False)():  # newer hosts: weights come and go while it runs
        return False
    network = patcher.model
    return all(tensor.device == device for tensors in (network.parameters(), network.buffers()) for tensor in tensors)
