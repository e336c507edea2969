"""What was measured for a plan on the model that draws it, in words: for the reports of the samplers and for the tree.

What is not known is said too: a number without a measurement behind it tells nobody whether sharing hurts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ...hierdiff_core.kandinsky.workbench import decoder_fingerprint
from .fingerprint import model_fingerprint
from .samplers_by_name import name_of_sampler, sigmas_of
from .step_caches import host_cache

if TYPE_CHECKING:
    from ...hierdiff_core.plan.plan import Plan
    from .models import LoadedModel

WORDS = {"none": "no visible loss", "slight": "slight loss", "visible": "visible loss"}
RUN_IT = "run What Pays Here?"
UNKNOWN, OTHER = "unknown", "other"
PASSES_OF_FULL = 160  # full runs of one picture that a measurement with 8 prompts takes, about: half of the most
SIGMAS_APART = 1e-3  # relative: sigmas of one scheduler differ by rounding alone


class Verdict(NamedTuple):
    """What is known of a plan's loss.

    kind : str     "none", "slight", "visible", `OTHER` or `UNKNOWN`
    line : str     of a report
    passes : int   that measuring takes, about
    """

    kind: str
    line: str
    passes: int

    @property
    def told(self) -> dict[str, Any]:
        """What the page gets."""
        return {"verdict": self.kind, "passes": self.passes}


def verdict_on(
    plan: Plan, passes: int, fingerprint: Callable[[], str], differing: Callable[[Mapping[str, Any]], list[str]]
) -> Verdict | None:
    """What is known of the loss of a plan.

    Parameters
    ----------
    plan : Plan
        As the user made it.
    passes : int
        That a measurement takes, about.
    fingerprint : callable
        Gives that of the model which draws; asked only where it matters.
    differing : callable
        ``differing(settings) -> lines``: what is other in the run than in settings that something was measured with.

    Returns
    -------
    verdict : Verdict, or None for a plan that saves nothing
    """
    advised, cost = plan.advised, f"{RUN_IT} (about {passes:,} passes)"
    if advised is None:
        if plan.nfe == plan.nfe_standard and plan.guidance is None:
            return None
        return Verdict(UNKNOWN, f"not measured for this model: {cost}", passes)
    found = WORDS[advised.verdict]
    if fingerprint() != advised.model:
        line = f"⚠ not measured for this model: the plan's advice ({found}) is of another model or LoRA; {cost}"
        return Verdict(OTHER, line, passes)
    differs = differing(advised.settings)
    if differs:
        line = f"⚠ measured on this model ({found}), but with {'; '.join(differs)}: {cost}"
        return Verdict(OTHER, line, passes)
    warning = "⚠ " if advised.verdict == "visible" else ""
    line = f"{warning}measured on this model: {found} ({advised.measure}), {advised.passes:.1f} passes per picture"
    return Verdict(advised.verdict, line, passes)


def verdict_on_run(
    plan: Plan, run: Plan, guider: Any, sampler: Any, sigmas: torch.Tensor, shape: Any
) -> Verdict | None:
    """As `verdict_on`, for a run of a MODEL.

    Parameters
    ----------
    plan, run : Plan
        As the user made it, and as it is run.
    guider : CFGGuider
        Of the run.
    sampler : Sampler
        As the host made it.
    sigmas : (S + 1,) tensor
    shape : (N, C, ...)
        Of the latents.
    """
    model, steps, cfg = guider.model_patcher, len(sigmas) - 1, getattr(guider, "cfg", 1.0)

    def differing(settings: Mapping[str, Any]) -> list[str]:
        if steps != plan.num_steps:
            return [f"{plan.num_steps} steps, not {steps}"]
        cache = host_cache(guider.model_options.get("transformer_options", {})) or ""
        actual = {
            "sampler": name_of_sampler(sampler, settings.get("sampler")),
            "cfg": cfg,
            "latent": size_of(shape),
            "cache": cache,
        }
        lines = differences({"cache": "", **settings}, actual)
        if not lines and "scheduler" in settings and not same_sigmas(model, steps, settings, sigmas):
            lines.append(f"the sigmas of {settings['scheduler']}, which the run's are not")
        if not lines and run.clusters_per_step.tolist() != plan.clusters_per_step.tolist():
            lines.append("inputs that are the same for all prompts, which here are not")
        return lines

    passes = about(steps, guided=cfg != 1)
    return verdict_on(plan, passes, lambda: model_fingerprint(model), differing)


def verdict_on_decoder(
    plan: Plan, decoder: LoadedModel, interval: tuple[float, float] | None, settings: Mapping[str, Any]
) -> Verdict | None:
    """As `verdict_on`, for a run of a Kandinsky decoder.

    Parameters
    ----------
    plan : Plan
    decoder : LoadedModel
    interval : (float, float) or None
        Of the steps that have guidance, where the sampler's own inputs say it in place of the plan.
    settings : mapping
        Of the run, by the names that a measurement gives them.
    """

    def differing(known: Mapping[str, Any]) -> list[str]:
        lines = differences(known, settings)
        return lines if interval is None else [*lines, "the plan's guidance, not the sampler's own interval"]

    passes = about(plan.num_steps, guided=settings.get("guidance", 2.0) > 1)
    return verdict_on(plan, passes, lambda: decoder_fingerprint(decoder.pipeline), differing)


def about(steps: int, guided: bool) -> int:
    """Passes that a measurement takes for runs of some steps, roughly."""
    return PASSES_OF_FULL * steps * (2 if guided else 1)


def size_of(shape: Any) -> str:
    """Size of latents in words, without rows and channels."""
    return " x ".join(str(int(side)) for side in shape[2:])


def differences(known: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
    """What is other than it was in a measurement, of what both name: the measurement's value, and the run's."""
    return [
        f"{name} {said(known[name])}, not {said(value)}"
        for name, value in actual.items()
        if name in known and said(known[name]) != said(value)
    ]


def said(value: Any) -> str:
    """A setting as a text, by which it is compared too: 7 and 7.0 are one."""
    return (value or "none") if isinstance(value, str) else f"{value:g}"


def same_sigmas(model: Any, steps: int, settings: Mapping[str, Any], sigmas: torch.Tensor) -> bool:
    """Whether a run has the sigmas that a scheduler gives for as many steps."""
    expected = sigmas_of(model, steps, str(settings.get("sampler", "")), str(settings["scheduler"]))
    return expected.shape == sigmas.shape and torch.allclose(
        expected.cpu().float(), sigmas.cpu().float(), rtol=SIGMAS_APART, atol=SIGMAS_APART * 1e-2
    )
