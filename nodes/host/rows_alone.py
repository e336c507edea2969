"""Rows of a conditioning whose prompts have different numbers of tokens, given to the model as each prompt alone.

One tensor holds all prompts, so that shorter ones are padded. Some models heed no mask of the padding, or not at every
layer, and count tokens over a whole batch: they draw a padded prompt like another prompt, or fail. So what a model gets
is made anew for each cluster, by the host's own encoding of one row without padding, and rows are evaluated together
where the host's own rules can join them unchanged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.samplers
import numpy as np
import torch

from .clusters import Clusters
from .cond_rows import reduced_cond, reduced_rows, sliced_cond
from .token_lengths import TokenLengths, lengths_of

ALONE = "hierdiff_alone"  # in an entry of a run: its `RowsAlone`
CLUSTERS = "hierdiff_clusters"  # in a reduced entry: what the model gets for each cluster, in a list


@dataclass(frozen=True, eq=False)
class HostEncoding:
    """How the host makes of conditioning what a model gets, in one run.

    Parameters
    ----------
    model : comfy.model_base.BaseModel
    noise, latent_image, denoise_mask : (N, ...) tensor
        Of the run; the last two may be None.
    options : dict
        What else the host's `encode_model_conds` hands on, such as the seed.
    """

    model: Any
    noise: torch.Tensor
    latent_image: torch.Tensor | None
    denoise_mask: torch.Tensor | None
    options: dict[str, Any]

    def of_row(self, entry: dict, side: str, i: int) -> dict[str, Any]:
        """The `model_conds` of an entry that holds one row, the i-th prompt's."""
        n = len(self.noise)
        i = min(i, n - 1)  # of a prompt that is gone there is none: shapes are what counts
        noise, latents, mask = (row_of(tensor, i, n) for tensor in (self.noise, self.latent_image, self.denoise_mask))
        options = {"latent_image": latents, "denoise_mask": mask, "latent_shapes": [noise.shape], **self.options}
        made = comfy.samplers.encode_model_conds(
            self.model.extra_conds, [entry], noise, self.noise.device, side, **options
        )
        return made[0]["model_conds"]


@dataclass(eq=False)
class RowsAlone:
    """One entry of a run, and what a model gets for the clusters of its rows.

    Parameters
    ----------
    entry : dict
        As the guider has it before the host encodes it.
    lengths : TokenLengths
        Of its rows.
    side : str
        Such as "positive".
    num_prompts : int
        Rows of the entry.
    encoding : HostEncoding or None
        Known once the sampler runs.
    """

    entry: dict
    lengths: TokenLengths
    side: str
    num_prompts: int
    encoding: HostEncoding | None = None
    _made: dict[tuple, dict] = field(default_factory=dict, init=False)  # of the latest clusters, by their members

    def __deepcopy__(self, memo: dict) -> RowsAlone:
        """Itself: whoever copies the entries of a run must not copy the model."""
        return self

    def of_clusters(self, clusters: Clusters, device: torch.device | None) -> list[dict[str, Any]]:
        """`model_conds` with one row for each cluster, on a device or where they are."""
        wanted = [tuple(members) for members in members_of(clusters)]
        self._made = {
            members: self._made[members] if members in self._made else self._of_members(members, device)
            for members in wanted
        }
        return [self._made[members] for members in wanted]

    def _of_members(self, members, device):
        encoding = self.encoding
        assert encoding is not None  # else `is_alone` is false
        longest = max(self.lengths.tokens[i] for i in members)
        mask = self._mask(members, longest) if any(self.lengths.masked[i] for i in members) else None
        rows = [encoding.of_row(self._row(i, longest, mask), self.side, i) for i in members]
        return {name: _moved(_mean([row[name] for row in rows], name), device) for name in rows[0]}

    def _mask(self, members, length):
        """(1, length): a token counts for a cluster if it counts for a member."""
        masks = self.entry["attention_mask"][list(members)].amax(dim=0, keepdim=True)
        return self.lengths.trimmed(masks, length)

    def _row(self, i, length, mask):
        """The i-th prompt's own entry, with as many tokens as its cluster has."""
        own = {key: _row_of_value(value, i, self.num_prompts) for key, value in self.entry.items()}
        own["cross_attn"] = self.lengths.trimmed(own["cross_attn"], length)
        if mask is None:
            own.pop("attention_mask", None)
        else:
            own["attention_mask"] = mask
        return own


def mark_rows(conds: dict[str, list[dict]], counts: Collection[int]) -> list[RowsAlone]:
    """Put `RowsAlone` into the entries of a run whose padding is known.

    Parameters
    ----------
    conds : dict of list of dict
        Entries of each side, as a guider keeps them for this run.
    counts : collection of int
        Rows of an entry that has one for each prompt: N, and with those that are gone.

    Returns
    -------
    marked : list of RowsAlone
        Which wait for their encoding.
    """
    marked = []
    for side, entries in conds.items():
        for k, entry in enumerate(entries):
            lengths = lengths_of(entry)
            if lengths is not None and _fits(lengths, entry, counts):
                marked.append(RowsAlone(entry, lengths, side, len(lengths.tokens)))
                entries[k] = {**entry, ALONE: marked[-1]}
    return marked


def _fits(lengths, entry, counts):
    tokens, n = entry.get("cross_attn"), len(lengths.tokens)
    if n not in counts or not torch.is_tensor(tokens) or tokens.ndim != 3 or len(tokens) != n:
        return False
    if tokens.shape[1] < lengths.total:
        return False
    mask = entry.get("attention_mask")
    return not any(lengths.masked) or (torch.is_tensor(mask) and mask.shape == (n, lengths.total))


def encode_rows(conds: dict[str, list[dict]], marked: Iterable[RowsAlone], encoding: HostEncoding) -> None:
    """Tell marked rows how the host encodes, once it has encoded the entries of the run.

    Where an entry is for an area the host gives the other side one like it: a copy, with that side's own texts.
    """
    for rows in marked:
        rows.encoding = encoding
    for side, entries in conds.items():
        own = [entry for entry in entries if ALONE in entry and entry[ALONE].side == side]
        for entry in entries:
            original = next((e for e in own if e is entry or _same_conds(e, entry)), {})
            if ALONE in original:
                entry[ALONE] = original[ALONE]
            else:
                entry.pop(ALONE, None)


def _same_conds(a, b):
    a, b = a["model_conds"], b["model_conds"]
    return len(a) > 0 and a.keys() == b.keys() and all(a[name] is b[name] for name in a)


def is_alone(entry: dict) -> bool:
    """Whether what the model gets of an entry is made for each cluster.

    Raises
    ------
    ValueError
        If it must be, and the guider does not tell of its sampler's run.
    """
    rows = entry.get(ALONE)
    if rows is not None and rows.encoding is None and rows.lengths.differ:
        raise ValueError(
            f"the prompts of the {rows.side} conditioning have different numbers of tokens, and this guider does not "
            "run ComfyUI's wrappers of samplers (SAMPLER_SAMPLE); use prompts with the same number of tokens, or a "
            "guider of ComfyUI"
        )
    return rows is not None and rows.encoding is not None


def alone_cond(entry: dict, clusters: Clusters, device: torch.device | None) -> dict:
    """As `reduced_cond`, but with what the model gets for each cluster in a list."""
    rows = entry[ALONE].of_clusters(clusters, device)
    return {**reduced_cond({**entry, "model_conds": {}}, clusters), CLUSTERS: rows}


def taken_cond(entry: dict, rows: list[int], count: int) -> dict:
    """A copy of an entry for `count` clusters that keeps some of them, in this order."""
    kept = entry if rows == list(range(count)) else sliced_cond(entry, rows, count)
    if CLUSTERS not in entry:
        return kept
    return {**kept, "model_conds": joined([entry[CLUSTERS][c] for c in rows])}


def members_of(clusters: Clusters) -> list[list[int]]:
    """The rows whose mean each cluster takes: prompts, and from N on those that are gone."""
    counted, labels = clusters.counted
    return [counted[labels == c].tolist() for c in range(len(clusters.first))]


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`model_conds` of several rows, by the host's own rules."""
    if len(parts) == 1:
        return parts[0]
    return {name: cond._copy_with(cond.concat([part[name] for part in parts[1:]])) for name, cond in parts[0].items()}


def shapes_of(conds: dict[str, Any]) -> tuple:
    """Equal for model_conds that the host joins without a change to any."""
    return tuple((name, type(conds[name]), _shape(conds[name].cond)) for name in sorted(conds))


def _shape(value):
    """The shape of what is joined row by row; of anything else the value, or the object, itself."""
    if torch.is_tensor(value):
        return tuple(value.shape)
    if isinstance(value, (list, tuple)):
        return tuple(_shape(item) for item in value)
    return value if isinstance(value, (int, float, str)) or value is None else id(value)


def _mean(conds, name):
    """The host's COND object of one row, of those of a cluster's members."""
    first = conds[0]
    one = Clusters(np.zeros(len(conds), dtype=np.int64), np.zeros(1, dtype=np.int64), np.array([len(conds)]))

    def mean(rows):
        return rows[0] if len(rows) == 1 else reduced_rows(torch.cat(rows), one, name)

    if torch.is_tensor(first.cond) and first.cond.ndim and len(first.cond) == 1:
        return first._copy_with(mean([cond.cond for cond in conds]))
    if isinstance(first.cond, list) and all(torch.is_tensor(item) and len(item) == 1 for item in first.cond):
        return first._copy_with([mean(list(items)) for items in zip(*(cond.cond for cond in conds), strict=True)])
    return first


def _moved(cond, device):
    if device is None or not torch.is_tensor(cond.cond):
        return cond
    return cond._copy_with(cond.cond.to(device))


def row_of(tensor: Any, i: int, num_prompts: int) -> Any:
    """(1, ...) the i-th row of a tensor with one for each prompt; anything else as it is."""
    many = torch.is_tensor(tensor) and tensor.ndim > 0 and len(tensor) == num_prompts > 1
    return tensor[i : i + 1] if many else tensor


def _row_of_value(value: Any, i: int, n: int) -> Any:
    if isinstance(value, list):
        return [row_of(item, i, n) for item in value]
    return row_of(value, i, n)
