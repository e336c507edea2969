"""One of the host's samplers run on a single number, before it runs on latents: when it calls its model, what it keeps.

Reading a sigma from the device waits for everything that was queued before it: in each step the device would stand
still until the CPU has launched the next call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from .stand_in import StandIn

SAME_SIGMA = 1 + 1e-6  # sigmas are float32


class StretchEnds(Exception):
    """Leaves a sampler at a call of its model.

    Parameters
    ----------
    x : (N, ...) tensor
        What the model would have been called with.
    """

    def __init__(self, x: torch.Tensor):
        super().__init__("a stretch of steps ends here")
        self.x = x


class Passed(NamedTuple):
    """What a dry run came to.

    x : float                the number at its end
    sigmas : list of float   of its calls, in order
    inputs : list of float   what the calls were made with
    """

    x: float
    sigmas: list[float]
    inputs: list[float]


class DryRun:
    """One of the host's samplers on a single number.

    Parameters
    ----------
    function : callable
        Of the host's k-diffusion samplers.
    model : object
        The denoiser that the sampler is given; asked for what it knows, never called.
    x : (N, ...) tensor
        What the sampler starts from; only its number of dimensions is used.
    sigmas : (K + 1,) tensor
    extra_args, options : dict
        As the sampler gets them.
    """

    def __init__(
        self,
        function: Callable,
        model: object,
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: dict,
        options: dict,
    ):
        self.is_hosts = is_hosts(function)
        self.function = function
        self.model = model
        self.sigmas = sigmas.detach().cpu().clone()  # uni_pc writes into its sigmas
        self.extra_args = {**extra_args, "model_options": {}}  # nothing of what other nodes put there is called
        # churn raises the sigma of a call above that of its step, and draws noise
        self.options = {name: value for name, value in options.items() if name != "s_churn"}
        self._shape, self._noise, self._from = [1] * x.ndim, 0.0, math.inf  # what is drawn, and from which sigma on
        if "noise_sampler" in options:
            self.options["noise_sampler"] = self._drawn

    def __call__(
        self,
        predict: Callable,
        x: float = 1.0,
        first: int = 0,
        until: int | None = None,
        put: tuple[int, float] | None = None,
        callback: Callable[[int], object] | None = None,
    ) -> Passed | None:
        """Run some steps.

        Parameters
        ----------
        predict : callable
            ``predict(x, sigma, call) -> denoised`` of numbers, in place of the model.
        x : float
            What the steps begin with.
        first : int
            Step to begin with.
        until : int, or None
            Step to leave the sampler at; None: run to the end.
        put : (int, float), optional
            A number that is put in place into what the sampler calls its model with, at this call.
        callback : callable, optional
            ``callback(calls)`` when the sampler tells of a step, with its calls so far.

        Returns
        -------
        passed : Passed, or None
            None for samplers of other packs, and for those that need a real model: what they do may depend on what it
            predicts.
        """
        if not self.is_hosts:
            return None
        stop = None if until is None else float(self.sigmas[until]) * SAME_SIGMA
        model, one = NumberModel(self.model, predict, stop, put), torch.full(self._shape, x)
        told = None if callback is None else lambda info: callback(len(model.seen_sigmas))
        try:
            with torch.random.fork_rng(devices=[]):
                one = self.function(
                    model,
                    one,
                    self.sigmas[first:].clone(),
                    extra_args=dict(self.extra_args),
                    callback=told,
                    disable=True,
                    **self.options,
                )
        except StretchEnds as end:
            one = end.x
        except Exception:  # whatever it needs that a number has not: the sigmas are read from the device then
            return None
        return Passed(float(one), model.seen_sigmas, model.seen_inputs)

    def draws(self) -> bool:
        """Whether what the sampler draws makes a difference: some take noise, and use none by their settings."""
        passed = []
        for self._noise in (1.0, 0.0):
            passed.append(self(lambda x, sigma, call: 0.0))
        return None not in passed and passed[0].inputs != passed[1].inputs

    def last_draw(self) -> int | None:
        """The last step whose noise makes a difference; of all steps the last where none is drawn, None if unknown."""
        last = len(self.sigmas) - 2
        if self(lambda x, sigma, call: 0.0) is None:
            return None
        if not self.draws():
            return last
        steps = (k for k in range(last, 0, -1) if self._draws_from(float(self.sigmas[k]) * SAME_SIGMA))
        return next(steps, 0)

    def _draws_from(self, sigma: float) -> bool:
        """Whether noise makes a difference that is drawn from a sigma on, down to the last."""
        passed = []
        for self._from, self._noise in ((sigma, 1.0), (sigma, 0.0)):
            passed.append(self(lambda x, sigma, call: 0.0))
        self._from = math.inf
        return None not in passed and (passed[0].x, passed[0].inputs) != (passed[1].x, passed[1].inputs)

    def _drawn(self, sigma, sigma_next):
        return torch.full(self._shape, self._noise if float(sigma) <= self._from else 0.0)

    def heeds_model(self, first: int) -> bool:
        """Whether the steps from `first` to the end use what the model predicts: too few of them may not."""
        ends = [self(lambda x, sigma, call, value=value: value, first=first) for value in (0.0, 1.0)]
        return ends[0] is not None and ends[1] is not None and ends[0].x != ends[1].x

    def growth(self, steps_left: int) -> float:
        """How much of an error of one prediction is left when the last one is made.

        Parameters
        ----------
        steps_left : int
            From the prediction with the error to the last.

        Returns
        -------
        growth : float
            0 where so many steps are more than half of the run.

        Notes
        -----
        With guidance a prediction can fall where the latent rises: here by as much. Euler's errors then shrink from
        step to step; those of a sampler of high order can grow, most where sigmas fall fast.
        """
        steps = len(self.sigmas) - 1
        kicked = steps - 1 - steps_left
        if kicked < steps // 2:
            return 0.0
        passed = self(lambda x, sigma, call: -x + (call == kicked), x=0.0)
        return abs(passed.inputs[-1]) if passed else 0.0


class NumberModel(StandIn):
    """A denoiser that predicts numbers, and notes the sigmas that it is called with; all else is the real one's.

    Parameters
    ----------
    model : object
        The real denoiser.
    predict : callable
        ``predict(x, sigma, call) -> denoised``.
    stop : float, or None
        At this sigma it is left by a `StretchEnds`.
    put : (int, float), optional
        A call, and the number that is put into its input in place.
    """

    def __init__(self, model: object, predict: Callable, stop: float | None, put: tuple[int, float] | None = None):
        super().__init__(model)
        self._put = put
        self._predict = predict
        self._stop = stop
        self.seen_sigmas: list[float] = []
        self.seen_inputs: list[float] = []

    def __call__(self, x, sigma, model_options=None, **kwargs):
        value = float(sigma.flatten()[0])
        if self._stop is not None and value <= self._stop:
            raise StretchEnds(x)
        if self._put is not None and self._put[0] == len(self.seen_sigmas):
            x.fill_(self._put[1])
        number = float(x)
        denoised = torch.full_like(x, float(self._predict(number, value, len(self.seen_sigmas))))
        self.seen_sigmas.append(value)
        self.seen_inputs.append(number)
        guided = dict.fromkeys(("denoised", "cond_denoised", "uncond_denoised"), denoised)
        told = {**guided, "cond": [], "uncond": [], "cond_scale": 1.0, "model": self, "sigma": sigma, "input": x}
        told["model_options"] = model_options
        for listen in (model_options or {}).get("sampler_post_cfg_function", ()):  # the sampler's own
            listen(dict(told))
        return denoised


def is_hosts(function: Callable) -> bool:
    """Whether a sampler function is the host's own, and not another pack's."""
    return (getattr(function, "__module__", None) or "").startswith("comfy.")


def sampler_name(function: Callable) -> str:
    """What users call a sampler function, as far as it has a name."""
    name = getattr(function, "__name__", "") or "the sampler"
    return name.removeprefix("sample_").removesuffix("_function")
