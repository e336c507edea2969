"""Faster calls of a UNet on a CUDA device: fused, recorded as CUDA graphs, or compiled."""

from __future__ import annotations

import logging
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from ..devices import after_failed_recording, is_out_of_memory
from .fused_checks import has_kernels, width_of
from .fused_kernels import FusedKernels
from .fused_movq import FusedMovq, why_not_fused_movq
from .fused_unet import FusedUNet, why_not_fused

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

ACCELERATIONS = ("auto", "none", "CUDA graphs", "torch.compile")

# Rows of a batch that graphs are recorded for; other numbers are padded. Above, the device is slower than the CPU that
# feeds it, and a graph gains nothing (docs/measurements/performance.md).
GRAPH_ROWS = (2, 4, 6, 8, 12, 16)
# Latent pixels of a batch up to which that holds: larger pictures keep the device at work with fewer rows. So what
# graphs keep does not grow with the picture either.
GRAPH_POSITIONS = 16 * 64 * 64
# Branches for each call of a compiled UNet. More gain nothing, and 64 rows, the side of a latent of 512 pixels, would
# be compiled once more: the compiler tells sizes apart by their numbers.
LARGEST_COMPILED = 16

# Calls of a size after which "auto" records a graph of it, which takes as long as three more.
CALLS_BEFORE_GRAPH = 2

_KEPT = "_hierdiff_calls"


def unet_calls(unet: UNet2DConditionModel, acceleration: str) -> PlainCalls:
    """The UNet as a callable ``(latents, t, image_embeds) -> prediction``: float32, and free to be changed.

    Parameters
    ----------
    unet : UNet2DConditionModel
    acceleration : str
        One of `ACCELERATIONS`; no effect but on a CUDA device. "auto": normalisations fused where this card, precision
        and network allow it (`why_not_fused`), else "none".

    Notes
    -----
    What was recorded or compiled is kept with the UNet, for later runs. Fused or with "torch.compile" its weights are
    laid out channels last, and stay so until a run without it. Predictions differ from the plain UNet's by rounding.
    When something fails it is said once, and the UNet is called plainly from then on.
    """
    acceleration = way_on(unet, acceleration)
    if unet.device.type != "cuda":
        return PlainCalls(unet)
    kept = unet.__dict__.setdefault(_KEPT, Kept())
    last = acceleration in ("auto", "torch.compile")
    if last or kept:  # channels last is the faster layout for these, and the slower one for all else
        lay_out(unet, torch.channels_last if last else torch.contiguous_format)
    if acceleration == "none":
        return PlainCalls(unet)
    if acceleration not in kept:
        kept[acceleration] = WAYS[acceleration](unet)
    kept[acceleration].renew()
    return kept[acceleration]


def way_on(unet: Any, acceleration: str, device: torch.device | None = None) -> str:
    """The way that calls are made on a device: "auto" where they are fused, else "none", and what was asked for.

    Parameters
    ----------
    unet : UNet2DConditionModel
    acceleration : str
        One of `ACCELERATIONS`.
    device : torch.device, optional
        That the UNet is about to run on; its own when None.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        For another acceleration.
    """
    if acceleration not in ACCELERATIONS:
        raise ValueError(f"acceleration must be one of {', '.join(ACCELERATIONS)}; got {acceleration!r}")
    if acceleration == "none":
        return "none"
    on: torch.device = unet.device if device is None else device
    if on.type != "cuda":
        return "none"
    if acceleration == "auto" and not (has_kernels(on, unet.dtype) and why_not_fused(unet) is None):
        return "none"
    return acceleration


class Kept(dict):
    """What is kept with a network; a copy of the network has weights of its own, and begins with nothing."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Kept:
        return Kept()

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()


def movq_pixels(movq: Any, z: torch.Tensor) -> torch.Tensor:
    """Pixels of latents by MoVQ, with fused normalisations where this card, precision and network allow it.

    Parameters
    ----------
    movq : VQModel
    z : (N, C, h, w) tensor
        Of its device and data type.

    Returns
    -------
    (N, 3, f h, f w) tensor
        In -1 ... 1.

    Notes
    -----
    Its weights are then laid out channels last. When it fails it is said once, and MoVQ is called plainly from then on.
    """
    kept, way = movq.__dict__.setdefault(_KEPT, Kept()), ("fused", z.device, movq.dtype)
    if way not in kept:
        usable = has_kernels(z.device, movq.dtype) and why_not_fused_movq(movq) is None
        kept[way] = FusedMovq(movq, FusedKernels(width_of(movq.decoder) or 1)) if usable else None
    if kept[way] is not None:
        try:
            lay_out(movq.decoder, torch.channels_last)
            with torch.cuda.device(z.device):
                return kept[way](z)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            kept[way] = None
            lay_out(movq.decoder, torch.contiguous_format)
            warn("the fused MoVQ", error)
    return movq.decode(z, force_not_quantize=True, return_dict=False)[0]


def lay_out(network: torch.nn.Module, memory_format: torch.memory_format) -> None:
    """Give the weights a layout; going through them all takes a while, so the first that shows its layout decides."""
    shown = next((p for p in network.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1), None)
    if shown is None or not shown.is_contiguous(memory_format=memory_format):
        network.to(memory_format=memory_format)


class PlainCalls:
    """The UNet as it is."""

    acceleration = "none"

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet
        self.renew()

    def renew(self) -> None:
        """Look at the UNet before a run: the host may have moved it."""
        # once: the network goes through all of its parameters to say them, which takes it a millisecond
        self.device, self.dtype = self.unet.device, self.unet.dtype

    def __call__(self, latents: torch.Tensor, t: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        return call(self.unet, latents, t, image_embeds).float()

    def close(self) -> None:
        """Let go of what is for one run alone."""


class GraphedCalls(PlainCalls):
    """Calls of few rows as CUDA graphs, others as they are."""

    acceleration = "CUDA graphs"

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.records = True
        self.addresses = None
        super().__init__(unet)

    def __call__(self, latents: torch.Tensor, t: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        rows = len(latents)
        size = graph_rows(rows, latents.shape[2:].numel())
        if size is None or not self.may_record():
            return self.direct(latents, t, image_embeds).float()
        key = size, latents.shape[1:], latents.dtype, t.dtype, image_embeds.shape[1:], torch.is_inference_mode_enabled()
        if key not in self.graphs and self.is_due(key):
            self.record(key, latents, t, image_embeds)
        if key not in self.graphs:
            return self.direct(latents, t, image_embeds).float()
        graph, inputs, output = self.graphs[key]
        inputs[0][:rows].copy_(latents)
        inputs[1].copy_(t)
        inputs[2][:rows].copy_(image_embeds)
        graph.replay()
        return output[:rows].to(torch.float32, copy=True)

    def may_record(self) -> bool:
        return self.records

    def is_due(self, key: tuple[Any, ...]) -> bool:
        """Whether a graph is to be recorded for the call that is made."""
        return True

    def direct(self, latents: torch.Tensor, t: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        """A call that is not replayed; what fails in the faster way is said, and done the plain way."""
        return self.faster(latents, t, image_embeds)

    def faster(self, latents: torch.Tensor, t: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        """A call in the way that graphs are recorded of."""
        return call(self.unet, latents, t, image_embeds)

    def record(self, key: tuple[Any, ...], latents: torch.Tensor, t: torch.Tensor, image_embeds: torch.Tensor) -> None:
        """Record the graph for a key; when that fails, no more are recorded.

        Notes
        -----
        `torch.cuda.graph` would first wait for the device.
        """
        inputs = padded(latents, key[0]), t.clone(), padded(image_embeds, key[0])
        stream = recording_stream(latents.device.index)
        stream.wait_stream(torch.cuda.current_stream(latents.device))
        with torch.cuda.stream(stream):
            made = self.direct(*inputs)  # what a first call sets up must not be in the graph
            if self.may_record():
                self.capture(key, inputs, torch.empty_like(made))
        torch.cuda.current_stream(latents.device).wait_stream(stream)

    def capture(
        self, key: tuple[Any, ...], inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor], output: torch.Tensor
    ) -> None:
        """Record the graph, which writes to `output`: cudaMallocAsync warns of what outlives a recording."""
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads, such as the host's, may go on allocating
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                output.copy_(self.faster(*inputs))
            finally:
                graph.capture_end()
        except RuntimeError as error:
            self.records = False
            self.forget()
            after_failed_recording()
            warn("recording CUDA graphs", error)
        else:
            self.graphs[key] = graph, inputs, output

    def renew(self) -> None:
        """Graphs read weights at the addresses that they were recorded with."""
        super().renew()
        addresses = [p.data_ptr() for p in self.unet.parameters()]
        if addresses != self.addresses:
            self.addresses = addresses
            self.forget()

    def forget(self) -> None:
        self.graphs = {}  # graph, inputs and output by size and kind of the inputs
        self.pool = torch.cuda.graph_pool_handle()  # one for all, as only one graph runs at a time


class QuickCalls(GraphedCalls):
    """Calls in a faster way than the network's own, with graphs of it; the network's own once that has failed."""

    way = ""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__(unet)
        self.works = True
        self.network: Any = None

    def direct(self, latents: torch.Tensor, t: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        if self.works:
            try:
                return self.faster(latents, t, image_embeds)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                self.works = self.records = False
                self.forget()
                warn(self.way, error)
        return call(self.unet, latents, t, image_embeds)


class FusedCalls(QuickCalls):
    """Calls with fused normalisations.

    Notes
    -----
    Graphs are recorded for sizes that are called for often, and kept for one run. Whether a call is a graph's changes
    no bit of it: what is not is padded to the same size.
    """

    acceleration = "auto"
    way = "the fused UNet"

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__(unet)
        self.network = FusedUNet(unet, FusedKernels(width_of(unet) or 1))

    def faster(self, latents: torch.Tensor, t: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        rows = len(latents)
        size = graph_rows(rows, latents.shape[2:].numel()) or rows
        if size > rows:
            latents, image_embeds = padded(latents, size), padded(image_embeds, size)
        with torch.cuda.device(latents.device):
            return call(self.network, latents, t, image_embeds)[:rows]

    def is_due(self, key: tuple[Any, ...]) -> bool:
        self.calls[key] += 1
        return self.calls[key] > CALLS_BEFORE_GRAPH

    def forget(self) -> None:
        super().forget()
        self.calls: Counter[tuple[Any, ...]] = Counter()

    def close(self) -> None:
        self.forget()  # the host may need the memory for other models


class CompiledCalls(QuickCalls):
    """Calls of the compiled network."""

    acceleration = way = "torch.compile"

    def may_record(self) -> bool:
        return self.records and captured_memory_is_known()

    def faster(self, latents: torch.Tensor, t: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        if self.network is None:  # the compiler tunes for the first size that it sees
            self.network = torch.compile(self.unet)
            self.run(padded(latents[:1], GRAPH_ROWS[-1]), t, padded(image_embeds[:1], GRAPH_ROWS[-1]))
        return self.run(latents, t, image_embeds)

    def run(self, latents: torch.Tensor, t: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        latents = latents.contiguous(memory_format=torch.channels_last)
        for tensor in (latents, image_embeds):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)  # one compilation for all batch sizes
        return call(self.network, latents, t, image_embeds)


WAYS = {calls.acceleration: calls for calls in (FusedCalls, GraphedCalls, CompiledCalls)}


@cache
def recording_stream(index: int) -> torch.cuda.Stream:
    """The one stream in which graphs of a device are recorded.

    Memory belongs to a stream: what one recording has done with, only recordings in the same one can take.
    """
    return torch.cuda.Stream(torch.device("cuda", index))


def captured_memory_is_known() -> bool:
    """Whether compiled kernels may be captured: they ask the driver about every address that they are given.

    What CUDA's asynchronous allocator, ComfyUI's default, hands out during a capture has no memory behind it yet.
    """
    return torch.cuda.get_allocator_backend() != "cudaMallocAsync"


def call(unet: Callable[..., Any], latents: torch.Tensor, t: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
    output = unet(
        latents,
        t,
        encoder_hidden_states=None,
        added_cond_kwargs={"image_embeds": image_embeds},
        return_dict=False,
    )
    return output[0]


def graph_sizes(positions: int) -> list[int]:
    """Rows of a batch that graphs are recorded for, by a picture's latent pixels."""
    return [size for size in GRAPH_ROWS if size * positions <= GRAPH_POSITIONS]


def graph_rows(rows: int, positions: int) -> int | None:
    """The size of the graph for a number of rows; None where there is none."""
    return next((size for size in graph_sizes(positions) if size >= rows), None)


def padded(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """A copy with `rows` rows, the first one repeated."""
    return torch.cat([tensor, tensor[:1].expand(rows - len(tensor), *tensor.shape[1:])])


def warn(what: str, error: Exception) -> None:
    message = str(error).splitlines()[0] if str(error) else ""
    logging.warning("HierDiff: %s is off, since it failed (%s: %s)", what, type(error).__name__, message)
