"""What texts were embedded as, for as long as the host runs: of a set in which one prompt is new, one is embedded.

An embedding is known by all that it follows from: the weights, bit for bit, with their patches; the settings; and the
text as the encoder reads it, which holds the numbers of textual inversions. What cannot be told apart in this way, such
as an encoder of another pack's, is never taken from here.
"""

from __future__ import annotations

import threading
import types
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import comfy.sd
import torch

from ...hierdiff_core.sampling.leaves import size_of
from ...hierdiff_core.sampling.lineage import content
from .fingerprint import digest, entries, is_plain
from .weights_sum import sum_of, sums_of

if TYPE_CHECKING:
    from .models import LoadedModel

BUDGET = 512 * 2**20  # bytes of each kind
VALUE_COSTS = 1024  # bytes beside the numbers, about
DEEPEST = 12
KNOWN_PARTS = {"cond_stage_model", "tokenizer", "patcher"}  # of a CLIP
SET_FOR_A_CALL = {"training", "model_lowvram", "return_projected_pooled"}


class Known:
    """Values by digest; the least recently used ones are given up first.

    Parameters
    ----------
    budget : int
        Bytes.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget, self.held = budget, 0
        self._values: OrderedDict[bytes, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes | None) -> Any:
        """What is known; None where nothing is. It must not be changed."""
        with self._lock:
            if key is None or key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def take(self, key: bytes) -> Any:
        """What is known, which is given up; None where nothing is."""
        with self._lock:
            if key not in self._values:
                return None
            value = self._values.pop(key)
            self.held -= size_of(value) + VALUE_COSTS
            return value

    def clear(self) -> None:
        """Give up all."""
        with self._lock:
            self._values.clear()
            self.held = 0

    def put(self, key: bytes | None, value: Any) -> None:
        """Keep a value of tensors, in lists and dicts, unless it is larger than all that may be kept."""
        size = size_of(value) + VALUE_COSTS
        with self._lock:
            if key is None or key in self._values or size > self.budget:
                return
            self._values[key] = value
            self.held += size
            while self.held > self.budget:
                self.held -= size_of(self._values.popitem(last=False)[1]) + VALUE_COSTS


of_clips, of_priors = Known(), Known()


def known_in_words(new: int, count: int) -> list[str]:
    """A line on what was embedded, where some of it was known."""
    if new == count:
        return []
    were = "1 was" if count - new == 1 else f"{count - new} were"
    return [f"embedded {new} of {count} prompts, {were} known"]


def clip_digest(clip: Any) -> bytes | None:
    """What a CLIP's conditionings follow from, beside the tokens; None where something in it cannot be told apart.

    Parameters
    ----------
    clip : the host's CLIP
        With its LoRAs, clip skip and options. One with hooks, or changed by a pack in some other way, is not known.
    """
    if type(clip) is not comfy.sd.CLIP or changed_by_others(clip):
        return None
    patcher, model = clip.patcher, clip.cond_stage_model
    own = {name: value for name, value in vars(clip).items() if name not in KNOWN_PARTS}
    flags = [
        (type(module).__name__, sorted((k, v) for k, v in vars(module).items() if is_flag(k, v)))
        for module in (model, *model.children())
    ]
    backup = {key: getattr(saved, "weight", saved) for key, saved in patcher.backup.items()}
    weights = {**patcher.model_state_dict(), **backup}
    told = value_digest([own, flags, str(patcher.load_device), str(getattr(model, "dtypes", ""))])
    if told is None:
        return None
    patches = sorted((key, value) for key, value in patcher.patches.items())
    return content("clip", type(model).__name__, told, sum_of_state(model, weights), patches_digest(patches))


def is_flag(name: str, value: Any) -> bool:
    """Whether an attribute says how an encoder works, in all of its calls."""
    return isinstance(value, bool) and name not in SET_FOR_A_CALL


def changed_by_others(clip: Any) -> bool:
    """Whether a CLIP has hooks, or parts that somebody has put in the place of the host's own."""
    patcher, model = clip.patcher, clip.cond_stage_model
    options = dict(patcher.model_options)
    hooked = (
        clip.use_clip_schedule,
        clip.apply_hooks_to_conds,
        patcher.forced_hooks,
        patcher.hook_patches,
        patcher.object_patches,
        options.pop("transformer_options", None),
        options,
        *(any(by_key.values()) for by_key in (*patcher.wrappers.values(), *patcher.callbacks.values())),
        getattr(patcher, "injections", None),
        getattr(patcher, "weight_wrapper_patches", None),
    )
    return any(hooked) or any(map(replaced, [clip, *model.modules()]))


def replaced(part: Any) -> bool:
    """Whether an object has a method of its own in the place of its class's, or functions around its call."""
    functions = types.FunctionType, types.MethodType
    own = any(isinstance(value, functions) and hasattr(type(part), name) for name, value in vars(part).items())
    return own or bool(getattr(part, "_forward_hooks", None) or getattr(part, "_forward_pre_hooks", None))


def prior_digest(prior: LoadedModel) -> bytes:
    """What a prior's embeddings follow from, beside texts and settings."""
    pipeline = prior.pipeline
    parts = []
    for name in ("prior", "text_encoder", "image_encoder"):
        network = getattr(pipeline, name)
        config = network.config.to_dict() if hasattr(network.config, "to_dict") else dict(network.config)
        parts += [name, type(network).__name__, str(sorted((k, str(v)) for k, v in config.items() if k[:1] != "_"))]
        parts.append(sum_of_state(network, network.state_dict()))
    scheduler = sorted((k, str(v)) for k, v in pipeline.scheduler.config.items() if k[:1] != "_")
    return content("prior", *parts, str(scheduler), str(prior.patcher.load_device))


# --- digests


def sum_of_state(network: torch.nn.Module, weights: Mapping[str, Any]) -> str:
    """The digest of a network's weights by name."""
    return sum_of(
        network, sorted((name, tensor) for name, tensor in weights.items() if isinstance(tensor, torch.Tensor))
    )


def patches_digest(patches: Any) -> str:
    """Of what LoRAs and merges add to weights."""
    added = [(str(i), entry) for i, entry in enumerate(entries(patches)) if isinstance(entry, torch.Tensor)]
    return f"{digest(patches)} {[*sums_of(added)]}"


def value_digest(value: Any) -> bytes | None:
    """Of tokens or settings, with all numbers of their tensors; None for what cannot be read."""
    try:
        return content(*parts_of(value))
    except ValueError:
        return None


def parts_of(value: Any, depth: int = 0) -> Iterable[Any]:
    """Numbers, texts and bytes of a value; `ValueError` for anything else."""
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous()
        yield f"{tuple(data.shape)} {data.dtype}"
        yield data.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        yield f"dict of {len(value)}"
        for key, item in sorted(value.items(), key=lambda pair: str(pair[0])):
            yield str(key)
            yield from parts_of(item, depth + 1)
    elif isinstance(value, (list, tuple)):
        yield f"{type(value).__name__} of {len(value)}"
        for item in value:
            yield from parts_of(item, depth + 1)
    elif value is None or is_plain(value):
        yield f"{type(value).__name__} {value!r}"
    else:
        raise ValueError(f"{type(value).__name__} cannot be read")
