"""What the browser's interactive plot of Threshold Schedule knows: the last run's tree, and any falling shape.

The mathematics of the shapes stays here. The page counts heights below thresholds: all that a new budget needs.
"""

import asyncio
import functools
import json

import numpy as np
from aiohttp import web

from ..hierdiff_core.plan.linkage import METRICS
from ..hierdiff_core.plan.profile import SHAPES, Profile
from ..hierdiff_core.plan.sensitivity import Sensitivity

# Larger trees are not sent: every height would lie in the history of each run.
MOST_PROMPTS = 10_000
MOST_STEPS = 1000  # of the node's input
# Of a request: ten times what a sensitivity with a point for each of 1000 steps takes.
MOST_BYTES = 500_000
LARGEST = 1e100  # number: products of such numbers are still finite

finite_json = functools.partial(json.dumps, allow_nan=False)


def plot_data(tree, profile, plan=None, levels=None):
    """For the node's `ui`: heights and errors of the merges, falling shape, weights and clusters of the steps.

    Parameters
    ----------
    tree : PromptTree
        With its merge errors.
    profile : Profile
        How the threshold falls.
    plan : Plan, optional
        What was made of them: the page tells when the settings change.
    levels : (K,) float, optional
        Noise levels of the steps, by which the page finds those that are not shared.

    Returns
    -------
    data : dict
        Numbers and lists, for JSON; empty for a tree that is too large.
    """
    if tree.num_prompts > MOST_PROMPTS:
        return {}
    return {
        "heights": tree.merges[:, 2].tolist(),
        "errors": tree.errors[: len(tree.merges)].tolist(),
        "trees": tree.num_trees,
        "metric": tree.metric,
        "clusters": plan and plan.clusters_per_step.tolist(),
        "sensitivity": profile.sensitivity and described(profile.sensitivity),
        "levels": None if levels is None else levels.tolist(),
        **shape_data(profile, tree.metric),
    }


def shape_data(profile, metric):
    """What the page needs to know of a profile: the falling shape, and the weights of the steps if they are known."""
    weights = profile.sensitivity and profile.sensitivity.weights(profile.num_steps).tolist()
    return {"falling": profile.falling(metric).tolist(), "weights": weights}


def described(sensitivity):
    shared, change = sensitivity.shared_steps.tolist(), sensitivity.change.tolist()
    return {"num_steps": sensitivity.num_steps, "shared_steps": shared, "change": change}


class Refused(Exception):
    """A request that makes no shape; the message, one of this file's own, is for the page."""


async def shape_of_settings(request):
    """POST /hierdiff/shape: settings of the node and the last run's metric and sensitivity -> falling and weights.

    Answers 400 with an `error` where the settings make no shape.
    """
    try:
        answer = await asyncio.to_thread(answer_to, await bounded_body(request))
    except Refused as refused:
        return web.json_response({"error": str(refused)}, status=400)
    return web.json_response(answer, dumps=finite_json)


async def bounded_body(request):
    """The body, which is not read further once it is too long."""
    body = bytearray()
    async for chunk in request.content.iter_chunked(2**16):
        body += chunk
        if len(body) > MOST_BYTES:
            raise Refused("the request is too long")
    return bytes(body)


def answer_to(body):
    """What the settings in a request's body make.

    Raises
    ------
    Refused
        whatever the body holds
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("the request holds no settings") from None
    steps = whole_number(asked, "steps", MOST_STEPS)
    sensitivity = sensitivity_of(entry(asked, "sensitivity"))
    shape, metric = choice(asked, "shape", SHAPES), choice(asked, "metric", METRICS)
    if shape == "calibrated" and sensitivity is None:
        raise Refused("shape calibrated needs a sensitivity: connect one and run again")
    private_steps = whole_number(asked, "private_steps", steps)
    power = number(entry(asked, "power"), "power")
    if shape == "power" and power <= 0:
        raise Refused("power must be above 0")
    with np.errstate(all="ignore"):
        try:
            data = shape_data(Profile(steps, shape, private_steps, power, sensitivity), metric)
        except ValueError:
            raise Refused("the settings make no shape") from None
    if not all(np.isfinite(values).all() for values in data.values() if values is not None):
        raise Refused("the settings make no shape of finite numbers")
    return data


def entry(asked, name):
    if not isinstance(asked, dict) or name not in asked:
        raise Refused(f"the request holds no {name}")
    return asked[name]


def number(value, name):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        raise Refused(f"{name} must be a number")
    return float(value)


def whole_number(asked, name, most):
    value = number(entry(asked, name), name)
    if not (value.is_integer() and 1 <= value <= most):
        raise Refused(f"{name} must be a whole number from 1 to {most}")
    return int(value)


def choice(asked, name, options):
    value = entry(asked, name)
    if not isinstance(value, str) or value not in options:
        raise Refused(f"{name} must be one of {', '.join(options)}")
    return value


def sensitivity_of(data):
    """A `Sensitivity`, or None where the last run had none."""
    if data is None:
        return None
    points = [entry(data, "shared_steps"), entry(data, "change")]
    if not all(isinstance(values, list) for values in points):
        raise Refused("the sensitivity must hold lists")
    shared, change = ([number(value, "each point of the sensitivity") for value in values] for values in points)
    num_steps = whole_number(data, "num_steps", 1_000_000)
    try:
        return Sensitivity(num_steps, np.clip(shared, 0, num_steps + 1), np.array(change, np.float64))
    except ValueError:
        raise Refused("the sensitivity does not fit together") from None
