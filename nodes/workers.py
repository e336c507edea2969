"""Workers: on how many GPUs, or on which cluster, a sampler draws."""

from __future__ import annotations

from comfy_api.latest import io

from ..hierdiff_core.sampling.executor import MOST_WORKERS, Workers
from . import types
from .host.search import search_words
from .host.ui import show


class SetWorkers(io.ComfyNode):
    """The node of `sampling.executor.Workers`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows and checks."""
        return io.Schema(
            node_id="HierDiffWorkers",
            display_name="Workers",
            category="HierDiff",
            **search_words("multi gpu", "several gpus", "ray", "distributed", "cluster", "parallel"),
            description="Lets Hierarchical Branching Sampler draw on all GPUs of this machine, or on a Ray cluster. "
            "The images are those of one GPU. Needs Ray: pip install hierdiff[ray].",
            inputs=[
                io.Int.Input(
                    "count",
                    default=0,
                    min=0,
                    max=MOST_WORKERS,
                    tooltip="Number of workers, each with a copy of the decoder. 0: one for each GPU of this machine, "
                    "or of the cluster; without a GPU one for every two cores.",
                ),
                io.String.Input(
                    "address",
                    default="",
                    tooltip="Empty: this machine, on which Ray is started for the run and reached by no other. auto: "
                    "the Ray cluster that this machine belongs to. Or host:port of a cluster, which must be one that "
                    "you trust: whoever reaches a Ray port runs programs on it.",
                ),
            ],
            outputs=[
                types.Workers.Output(
                    display_name="workers", tooltip="For the input workers of Hierarchical Branching Sampler."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, address: str | None = None) -> bool | str:
        """Whether the address can be one."""
        try:
            Workers(address=address or "")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, count: int, address: str) -> io.NodeOutput:
        """Where to draw; nothing is started before a sampler does."""
        workers = Workers(count, address)
        return io.NodeOutput(workers, ui=show(cls, where(workers)))


def where(workers: Workers) -> str:
    """Where parts are drawn, in words."""
    place = {"": "this machine", "auto": "the Ray cluster of this machine"}.get(workers.address, workers.address)
    many = f"{workers.count} worker{'s' * (workers.count > 1)}" if workers.count else "a worker on each GPU"
    return f"{many}, on {place}"
