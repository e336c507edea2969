"""Keep Trunks: where samplers keep what they evaluated, in memory and on disk."""

from __future__ import annotations

from comfy_api.latest import io

from ..hierdiff_core.sampling.store import in_bytes
from . import types
from .host.kept import check_trunk_name, shown_place, trunk
from .host.search import search_words
from .host.ui import show


class KeepTrunks(io.ComfyNode):
    """The node of `host.kept`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows and checks."""
        return io.Schema(
            node_id="HierDiffTrunk",
            display_name="Keep Trunks",
            category="HierDiff",
            **search_words("cache", "resume", "store", "keep steps", "reuse", "go on tomorrow"),
            description="Where samplers keep the steps that they evaluated: another run, today or tomorrow, evaluates "
            "only what is new in it.",
            inputs=[
                io.String.Input(
                    "name",
                    default="",
                    tooltip="A folder of this name in ComfyUI's user folder, hierdiff/trunks. All nodes with one name "
                    "share it. Empty: in memory alone, until ComfyUI is closed.",
                ),
                io.Float.Input(
                    "memory_gb",
                    default=2.0,
                    min=0.0,
                    max=4096.0,
                    step=0.5,
                    tooltip="Memory that it may take, in GiB. A step of one branch takes 64 to 128 KiB at 512 x 512 "
                    "pixels. The branches that were not used for longest go first.",
                ),
                io.Float.Input(
                    "disk_gb",
                    default=10.0,
                    min=0.0,
                    max=65536.0,
                    step=1.0,
                    tooltip="Disk space that it may take, in GiB. 0, or without a name: none.",
                ),
            ],
            outputs=[
                types.Trunk.Output(
                    display_name="trunk",
                    tooltip="For the input trunk of Branching Sampler, Share Steps, Hierarchical KSampler or Guider.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        """Whether the name can be one of a folder."""
        try:
            check_trunk_name((name or "").strip())
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, name: str, memory_gb: float, disk_gb: float) -> io.NodeOutput:
        """The store."""
        name = name.strip()
        store = trunk(name, memory_gb, disk_gb)
        lines = [f"in memory: up to {memory_gb:g} GiB, now {in_bytes(store.held)}"]
        lines.append(f"on disk: up to {disk_gb:g} GiB in {shown_place(name)}" if store.folder else "nothing on disk")
        return io.NodeOutput(store, ui=show(cls, "\n".join(lines)))
