"""Runs for the table of docs/compatibility.md: the host alone, and with shared steps, on tiny models on the CPU."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from hierdiff_core import build_plan, ward_linkage

STEPS, SEED, CFG = 4, 7, 4.0
APART = 2  # the first step at which the prompts of the splitting plan are on their own
ONE_EACH, PAIRS = [0, 1, 2], [0, 0, 1, 1, 2, 2]
OWN_FROM = 0.6  # of the schedule: between the step APART and the one before
ROUNDING = 1e-3  # of the largest value: batches of other sizes are rounded otherwise, and guidance enlarges it
KEYS = [101, 102, 103]


@dataclass(frozen=True)
class Feature:
    """Something that users combine with Share Steps: a row of the table.

    Parameters
    ----------
    name : str
    change : callable
        Puts it into a case.
    split : bool
        Sharing is tried across a split: the model does not read its texts in the first steps, so that sharing these is
        without loss as well. Else among equal prompts only.
    ranged : bool
        The texts are equal in the first steps instead, by their timestep ranges.
    batch : bool
        It looks at the batch by itself, so that the host's batch is what sharing must be equal to.
    drawn : bool
        Its noise is drawn while it samples; ours is then that of a plan of one prompt.
    noisy : bool
        It draws noise of its own for each row: of equal prompts only the equality can be tested.
    inert : bool
        It changes nothing on the tiny model, but runs.
    each : bool
        Rows of one prompt are given something of their own: their pictures differ.
    refused : str
        A pattern: it may be refused, with this in the message.
    model : callable, optional
        Another tiny model than the plain one.
    """

    name: str
    change: Callable[[Case], None]
    split: bool = True
    ranged: bool = False
    batch: bool = False
    drawn: bool = False
    noisy: bool = False
    inert: bool = False
    each: bool = False
    refused: str = ""
    model: Callable[[Kit], object] | None = None


@dataclass
class Case:
    """What a sampler node is given, for some rows of three prompts; features change it.

    Parameters
    ----------
    kit : Kit
    prompts : list of int
        The prompt of each row: 0, 1 or 2.
    ids : list of int
        The number of each row in the whole set, where rows of one prompt are given something of their own.
    """

    kit: Kit
    prompts: list[int]
    ids: list[int]
    model: object = None
    positive: list = field(default_factory=list)
    negative: list = field(default_factory=list)
    latents: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    sampler: object = None
    sigmas: torch.Tensor | None = None
    guider: Callable | None = None
    cfg: float = CFG
    steps_done: int = 0
    reports: list[str] = field(default_factory=list)

    def rows(self, values: torch.Tensor) -> torch.Tensor:
        """Each row's value, of one for each prompt."""
        return values[self.prompts]

    def own(self, values: torch.Tensor) -> torch.Tensor:
        """Each row's value, of one for each row of the set."""
        return values[self.ids]

    def node(self, name: str, **inputs):
        """The first output of one of the host's nodes."""
        return self.kit.node(name, **inputs)[0]

    def schedule(self, denoise: float = 1.0) -> torch.Tensor:
        """The sigmas of the host's KSampler."""
        return self.kit.samplers.KSampler(self.model, STEPS, "cpu", "euler", "normal", denoise).sigmas

    def patch(self, name: str, **inputs) -> None:
        """Put one of the host's nodes between model and sampler."""
        self.model = self.node(name, model=self.model, **inputs)


def late_model() -> type:
    """The host's plain model, but it does not read its texts in the first part of the schedule."""

    class LateModel(importlib.import_module("comfy.model_base").BaseModel):
        def _apply_model(self, x, t, c_concat=None, c_crossattn=None, *args, **kwargs):
            if float(t[0]) > self.model_sampling.percent_to_sigma(OWN_FROM):
                c_crossattn = (c_crossattn != 0).to(c_crossattn)  # all texts are one; no text is another
            return super()._apply_model(x, t, c_concat, c_crossattn, *args, **kwargs)

    return LateModel


def nodes_of_the_host() -> dict[str, type]:
    """The host's nodes by id, without a registry of nodes being filled; those whose libraries are missing stay out."""
    host = importlib.import_module("nodes")
    found = dict(host.NODE_CLASS_MAPPINGS)
    for file in sorted((Path(host.__file__).parent / "comfy_extras").glob("nodes_*.py")):
        try:
            module = importlib.import_module(f"comfy_extras.{file.stem}")
        except ImportError:
            continue
        found |= getattr(module, "NODE_CLASS_MAPPINGS", {})
        if hasattr(module, "comfy_entrypoint"):
            found |= asyncio.run(nodes_of_extension(module.comfy_entrypoint))
    return found


async def nodes_of_extension(entrypoint: Callable) -> dict[str, type]:
    """The nodes of one of the host's files, by id."""
    extension = entrypoint()
    if inspect.isawaitable(extension):
        extension = await extension
    return {node.GET_SCHEMA().node_id: node for node in await extension.get_node_list()}


class Kit:
    """The host in this process, its nodes, a tiny model, and plans of three prompts.

    Parameters
    ----------
    pack : module
        Ours, imported with the host around it.
    """

    def __init__(self, pack):
        self.samplers = importlib.import_module("comfy.samplers")
        self.calls = importlib.import_module(f"{pack.__name__}.nodes.host.model_calls")
        self.sharing = importlib.import_module(f"{pack.__name__}.nodes.host.share_steps")
        self.native_models = importlib.import_module("native_models")
        self.nodes = nodes_of_the_host()
        self.plain: dict[tuple, torch.Tensor] = {}  # latents of one prompt without any feature
        self.alone: dict[str, dict[tuple, torch.Tensor]] = {}  # of one prompt with the feature of a name, not shared
        self.used: set[str] = set()  # ids of the nodes that were run
        self.unet = self.native_models.unet_model()
        self.late_unet = self.native_models.unet_model(late_model())
        generator = torch.Generator().manual_seed(1)
        self.vectors = torch.randn(3, 16, generator=generator)
        self.common = torch.randn(1, 16, generator=generator)

    def node(self, name: str, **inputs) -> tuple:
        """The outputs of one of the host's nodes."""
        self.used.add(name)
        kind = self.nodes[name]
        out = getattr(kind if hasattr(kind, "GET_SCHEMA") else kind(), kind.FUNCTION)(**inputs)
        return getattr(out, "args", out)

    def case(self, feature: Feature, prompts: list[int], ids=None, plan=None, share_first: bool = False) -> Case:
        """What the feature makes of a plain run, with Share Steps before it or behind it if there is a plan."""
        late = feature.split and not feature.ranged
        model = feature.model(self) if feature.model else self.late_unet if late else self.unet
        case = Case(self, prompts, list(range(len(prompts))) if ids is None else ids, model.clone())
        self.give_texts(case, feature.ranged)
        case.latents = torch.zeros(1, 4, 8, 8)
        case.sampler = self.samplers.sampler_object("euler")
        case.guider = cfg_guider
        if plan is not None and share_first:
            share(case, plan)
        feature.change(case)
        if plan is not None and not share_first:
            share(case, plan)
        if case.sigmas is None:
            case.sigmas = case.schedule()
        return case

    def give_texts(self, case: Case, ranged: bool) -> None:
        """Conditioning for each row; ranged: the same for all in the first steps, and their own then."""
        tokens = torch.linspace(0.5, 1.5, 5)[None, :, None]
        case.positive = [[case.rows(self.vectors)[:, None, :] * tokens, {}]]
        case.negative = [[torch.zeros(1, 5, 16), {}]]
        if ranged:
            common = [[self.common.expand(len(case.prompts), -1)[:, None, :] * tokens, {}]]
            parts = (common, 0.0, OWN_FROM), (case.positive, OWN_FROM, 1.0)
            case.positive = [entry for part in parts for entry in self.ranged(*part)]

    def ranged(self, conditioning: list, start: float, end: float) -> list:
        """The conditioning, in a part of the schedule only."""
        return self.node("ConditioningSetTimestepRange", conditioning=conditioning, start=start, end=end)[0]

    def plan(self, prompts: list[int], together: int = 0):
        """Prompts that share their first steps with all others, and then only with their equals."""
        keys = [KEYS[i] for i in prompts]
        if len(prompts) == 1:
            return build_plan(np.empty((0, 4)), [0.0] * STEPS, keys)
        return build_plan(ward_linkage(self.vectors[prompts]), [1e6] * together + [0.0] * (STEPS - together), keys)


def cfg_guider(case: Case):
    """The guider of the host's KSampler."""
    guider = case.kit.samplers.CFGGuider(case.model)
    guider.set_conds(case.positive, case.negative)
    guider.set_cfg(case.cfg)
    return guider


def run(case: Case) -> torch.Tensor:
    """What the host's sampler nodes do, with one noise for all rows."""
    noise = torch.randn(1, *case.latents.shape[1:], generator=torch.manual_seed(SEED))
    noise = noise.repeat(len(case.prompts), *[1] * (noise.ndim - 1))

    def on_step(*_):
        case.steps_done += 1

    guider = case.guider(case)
    return guider.sample(noise, case.latents, case.sampler, case.sigmas, case.mask, on_step, True, SEED)


def share(case: Case, plan) -> None:
    """Put Share Steps into a case."""
    sharing = case.kit.sharing.Sharing(plan, show_tree=False, tell=case.reports.append)
    case.model = case.kit.sharing.share_steps(case.model, sharing)


# --- Oracles ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What came of a run with shared steps.

    Parameters
    ----------
    result : str
        "yes": equal; "refused" before the second step; "rounded": not bit-identical; else "differs" or "fails".
    message : str
        Of the refusal or the failure, or the report's warnings.
    """

    result: str
    message: str = ""


def key_of(feature: Feature, prompt: int, number: int) -> tuple:
    """What decides the picture of a row: its prompt, and its number if the feature gives each row something."""
    return prompt, number if feature.each else None


def alone(kit: Kit, feature: Feature, prompts: list[int], done: dict) -> torch.Tensor | None:
    """What the host gives without sharing: each row alone, or its batch (None: it fails on a batch)."""
    if feature.batch:
        try:
            return run(kit.case(feature, prompts))
        except (RuntimeError, IndexError):
            return None
    keys = [key_of(feature, prompt, i) for i, prompt in enumerate(prompts)]
    for i, key in enumerate(keys):
        if key not in done:
            plan = kit.plan([key[0]]) if feature.drawn else None
            done[key] = run(kit.case(feature, [key[0]], [i], plan))
    return torch.cat([done[key] for key in keys])


def outcomes(kit: Kit, feature: Feature, in_twos: bool) -> tuple[Outcome, Outcome]:
    """What comes of no sharing (tau = 0), and of sharing that should be without loss; in_twos: two clusters a call too.

    Share Steps lies behind what the feature puts in between without sharing, and before it with sharing.
    """
    done = kit.alone.setdefault(feature.name, {})
    none = outcome(kit, feature, ONE_EACH, alone(kit, feature, ONE_EACH, done), share_first=False)
    wanted = alone(kit, feature, PAIRS, done)
    shared = outcome(kit, feature, PAIRS, wanted, share_first=True)
    if shared.result != "yes" or not in_twos:
        return none, shared
    with mock.patch.object(kit.calls, "rows_per_call", return_value=2):
        two_a_call = outcome(kit, feature, PAIRS, wanted, share_first=True)
    return none, shared if two_a_call.result in ("yes", "rounded") else two_a_call


def outcome(kit: Kit, feature: Feature, prompts: list[int], wanted, share_first: bool) -> Outcome:
    """Whether a run with shared steps gives the latents that are wanted."""
    together = APART if feature.split and prompts == PAIRS else 0
    case = kit.case(feature, prompts, plan=kit.plan(prompts, together), share_first=share_first)
    try:
        samples = run(case)
    except ValueError as error:
        return Outcome("refused" if case.steps_done < 2 else "fails", str(error))
    except Exception as error:  # whatever another pack raises: it is no refusal
        return Outcome("fails", f"{type(error).__name__}: {error}")
    told = " ".join(line for report in case.reports for line in report.splitlines() if line.startswith("⚠"))
    if wanted is None or samples.shape != wanted.shape:
        return Outcome("differs", told)
    near = float((samples - wanted).abs().max()) < ROUNDING * float(wanted.abs().max())
    if feature.noisy and prompts == PAIRS:
        near = (
            not told
            and torch.equal(samples[::2], samples[1::2])
            and len({row.numpy().tobytes() for row in samples}) == 3
        )
    same = near if feature.batch else torch.equal(samples, wanted)
    return Outcome("yes" if same else "rounded" if near else "differs", told)


def changes(kit: Kit, feature: Feature) -> bool:
    """Whether it changes anything at all."""
    key = feature.split, feature.ranged, feature.model
    if key not in kit.plain:
        try:
            kit.plain[key] = run(kit.case(dataclasses.replace(feature, change=lambda case: None), [0]))
        except KeyError:  # a model that needs what the feature gives
            kit.plain[key] = torch.empty(0)
    with_it, without = kit.alone.get(feature.name, {}).get(key_of(feature, 0, 0)), kit.plain[key]
    if with_it is None or feature.drawn:  # a plan's noise alone is no change
        with_it = run(kit.case(feature, [0]))
    return with_it.shape != without.shape or not torch.equal(with_it, without)
