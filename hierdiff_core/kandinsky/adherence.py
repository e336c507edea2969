"""A Kandinsky decoder as `measure.adherence` asks it: with the prompts' embeddings, and with the negative ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ..embeddings import check_image_embeddings
from ..sampling.microbatch import MicroBatches
from .acceleration import PlainCalls
from .call_memory import rows_per_call
from .schedulers import make_scheduler, predicted_original

if TYPE_CHECKING:
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

    from ..embeddings import PromptEmbeddings


class DecoderDenoiser:
    """A decoder and the embeddings of N prompts, for `adherence`.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
        From `load_decoder`.
    embeddings : PromptEmbeddings
        Of N prompts; row i of the latents is of prompt i.
    micro_batch : int
        Pictures per call, of which each is evaluated with and without the prompt; 0 chooses from free memory. On a CPU
        it is always 1.
    before_call : callable, optional
        Called before every UNet call; may raise to stop.

    Notes
    -----
    Without the prompt means with the negative embedding, as guidance takes it: the empty one where the user has given
    no negative prompt. The decoder knows whole timesteps only: a level is that of the nearest.
    """

    def __init__(
        self,
        decoder: KandinskyV22Pipeline,
        embeddings: PromptEmbeddings,
        micro_batch: int = 0,
        before_call: Callable[[], None] | None = None,
    ):
        check_image_embeddings(embeddings, decoder.unet.config.encoder_hid_dim)
        self.decoder = decoder
        self.network = PlainCalls(decoder.unet)
        self.scheduler = make_scheduler("DDPM", decoder.scheduler.config, 1)
        signal = self.scheduler.alphas_cumprod
        sigmas = ((1 - signal) / signal).sqrt()
        self.levels = sigmas / (1 + sigmas)
        self.embeddings = embeddings.stacked()
        self.micro_batch = micro_batch
        self.before_call = before_call

    def timestep(self, level: float) -> int:
        """The timestep whose noise level is nearest."""
        return int((self.levels - level).abs().argmin())

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, level: float) -> torch.Tensor:
        """The latents with noise, as the decoder's own schedule adds it; of the same size, float32."""
        t = torch.tensor([self.timestep(level)])
        return self.scheduler.add_noise(latents.float(), noise.float(), t)

    @torch.no_grad()
    def denoised(self, noised: torch.Tensor, level: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Clean latents with the prompts and without, unguided both.

        Parameters
        ----------
        noised : (N, C, h, w) float tensor
            From `noised`.
        level : float
            The same.

        Returns
        -------
        conditional : (N, C, h, w) float32 tensor
            On the decoder's device.
        unconditional : (N, C, h, w) float32 tensor
            The same without the prompts.

        Raises
        ------
        ValueError
            If there are not as many latents as prompts.
        """
        if len(noised) != self.embeddings.shape[1]:
            raise ValueError(f"there are {len(noised)} latents, but {self.embeddings.shape[1]} prompts; give one each")
        device, dtype = self.network.device, self.network.dtype
        x, embeddings = noised.to(device, torch.float32), self.embeddings.to(device, dtype)
        t = torch.tensor(self.timestep(level))

        def both(part: slice) -> torch.Tensor:
            rows, (positive, negative) = x[part].to(dtype), embeddings[:, part]
            found = self.network(torch.cat([rows, rows]), t.to(device), torch.cat([positive, negative]))
            return torch.stack(found[:, : x.shape[1]].chunk(2), dim=1)  # (B, 2, C, h, w)

        rows = rows_per_call(self.decoder, x[:1], self.micro_batch, "none")
        with_prompt, without = MicroBatches(rows, self.before_call).map(both, len(x)).unbind(dim=1)
        scheduler = self.scheduler
        return predicted_original(scheduler, x, t, with_prompt), predicted_original(scheduler, x, t, without)
