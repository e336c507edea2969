"""What the browser's interactive plot of Threshold Schedule knows: the last run's tree, and any falling shape.

The mathematics of the shapes stays here. The page counts heights below thresholds: all that a new budget needs.
"""

from aiohttp import web

from ..hierdiff_core.schedule import falling_shape
from ..hierdiff_core.sensitivity import Sensitivity

# Larger trees are not sent: every height would lie in the history of each run.
MOST_PROMPTS = 10_000
MOST_STEPS = 1000  # of the node's input


def plot_data(linkage, falling, sensitivity):
    """For the node's `ui`: heights and errors of the merges, falling shape, weights of the steps.

    Parameters
    ----------
    linkage : Linkage
    falling : (K,) float64     from `falling_shape`
    sensitivity : Sensitivity or None

    Returns
    -------
    dict   numbers and lists, for JSON; empty for a tree that is too large
    """
    if len(linkage.prompts) > MOST_PROMPTS:
        return {}
    return {
        "heights": linkage.Z[:, 2].tolist(),
        "errors": linkage.errors.tolist(),
        "metric": linkage.metric,
        "sensitivity": sensitivity and described(sensitivity),
        **shape_data(falling, sensitivity),
    }


def shape_data(falling, sensitivity):
    weights = sensitivity.weights(len(falling)).tolist() if sensitivity else None
    return {"falling": falling.tolist(), "weights": weights}


def described(sensitivity):
    shared, change = sensitivity.shared_steps.tolist(), sensitivity.change.tolist()
    return {"num_steps": sensitivity.num_steps, "shared_steps": shared, "change": change}


async def shape_of_settings(request):
    """POST /hierdiff/shape: settings of the node and the last run's metric and sensitivity -> falling and weights.

    Answers 400 with an `error` where the settings make no shape.
    """
    try:
        asked = await request.json()
        steps = int(asked["steps"])
        if not 1 <= steps <= MOST_STEPS:
            raise ValueError(f"steps must lie between 1 and {MOST_STEPS}; got {steps}")
        sensitivity = Sensitivity(**asked["sensitivity"]) if asked["sensitivity"] else None
        falling = falling_shape(
            steps,
            asked["shape"],
            int(asked["private_steps"]),
            power=float(asked["power"]),
            weights=sensitivity.weights(steps) if sensitivity else None,
            metric=asked["metric"],
        )
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response(shape_data(falling, sensitivity))
