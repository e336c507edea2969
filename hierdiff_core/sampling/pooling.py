"""Means over the members of each cluster."""

from __future__ import annotations

import numpy as np
import torch


def cluster_means(
    values: torch.Tensor, labels: np.ndarray | torch.Tensor, counts: np.ndarray | torch.Tensor
) -> torch.Tensor:
    """Mean of the rows of each cluster.

    Parameters
    ----------
    values : (N, ...) float tensor
        What is averaged.
    labels : (N,) int64 array or tensor
        Cluster of each row, 0-based, contiguous.
    counts : (C,) int64 array or tensor
        Rows in each cluster.

    Returns
    -------
    (C, ...) float32 tensor
        Means, on the device of `values`.

    Notes
    -----
    Sums of float32 values are kept in float64, where they are exact for all practical counts: the mean does not
    depend on the order of the prompts. Counts are integers; the paper's code keeps them in the embeddings'
    precision, and float16 cannot hold 2049. (Apple's MPS has no float64 and sums in float32.)

    Source: Decatur et al. 2025, Algorithm 1, line 12.
    """
    exact = torch.float32 if values.device.type == "mps" else torch.float64
    labels = torch.as_tensor(labels, device=values.device)
    counts = torch.as_tensor(counts, device=values.device)
    sums = torch.zeros((len(counts), *values.shape[1:]), dtype=exact, device=values.device)
    sums.index_add_(0, labels, values.to(exact))
    return (sums / counts.view(-1, *[1] * (values.ndim - 1))).float()


def rescaled_means(
    values: torch.Tensor, labels: np.ndarray | torch.Tensor, counts: np.ndarray | torch.Tensor
) -> torch.Tensor:
    """Cluster means at the length of their members.

    A mean of vectors that point apart is shorter than they are. Each mean is stretched to the mean length of its
    members.

    Parameters
    ----------
    values : (N, ..., D) float tensor
        Vectors.
    labels, counts : arrays or tensors
        As in `cluster_means`.

    Returns
    -------
    (C, ..., D) float32 tensor
        Means; of a single member the member itself.
    """
    means = cluster_means(values, labels, counts)
    lengths = cluster_means(values.float().norm(dim=-1, keepdim=True), labels, counts)
    stretch = lengths / means.norm(dim=-1, keepdim=True)
    keep = torch.as_tensor(counts == 1, device=means.device).view(-1, *[1] * (means.ndim - 1))
    return torch.where(keep | ~torch.isfinite(stretch), means, means * stretch)
