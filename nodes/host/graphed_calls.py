"""Calls of few rows replayed as CUDA graphs: the CPU, which launches each kernel, is slower there than the device.

A replay is the same kernels with the same numbers. A call is recorded where all that goes into it is known. Its replay
has to be bit-identical to the call, and faster; it is forgotten when weights move or memory runs out. When clusters
split or a run ends, small ones are kept for the next: there too the first replay has to be bit-identical to a call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from comfy.patcher_extension import WrappersMP

from ...hierdiff_core.devices import after_failed_recording, is_out_of_memory
from .call_kinds import Unknown, kind_of, structure_of, with_tensors
from .compiled_models import is_compiled
from .device import free_memory_beside
from .recordable import obstacle_of
from .row_clones import CLONES

if TYPE_CHECKING:
    from .clusters import CurrentClusters
    from .guard import Case

KEY = "hierdiff_graphs"  # of the wrapper
MOST_LATENTS = 8  # of a call: for more the device takes longer than the CPU, on all cards that were measured
WARM_CALLS = 2  # before a size is recorded: the first sets up libraries, the second is measured
LEAST_CALLS = 6  # that a size must have before it: recording takes as long as two or three calls
GAINS = 0.95  # of the time before; else a graph is forgotten
TIMED = 3  # replays, of which the least is compared: one alone may have had to wait for a busy CPU
MEMORY_SHARE = 0.25  # of the free memory that a recorded call may hold
KEPT_SHARE = 0.05  # of it that all may hold which are kept for other runs
_FAILED: WeakSet[torch.nn.Module] = WeakSet()  # networks that cannot be recorded: no later run tries
_KEPT: WeakKeyDictionary[torch.nn.Module, dict[tuple, Graph]] = WeakKeyDictionary()  # of the last network alone
_LOOKED_AT: WeakKeyDictionary[torch.nn.Module, set] = WeakKeyDictionary()  # kinds of their calls that can be


class CudaDevice:
    """Records and times on a CUDA device."""

    def obstacle(self, call: Callable[[], object]) -> str:
        """What keeps a call from being recorded; "" for nothing."""
        return obstacle_of(call)

    def recorded(self, call: Callable[[], torch.Tensor], output: torch.Tensor) -> Callable[[], object]:
        """Record a call: what replays it, into `output`. cudaMallocAsync warns of what outlives a recording."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may go on allocating
                output.copy_(call())
        except Exception:
            after_failed_recording()
            raise
        return graph.replay

    def mark(self) -> torch.cuda.Event:
        """This moment in the device's work."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, began: torch.cuda.Event, ended: torch.cuda.Event) -> float | None:
        """Between two marks; None as long as the device has not come to the second."""
        return began.elapsed_time(ended) / 1000 if ended.query() else None


class Size:
    """What is known of the calls of one kind and size.

    calls : int       so far
    plain : tuple     marks around one of them as it is
    graphed : list    marks around each of the first that were replayed
    graph : Graph or None
    """

    def __init__(self) -> None:
        self.calls = 0
        self.plain: tuple[Any, Any] | None = None
        self.graphed: list[tuple[Any, Any]] = []
        self.graph: Graph | None = None


class Graph:
    """A recorded call.

    Parameters
    ----------
    device : CudaDevice
    network : torch.nn.Module
    call : callable
        ``call(*args, **kwargs)`` is the network's.
    args, kwargs : list, dict
        Of the call that is recorded.
    output : tensor
        The call's result.

    Attributes
    ----------
    needed : float
        Bytes that it holds, by the host's estimate.
    kept_with : float
        Bytes that all may hold with which it is kept for other runs.
    """

    def __init__(
        self,
        device: CudaDevice,
        network: torch.nn.Module,
        call: Callable,
        args: Any,
        kwargs: dict,
        output: torch.Tensor,
    ):
        self.inputs: list[torch.Tensor] = []
        self.needed = self.kept_with = 0.0

        def copied(tensor: torch.Tensor) -> torch.Tensor:
            self.inputs.append(tensor.clone())
            return self.inputs[-1]

        own_args, own_kwargs = with_tensors([list(args), kwargs], copied)
        self._weights = [tensors for module in network.modules() for tensors in (module._parameters, module._buffers)]
        self._addresses = self._now()
        self._output = torch.empty_like(output)
        self._replay = device.recorded(lambda: call(*own_args, **own_kwargs), self._output)

    def _now(self):
        return [each.data_ptr() for own in self._weights for each in own.values() if each is not None]

    @property
    def is_valid(self) -> bool:
        """Whether the weights are where they were."""
        return self._now() == self._addresses

    def __call__(self, args: Any, kwargs: dict) -> torch.Tensor:
        """The result for other values of the same shapes."""
        given: list[torch.Tensor] = []
        with_tensors([list(args), kwargs], lambda tensor: given.append(tensor) or tensor)
        for own, new in zip(self.inputs, given, strict=True):
            own.copy_(new)
        self._replay()
        return self._output.clone()


class GraphedCalls:
    """The calls of one run, some of which are replayed.

    Attributes
    ----------
    device : CudaDevice
    replayed : int
        Calls so far.
    failed : str
        Why nothing is recorded any more.
    """

    def __init__(self) -> None:
        self.device = CudaDevice()
        self.replayed = 0
        self.failed = ""
        self._case: Case | None = None  # of the evaluation under way, if it may be recorded
        self._sizes: dict[tuple, Size] = {}
        self._too_large: int | None = None  # latents of a call that a graph did not make faster
        self._current: CurrentClusters | None = None
        self._clusters: Any = None  # that all sizes are of
        self._network: ref[torch.nn.Module] | None = None

    @contextlib.contextmanager
    def of_run(self, guider: Any) -> Iterator[None]:
        """A context around a guider's run, whose network's calls are seen. Nobody sees those of a compiled one."""
        options, patcher = guider.model_options, guider.model_patcher
        network = getattr(patcher.model, "diffusion_model", None)
        self._network = None if network is None else ref(network)
        for known, graphs in [*_KEPT.items()]:
            if known is not network or not all(graph.is_valid for graph in graphs.values()):
                del _KEPT[known]
        can = may_be_recorded(patcher.load_device) and network not in _FAILED
        if can and not is_compiled(options, patcher):
            wrappers = options.setdefault("transformer_options", {}).setdefault("wrappers", {})
            wrappers.setdefault(WrappersMP.DIFFUSION_MODEL, {})[KEY] = [self.call]
        try:
            yield
        finally:
            self.let_go()

    def begin(self, case: Case, alone: bool, current: CurrentClusters) -> None:
        """An evaluation of the current clusters begins; `alone`: nothing of other nodes takes part in it."""
        if current.clusters is not self._clusters:
            self.let_go()
        self._current, self._clusters = current, current.clusters
        can = alone and not self.failed and may_be_recorded(case.x.device) and not case.options.get(CLONES)
        self._case = case if can else None

    def let_go(self) -> None:
        """Forget what was recorded for the clusters so far, but for what is kept for later ones."""
        network = self._network and self._network()
        recorded = {key: size.graph for key, size in self._sizes.items() if size.graph is not None}
        if recorded and network is not None:
            _KEPT[network] = those_that_stay({**_KEPT.get(network, {}), **recorded})
        self._case, self._sizes = None, {}

    def forget(self) -> None:
        """Let go of all that was recorded, and of its memory."""
        _KEPT.clear()
        self._case, self._sizes = None, {}

    def call(self, executor, *args: Any, **kwargs: Any) -> Any:
        """A DIFFUSION_MODEL wrapper: the network's call, or a replay of one like it."""
        key = self._kind_of(args, kwargs)
        if key is None:
            return self._plainly(executor, args, kwargs)
        size = self._sizes.setdefault(key, Size())
        size.calls += 1
        if size.graph is not None and not (size.graph.is_valid and self._gains(size, args)):
            size.graph = None
        if size.graph is not None:
            return self._replayed(size, args, kwargs)
        began = self.device.mark()
        output = self._plainly(executor, args, kwargs)
        size.plain = began, self.device.mark()
        if size.calls == 1 and self._calls_left() > 1:
            size.graph = self._kept(key, args, kwargs, output)
        if size.graph is None and size.calls == WARM_CALLS and self._calls_left() >= LEAST_CALLS:
            self._record(size, executor, args, kwargs, output)
        return output

    def _kept(self, key, args, kwargs, output):
        """What an earlier run has recorded of such calls, if a replay gives this call's result now."""
        network = self._network and self._network()
        graph = None if network is None else _KEPT.get(network, {}).pop(key, None)
        if graph is None or not graph.is_valid:
            return None
        return graph if torch.equal(graph(args, kwargs).nan_to_num(), output.nan_to_num()) else None

    def _plainly(self, executor, args, kwargs):
        try:
            return executor(*args, **kwargs)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                self.forget()
            raise

    def _kind_of(self, args, kwargs):
        """What calls like this one are known by; None where it must not be recorded."""
        latents = args[0] if args else None
        if self._case is None or not torch.is_tensor(latents) or len(latents) > MOST_LATENTS:
            return None
        if self._too_large is not None and len(latents) >= self._too_large:
            return None
        try:
            return kind_of([list(args), kwargs], latents.device)
        except Unknown:
            return None

    def _calls_left(self):
        """Steps with as many clusters as now and as many passes of each, from this one on: guidance may end before."""
        current = self._current
        assert current is not None  # of the evaluation under way
        counts, passes, k = current.plan.clusters_per_step, current.progress.passes, current.k
        alike = (counts == len(current.clusters.first)) & (passes == passes[k])
        return int(alike[k : current.last_step + 1].sum())

    def _record(self, size, executor, args, kwargs, output):
        case = self._case
        assert case is not None  # else the call has no size
        network = executor.class_obj or case.model.diffusion_model
        needed = case.model.memory_required([len(args[0]), *args[0].shape[1:]])
        free = free_memory_beside(case.model, args[0].device)
        if needed > MEMORY_SHARE * free or not weights_stay(network, args[0].device):
            return
        try:
            self._look_at(network, executor, args, kwargs)
            size.graph = Graph(self.device, network, executor, args, kwargs, output)
            if not torch.equal(size.graph(args, kwargs).nan_to_num(), output.nan_to_num()):
                raise RuntimeError("a replay gave another result than the call")
            size.graph.needed, size.graph.kept_with = needed, KEPT_SHARE * free
        except Exception as error:  # a kernel or a line of the network that cannot be recorded, of whatever kind
            if not is_out_of_memory(error):
                _FAILED.add(network)
            self.failed = f"{type(error).__name__}: {error}".splitlines()[0][:160]
            self.forget()

    def _look_at(self, network, executor, args, kwargs):
        """Refuse a call that cannot be recorded; once for each kind, whatever its sizes."""
        kind = structure_of([list(args), kwargs], args[0].device)
        known = _LOOKED_AT.setdefault(network, set())
        if kind not in known:
            obstacle = self.device.obstacle(lambda: executor(*args, **kwargs))
            if obstacle:
                raise RuntimeError(obstacle)
            known.add(kind)

    def _replayed(self, size, args, kwargs):
        self.replayed += 1
        if len(size.graphed) >= TIMED:
            return size.graph(args, kwargs)
        began = self.device.mark()
        output = size.graph(args, kwargs)
        size.graphed.append((began, self.device.mark()))
        return output

    def _gains(self, size, args):
        """Whether replays are faster than the call was; as long as nobody knows, yes."""
        if size.plain is None or len(size.graphed) < TIMED:
            return True
        before = self.device.seconds(*size.plain)
        now = [took for marks in size.graphed if (took := self.device.seconds(*marks)) is not None]
        if before is None or len(now) < TIMED:
            return True
        size.plain = None
        if min(now) < GAINS * before:
            return True
        self._too_large = len(args[0])
        return False

    def report(self) -> list[str]:
        """What was done, in words."""
        if self.failed:
            return [f"⚠ the model's calls cannot be recorded as CUDA graphs and were launched as ever ({self.failed})"]
        return [f"calls replayed as CUDA graphs: {self.replayed}"] if self.replayed else []


def those_that_stay(graphs: dict[tuple, Graph]) -> dict[tuple, Graph]:
    """The newest of some recorded calls that together hold no more than they may."""
    kept, held = {}, 0.0
    for key, graph in reversed(graphs.items()):
        if held + graph.needed <= graph.kept_with:
            kept[key], held = graph, held + graph.needed
    return dict(reversed(kept.items()))


def may_be_recorded(device: torch.device) -> bool:
    """Whether a device has graphs; ROCm calls itself CUDA, but was not tried."""
    return device.type == "cuda" and torch.version.hip is None


def weights_stay(network: torch.nn.Module, device: torch.device) -> bool:
    """Whether all weights are on the device, and used as they are: not copied, cast or changed for each call."""
    for module in network.modules():
        if getattr(module, "comfy_cast_weights", False) or vars(module).get("weight_function"):
            return False
        if vars(module).get("bias_function"):
            return False
        for tensors in (module._parameters, module._buffers):
            if any(each is not None and each.device != device for each in tensors.values()):
                return False
    return True
