"""The loop: branch, pool, denoise."""

import torch

from .pooling import cluster_means, rescaled_means


def sample_branches(denoise, latents, plan, embeddings, rescale_means=False):
    """Denoise one latent per cluster and step, copying latents from parent to child as clusters split.

    Parameters
    ----------
    denoise : callable   ``denoise(latents, k, embeddings) -> latents``, one denoising step of all branches:
        latents (C, ...), k the step, embeddings (2, C, D) the cluster means, positive then negative
    latents : (1, ...) tensor             the initial noise, shared by all prompts
    plan : Plan
    embeddings : (2, N, D) float tensor   positive, then negative
    rescale_means : bool   stretch means to the mean length of their members; the paper does not

    Returns
    -------
    latents : (N, ...) tensor   in prompt order; prompts with equal embeddings get equal latents

    Source: Decatur et al. 2025, Algorithm 1.
    """
    if embeddings.shape[1] != plan.num_prompts:
        raise ValueError(f"the plan is for {plan.num_prompts} prompts, but there are {embeddings.shape[1]} embeddings")
    pool = rescaled_means if rescale_means else cluster_means
    means = None
    for k, step in enumerate(plan.steps):
        # clusters nest: as many as before means the same ones
        if means is None or step.num_clusters != means.shape[1]:
            latents = latents[torch.as_tensor(step.parents, device=latents.device)]
            means = pool(embeddings.transpose(0, 1), step.labels, step.counts).transpose(0, 1)
        latents = denoise(latents, k, means)
    return latents[torch.as_tensor(plan.steps[-1].labels, device=latents.device)]


def gather_history(scheduler, parents, row_shape):
    """Let a scheduler's per-row memory follow the branches.

    Multistep schedulers keep earlier model outputs and samples. Every tensor, alone or in a list, that holds
    rows of shape `row_shape` is replaced by its rows `parents`, in place.

    Parameters
    ----------
    scheduler : any object        its attributes are searched
    parents : (C,) int64 tensor   row of the previous step that each branch is copied from
    row_shape : tuple of int      shape of one latent
    """

    def gather(value):
        if isinstance(value, torch.Tensor) and value.shape[1:] == row_shape:
            return value[parents.to(value.device)]
        if isinstance(value, list):
            return [gather(item) for item in value]
        return value

    for name, value in vars(scheduler).items():
        if isinstance(value, (torch.Tensor, list)):
            setattr(scheduler, name, gather(value))
