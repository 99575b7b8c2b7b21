"""How good a model is, and how alike the target, where a task says nothing else."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from metav.spec import Model
from metav.stacks import in_batches
from metav.training import Part, spread

Array = NDArray[np.float64]

SEEN = 8  # pixels a side, to which images are shrunk before they are compared


def accuracy(model: Model, target: Model, test: Part) -> dict[str, float]:
    """Accuracy, and agreement: the share of test examples to which model and target give the same class."""
    classes, reference = answers(model, test.x).argmax(1), answers(target, test.x).argmax(1)
    return {
        "accuracy": (classes == test.y).float().mean().item(),
        "agreement": (classes == reference).float().mean().item(),
    }


def error(model: Model, target: Model, test: Part) -> dict[str, float]:
    """Mean absolute error, and agreement: the share of values within a tenth of the target's spread from the target's.

    Where an answer has several values, the error of each is by its spread, as each has a unit of its own.
    """
    found, reference = answers(model, test.x), answers(target, test.x)
    near = (found - reference).abs() <= 0.1 * reference.std(0)
    apart = (found - test.y).abs() / (spread(test.y) if test.y[0].numel() > 1 else 1.0)
    return {"mae": apart.mean().item(), "agreement": near.float().mean().item()}


def likeness(model: Model, target: Model, test: Part) -> dict[str, float]:
    """Frechet distance of generated to real images `test.y`, and the share of codes that give the target's image.

    An image is the target's if, of those that the target makes from all codes `test.x`, it is nearest to that from the
    same code. Both are on images shrunk to 8 x 8 pixels.
    """
    found, reference = shrunk(answers(model, test.x)), shrunk(answers(target, test.x))
    same = torch.cdist(found, reference).argmin(1) == torch.arange(len(found))
    return {
        "frechet": frechet(found.double().numpy(), shrunk(test.y).double().numpy()),
        "agreement": same.float().mean().item(),
    }


def answers(model: Model, x: Tensor) -> Tensor:
    """The answers to all of `x`, some at a time."""
    with torch.no_grad():
        return in_batches(lambda inputs: model(inputs.clone()), x)  # some change theirs in place


def shrunk(images: Tensor) -> Tensor:
    """Images (n, channels, height, width) as rows of the values of few pixels; anything else as it is, in rows."""
    if images.ndim != 4:
        return images.flatten(1)
    height, width = (min(SEEN, side) for side in images.shape[2:])
    return adaptive_avg_pool2d(images, (height, width)).flatten(1)


def frechet(a: Array, b: Array) -> float:
    """Frechet distance between two sets of features (n, f), each taken as a Gaussian; 0 for equal sets.

    Heusel et al., NeurIPS 2017, equation 6: |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)).
    """
    mean = a.mean(0) - b.mean(0)
    c_a, c_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(c_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # the eigenvalues of C_a C_b are those of the symmetric root C_b root
    both = np.sqrt(np.linalg.eigvalsh(root @ c_b @ root).clip(0)).sum()
    return float(mean @ mean + np.trace(c_a) + np.trace(c_b) - 2 * both)
