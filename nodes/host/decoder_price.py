"""The price of another run of a Kandinsky decoder: which of its rows a store has."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...hierdiff_core.kandinsky.guidance import passes_per_row
from ...hierdiff_core.kandinsky.plan_embeddings import embeddings_for
from ...hierdiff_core.kandinsky.price import missing_of
from ...hierdiff_core.kandinsky.reuse import run_parts
from ...hierdiff_core.kandinsky.schedulers import last_reroll, make_scheduler
from ...hierdiff_core.kandinsky.shared import shared_rows
from ...hierdiff_core.sampling.store import Store, session_store
from .edited_run import EditedRun, edited_run, owner, told_edits, told_of
from .prices import offer, rate_of

if TYPE_CHECKING:
    from ...hierdiff_core.embeddings import PromptEmbeddings
    from ...hierdiff_core.kandinsky.plan_embeddings import PlanEmbeddings
    from ...hierdiff_core.plan.plan import Plan
    from ...hierdiff_core.sampling.progress import RunProgress
    from .live_tree import LiveTree

GONE = "the decoder of this run is no longer loaded: run the workflow again"


@dataclass(eq=False)
class DecoderPrice:
    """Tells the price of a run with other edits, see `prices.offer`.

    Attributes
    ----------
    decoder : weak reference to a KandinskyV22Pipeline
        It may be unloaded meanwhile.
    precision : str
        What it computed with, and where: unloaded it lies elsewhere.
    plan : Plan
        Of the run's prompts, before any edits.
    embeddings : PromptEmbeddings
    settings : dict
        seed, guidance, guidance_interval, scheduler, width, height, rescale_means, as `sample` takes them.
    steps : int
        That the run makes.
    store : Store or None
        That the run kept its rows in; else the session's, which the next one would use.
    rate : float or None
        Seconds of a pass.
    """

    decoder: Any
    precision: str
    plan: Plan
    embeddings: PromptEmbeddings
    settings: dict[str, Any]
    steps: int
    store: Store | None = None
    rate: float | None = None
    known: dict[str, str] = field(default_factory=dict)

    def __call__(self, edits: str) -> tuple[int, int, float | None]:
        """Rows, how many of them are there, and the seconds that the others take."""
        given = self.settings
        last = last_reroll(make_scheduler(given["scheduler"], self.config(), self.plan.num_steps))
        edited = edited_run(self.plan, True, edits, self.store, last)
        plan, store = edited.plan, self.store or session_store()
        guided = given["guidance"], given["guidance_interval"]
        found = embeddings_for(plan, self.embeddings, edited.leaves or None, store.leaves)
        made = make_scheduler(given["scheduler"], self.config(), plan.num_steps)
        new = missing_of(plan, found, store, made, self.parts(made, found), given["seed"], *guided)[: self.steps]
        rows = int(plan.clusters_per_step[: self.steps].sum())
        shared = shared_rows(plan, found, self.precision.split()[-1])
        passes = passes_per_row(plan, *guided, shared)[: self.steps]
        return rows, rows - int(new.sum()), None if self.rate is None else float(self.rate * (new @ passes))

    def config(self) -> Any:
        """Of the decoder's scheduler."""
        decoder = self.decoder()
        if decoder is None:
            raise ValueError(GONE)
        return decoder.scheduler.config

    def parts(self, made: Any, found: PlanEmbeddings) -> dict[str, str]:
        """What the run is made of, as `sample` tells a store: read off the weights once."""
        decoder = self.decoder()
        if not self.known:
            if decoder is None:
                raise ValueError(GONE)
            given = self.settings
            size = given["width"], given["height"]
            guided = given["guidance"], given["guidance_interval"]
            rescaled, seed = given["rescale_means"], given["seed"]
            self.known = run_parts(decoder, made, given["scheduler"], *size, None, rescaled, seed, guided, found)
            self.known["precision"] = self.precision
        return self.known


class DecoderOffer:
    """What the page is told of a run for the next one: its edits, and where to ask what others would cost.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
        Where it was when it ran.
    edited : EditedRun
        What was drawn.
    embeddings : PromptEmbeddings
    given : dict
        Settings of the run, see `DecoderPrice`.
    steps : int
        That it made.
    """

    def __init__(
        self, decoder: Any, edited: EditedRun, embeddings: PromptEmbeddings, given: dict[str, Any], steps: int
    ) -> None:
        precision = f"{decoder.unet.dtype} {decoder.unet.device.type}"
        store = edited.store
        self.price = DecoderPrice(weakref.ref(decoder), precision, edited.fresh, embeddings, given, steps, store)
        self.edited, self.embeddings = edited, embeddings

    def told(self, live: LiveTree | None, run: RunProgress) -> dict[str, Any]:
        """Data for the page, once the run is over."""
        rate = self.price.rate = rate_of(owner(), run.pace.per_unit)
        if live is not None:
            offer(live.run, self.price)
        told = told_edits(self.edited, self.embeddings)
        seconds = None if rate is None else rate * float(run.passes.mean())
        return told_of(self.edited.fresh, told, run, seconds, self.edited.last_reroll)
