"""The state of one run with shared steps, and what it tells."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from comfy.patcher_extension import WrappersMP

from ...hierdiff_core.devices import on_device
from ...hierdiff_core.plan.matching import refined, separated
from ...hierdiff_core.sampling.observer import Observer, Observers
from ...hierdiff_core.sampling.progress import times_in_words
from .attachments import cfg_functions_of, names_of, wrappers_of
from .cached_calls import CachedCalls
from .clusters import CurrentClusters
from .decoration import LIVE_TREE, Decorations
from .device import stop_if_cancelled
from .first_inputs import with_first_inputs
from .live_tree import LiveTree, host_colours
from .model_calls import ModelCalls
from .plan_texts import duplicates, seeds_in_words
from .prices import offer
from .rows_alone import RowsAlone
from .run_guidance import RunGuidance
from .run_passes import RunPasses
from .sampler_noise import SamplerNoise
from .stored_calls import StoredCalls
from .tree_files import LeafPictures
from .ui import distortion, moves_bar

if TYPE_CHECKING:
    import comfy.samplers

    from ...hierdiff_core.plan.plan import Plan


FINAL_PICTURES = "decoding the pictures for the tree"
ROUNDING = 1e-3  # of the largest value: rows of one batch differ by less where they are given the same


class Cancellation(Observer):
    """Stops a run when the user cancels it."""

    def before_call(self) -> None:
        """Raise the host's interruption if there is one."""
        stop_if_cancelled()


class ShownTree(Observer):
    """Shows in the browser how the branches grow.

    Parameters
    ----------
    live : LiveTree
    current : CurrentClusters
        Of the run.
    """

    def __init__(self, live: LiveTree, current: CurrentClusters):
        self.live = live
        self.current = current

    def on_rows(self, k: int, clusters: np.ndarray, x0: torch.Tensor) -> None:
        """Show a step."""
        progress = self.current.progress
        self.live.step(k, x0, progress.rows, progress.standard_rows, reused=progress.reused)

    def on_finished(self, prompts: np.ndarray, latents: torch.Tensor) -> None:
        """Show what came after the last step that was told: some samplers call the model again."""
        if self.current.progress.standard_rows > self.live.progress["standard"]:
            k = self.current.k
            self.on_rows(k, np.arange(self.current.plan.steps[k].num_clusters), rows_of_step(self.current, latents))


class SharingRun:
    """Everything that one run knows: its clusters, its noise, its calls of the model, its observers.

    Parameters
    ----------
    plan : Plan
        Of the run.
    sigmas : (S + 1,) tensor
    micro_batch : int
        Clusters per model call; 0 as many as the host's estimate of memory allows.
    seed : int
    first_step : int
        The plan's step that the run begins with.
    takes_first : bool
        Where prompts of a cluster have inputs of their own, the first one's are taken while they share.
    leaf_rows : (L,) int64, optional
        See `CurrentClusters`.

    Raises
    ------
    ValueError
        If the sigmas rise, or `micro_batch` is negative.
    """

    def __init__(
        self,
        plan: Plan,
        sigmas: torch.Tensor,
        micro_batch: int,
        seed: int,
        first_step: int = 0,
        takes_first: bool = False,
        leaf_rows: np.ndarray | None = None,
    ):
        if micro_batch < 0:
            raise ValueError(f"micro_batch must be 0 (as many as fit) or more; got {micro_batch}")
        self.plan = plan
        self.current = CurrentClusters(plan, sigmas, first_step, leaf_rows)
        self.noise = SamplerNoise(self.current, seed)
        self.observer: Observer = Cancellation()
        self.takes_first = takes_first
        self.model_calls = ModelCalls(
            self.current, micro_batch, lambda: self.observer.before_call(), takes_first, self.part
        )
        self.caches = CachedCalls(self.current)
        self.model_calls.around.append(self.caches.evaluation)
        self.model_calls.on_reused = self._on_reused
        self.model_calls.shared.parted = self._note_flag
        self.rows_alone: list[RowsAlone] = []  # of conditioning that the model gets without padding
        self.guidance: RunGuidance | None = None  # where the plan says anything of it
        self.decorations = Decorations()
        self.last_reroll: int | None = None  # the last step from which other noise makes another picture
        self.is_shown = False  # by something that hears of each step
        self._guidance_checked = False  # once, while rows are shared
        self._live: LiveTree | None = None
        self._pictures: LeafPictures | None = None  # where a VAE makes some of the latents
        self._by_prompt = ""  # what gives the prompts different data, and how it was met
        self._latents = torch.empty(0)  # of the sampler's call
        self._passes = RunPasses(self.model_calls)
        self._parted: torch.Tensor | None = None  # whether the rows of a cluster ever differed

    def __deepcopy__(self, memo: dict) -> SharingRun:
        """Itself: whoever copies the options of a model, once or at every call, means the same run."""
        return self

    @property
    def stored(self) -> StoredCalls | None:
        """The rows that are kept for other runs; None where none are."""
        return self.model_calls.stored

    def keep(self, stored: StoredCalls) -> None:
        """Take rows from a store, and put what is evaluated there."""
        if self.guidance is not None:
            stored.guided = self.guidance.branches.strengths
        self.model_calls.stored = stored

    def of_part(self, plan: Plan, leaf_rows: np.ndarray) -> SharingRun:
        """A run of some of the prompts with the same settings; `leaf_rows` (L,) as in `CurrentClusters`."""
        current = self.current
        settings = self.model_calls.micro_batch, self.noise.seed, current.first_step, self.takes_first
        part = SharingRun(plan, current.sigmas, *settings, leaf_rows)
        part.current.whole, part.decorations = current, self.decorations
        part.model_calls.graphs = self.model_calls.graphs
        return part

    def offer_price(self, price: Callable[[str], tuple[int, int, float | None]] | None) -> None:
        """Let the page ask what this run would cost with other edits."""
        if self._live is not None and price is not None:
            self.decorations.attempt("prices of edits", offer, self._live.run, price)

    def _on_reused(self, clusters):
        """Some of the current clusters were taken from the store, in the first evaluation of a call or in a later."""
        assert self.stored is not None
        self.caches.reused(clusters)
        if self.stored.is_first_place:
            self.current.progress.on_reused(len(clusters))

    def sampler(self, sampler: comfy.samplers.Sampler) -> comfy.samplers.KSAMPLER:
        """A copy of the host's sampler that keeps the rows of a cluster equal."""
        shared = self.noise.shared_sampler(sampler)
        return with_first_inputs(shared, self.current) if self.takes_first else shared

    def sampler_call(self, executor, x: torch.Tensor, timestep: torch.Tensor, model_options: dict, *args, **kwargs):
        """A sampler's call of the model, with the clusters of its sigma."""
        before = self.current.progress.rows
        self._passes.begin()
        with self.caches.sampler_call(model_options):
            self.look_up(x, timestep)
            if self.stored is not None:
                self.stored.begin_call()
            denoised = self.model_calls.predict_noise(executor, x, timestep, model_options, *args, **kwargs)
        self.current.progress.on_evaluated()
        self._passes.end(len(self.current.clusters.first), self.current.progress.rows - before, self.guidance)
        self._check_guidance(denoised, model_options)
        return denoised

    def _check_guidance(self, denoised, model_options):
        """Refuse functions around the guidance that give prompts of one cluster different predictions."""
        if self._guidance_checked or self.current.rows_parted(denoised) is None:
            return
        self._guidance_checked = True
        difference = (denoised - self.current.of_first(denoised)).abs().amax()
        if bool(difference > ROUNDING * denoised.abs().amax()):
            around = [*cfg_functions_of(model_options), *wrappers_of(model_options, (WrappersMP.PREDICT_NOISE,))]
            raise ValueError(
                f"{names_of(attached.code for attached in around)} gives prompts of one cluster different predictions "
                "for the same latent: it draws noise, or takes another strength for each row; remove it, or sample "
                "without shared steps"
            )

    def look_up(self, x: torch.Tensor, timestep: torch.Tensor) -> None:
        """Make the clusters of a call's sigma current."""
        self.noise.row = x[:1]
        self.current.look_up(timestep)
        self._latents = x
        self._note_parted(x)

    def calc_cond_batch(self, executor, model, conds, x_in: torch.Tensor, *args, **kwargs) -> list:
        """The model's evaluation of all conditioning, for the clusters of the sampler's call."""
        if x_in is not self._latents and len(x_in) == self.plan.num_prompts:  # somebody on the way has changed them
            self._note_parted(x_in)
        self.model_calls.shared.by_value = self._may_part or x_in is not self._latents
        self._passes.before()
        outputs = self.model_calls.calc_cond_batch(executor, model, conds, x_in, *args, **kwargs)
        if not self.model_calls.asks:
            inside = self.model_calls.rows_inside
            self._passes.add(sum(map(bool, conds)), len(self.current.clusters.first if inside is None else inside))
        self.caches.note(outputs)
        return outputs

    @property
    def _may_part(self) -> bool:
        """Whether latents of a cluster may differ when it has just split, since something parts them before the call:
        other noise of rerolls, prompts' own inputs, or what a sampler draws row by row."""
        return bool(self.plan.rerolls) or self.takes_first or bool(self.noise.theirs) or self.current.raised > 1

    def _note_parted(self, x):
        parted = self.current.rows_parted(x)
        if parted is None:
            return
        if self.noise.theirs is None:  # read at the end: reading it now would wait for the device
            self._note_flag(parted)
        elif bool(parted):
            raise ValueError(
                f"{self.noise.theirs} gave prompts of one cluster different latents, of which the model would see only "
                "one: it draws noise for each row by itself, or keeps something by row; use another sampler"
            )

    def _note_flag(self, parted):
        self._parted = parted if self._parted is None else self._parted | parted

    def part(self, groups: np.ndarray, names: str) -> None:
        """Heed that other nodes give these groups (N,) of prompts different data: by default they share no step."""
        finer = (separated if self.takes_first else refined)(self.plan, groups)
        if refined(finer, groups) is not finer:
            self._by_prompt = f"⚠ {names}: while steps were shared, the data of a cluster's first prompt were taken"
        elif not self.takes_first and finer is not self.plan:
            self._by_prompt = f"{names}: prompts with different data shared no step"
        if finer is self.plan:
            return
        self.plan = finer
        self.current.refine(finer)
        if self._live is not None:
            self.decorations.attempt(LIVE_TREE, self._live.begin_again, finer)

    @contextlib.contextmanager
    def tree(
        self, latent_format: object, show: bool, measured: dict[str, Any] | None = None, vae: Any = None
    ) -> Iterator[None]:
        """A context: the browser shows the branches in the node that samples, by the host's preview colours.

        With a VAE it shows what the run has made as well, see `final_pictures`.
        """
        if not show:
            yield
            return

        def made():
            return LiveTree(self.plan, host_colours(latent_format), measured, self.current.progress.times)

        with self.decorations.context(LIVE_TREE, made) as live:
            if live is not None:
                self.observer = Observers(self.observer, ShownTree(live, self.current))
                self.is_shown = True
                self._live = live
                if vae is not None:
                    self._pictures = LeafPictures(vae, live)
                    self.observer = Observers(self.observer, self._pictures)
            yield

    def watched(self, callback: Callable | None) -> Callable | None:
        """The callback of each step, which also tells the observers; the host's own shows the share of the work."""
        if callback is None and not self.is_shown:
            return None

        def on_step(step, x0, x, total_steps):
            if self.is_shown:
                self.decorations.attempt(LIVE_TREE, self._tell_step, x0)
            if callback is not None:
                callback(*self._share_of_work(callback, step, total_steps, x0, x))

        return on_step

    def _share_of_work(self, callback, step, total_steps, x0, x):
        """What a callback is called with: where it only moves the host's bar, passes stand in for steps."""
        if moves_bar(callback):
            done, whole = self.current.progress.work
            total_steps = max(round(whole), 1)
            step = min(round(done), total_steps) - 1
        return step, x0, x, total_steps

    def _tell_step(self, x0):
        k = self.current.k
        self.observer.on_rows(k, np.arange(self.plan.steps[k].num_clusters), rows_of_step(self.current, x0))

    def finish(self, model: object, samples: torch.Tensor) -> None:
        """Tell the observers of the final latents, (N, ...); `model` is the host's, which scales them."""
        self.current.progress.end()
        if self.is_shown:
            self.decorations.attempt(LIVE_TREE, self._tell_end, model, samples)

    def _tell_end(self, model, samples):
        self.observer.on_finished(np.arange(self.plan.num_prompts), model.process_latent_in(samples))

    def final_pictures(self, model: object, samples: torch.Tensor) -> tuple[dict[str, Any], list[str]]:
        """Decode what the run has made: data for the page, and lines for the report. Nothing where noise is left."""
        unfinished = float(self.current.sigmas[-1]) > 0 or self.current.is_short_of_last
        if self._pictures is None or unfinished:
            return {}, []
        began, noted = time.monotonic(), len(self.decorations.notes)
        told = self.decorations.attempt(FINAL_PICTURES, self._pictures.decoded, model, samples, otherwise={})
        took = [f"decoding the pictures for the tree took {time.monotonic() - began:.1f} s"] if told else []
        return told, [*took, *self.decorations.notes[noted:]]

    def tell_rows(self, k: int, clusters: np.ndarray, x0: torch.Tensor) -> None:
        """Show what some clusters (C,) of step k are heading for, where a run draws one group after another."""
        progress = self.current.progress
        if self._live is not None:
            self._live.step(k, x0, progress.rows, progress.standard_rows, clusters, progress.reused)
        if self._pictures is not None:
            self._pictures.on_rows(k, clusters, x0)

    def add_pictures(self, prompts: np.ndarray, samples: torch.Tensor) -> None:
        """Decode the final latents (P, ...) of some prompts for the tree, while others are not drawn yet."""
        if self._pictures is not None:
            self.decorations.attempt(FINAL_PICTURES, self._pictures.add, prompts, samples)

    def take_warnings(self, part: SharingRun) -> None:
        """Take over what a run of some of the prompts has to warn of."""
        self.noise.notes += [note for note in part.noise.notes if note not in self.noise.notes]
        if part._parted is not None:
            self._parted = part._parted if self._parted is None else self._parted | part._parted

    def warnings(self) -> list[str]:
        """What went wrong with the sharing itself, once the run is over."""
        lines = [*self.noise.notes, *([self._by_prompt] if self._by_prompt else [])]
        if self._parted is not None and bool(self._parted):
            lines.append(
                "⚠ the sampler gave prompts of one cluster different latents, of which the model saw only one: it "
                "draws noise for each row by itself. The images are not right; use another sampler"
            )
        if self.current.is_short_of_last:
            lines.append(
                "⚠ the model was never called at the sigmas of the last steps, so that some prompts stayed together to "
                "the end and have the same image: something between sampler and model changes the sigmas or skips calls"
            )
        return lines

    def report(self, plan: Plan) -> str:
        """What was spent, in words; `plan` is the one that the user made."""
        current, mine = self.current, self.plan
        evaluated, reused, standard = current.progress.rows, current.progress.reused, current.progress.standard_rows
        rows = evaluated + reused
        steps = current.last_step - current.first_step + 1
        lines = [
            times_in_words(current.progress.times(), mine.num_prompts),
            f"{mine.num_prompts} latents, {steps} steps, {current.calls - self.caches.calls} model calls",
            f"model rows: {rows} instead of {standard}, {1 - rows / max(standard, 1):.1%} saved",
            *self._passes.report(standard, self.guidance),
            *self.model_calls.guard.report(),
            *self.model_calls.padded.report(),
            *self.model_calls.graphs.report(),
            *(f"{name} answered {more} further rows without the model" for name, more in self.caches.rows.items()),
            *([] if self.stored is None else self.stored.report(reused, evaluated)),
            *duplicates(mine),
            *seeds_in_words(mine),
        ]
        if mine.num_steps != plan.num_steps:
            lines.append(f"the plan's {plan.num_steps} thresholds were resampled over the sampler's {steps} steps")
        elif steps < mine.num_steps:
            lines.append(
                f"steps {current.first_step + 1} to {current.last_step + 1} of the plan's {mine.num_steps}: "
                "the sampler ran a part of it"
            )
        return "\n".join([*lines, *distortion(mine)])


def rows_of_step(current: CurrentClusters, latents: torch.Tensor) -> torch.Tensor:
    """(C, ...) of (N, ...) latents: a row for each cluster, in the order of the plan's step."""
    return latents[on_device(current.plan.steps[current.k].first, latents.device)]
