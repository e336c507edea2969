"""Pictures that are warned of do look alike, and others do not: drawn by the bundled model."""

import pytest

from hierdiff_core import (
    build_plan,
    embed_prompts,
    falling_shape,
    load_decoder,
    load_prior,
    merge_errors,
    read_sensitivity,
    sample,
    tau_for_saving,
    thresholds_at,
    ward_linkage,
)
from hierdiff_core.kandinsky.model_folder import BUNDLED

PROMPTS = ["cat face, noto style", "cat face, flat style", "red apple, noto style", "red apple, flat style"]
STEPS = 6


@pytest.fixture(scope="module")
def spread():
    """How much the pictures of a set differ, at a saving: (variance between the latents, the plan)."""
    decoder, embeddings = load_decoder(), embed_prompts(load_prior(), PROMPTS)
    Z, falling = ward_linkage(embeddings.positive, "chord"), falling_shape(STEPS)
    measured = read_sensitivity(BUNDLED / "decoder" / "sensitivity.json"), merge_errors(Z, embeddings.positive)

    def draw(saving):
        thresholds = thresholds_at(tau_for_saving(Z, falling, saving), falling)
        plan = build_plan(Z, thresholds, None, measured[1], measured[0])
        latents = sample(decoder, embeddings, plan, seed=0, guidance=3.0, width=128, height=128)
        return float((latents - latents.mean(dim=0)).square().mean()), plan

    return draw


def test_warning_tells_pictures_that_look_alike_from_others(spread):
    apart, _ = spread(0.0)
    alike, plan = spread(0.6)
    assert (plan.looks_alike, plan.num_different) == (True, 1)
    assert alike < 0.1 * apart
    enough, plan = spread(0.45)
    assert not plan.looks_alike
    assert enough > 0.7 * apart
