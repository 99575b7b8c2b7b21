"""A model of one's own, of a table: is a tumour malignant? scikit-learn's breast cancer data, 30 measurements each.

    metav fingerprint tumours:task --out tumours.safetensors
    python tumours.py
    metav verify tumours.safetensors stolen.onnx
    metav verify tumours.safetensors stranger.onnx
    metav verify tumours.safetensors twin.onnx

Run in this folder. `python tumours.py` writes three suspects: stolen.onnx, a copy of the target with half of its
weights gone; stranger.onnx, which somebody else trained on other patients; and twin.onnx, which somebody else trained
on the same patients in the same way, from other weights. The twin is innocent, and accused: no model of the zoo is
trained as the target is here (in full batches, where the task says batches of 32). See docs/own-model.md.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metav import Part, Spec, Task

FEATURES = 30


def network(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, 2))


def data() -> dict[str, Part]:
    """The owner's half of the training examples, the public half, and held-out ones, scaled to [-1, 1]."""
    x, y = load_breast_cancer(return_X_y=True)
    x = 2 * (x - x.min(0)) / (x.max(0) - x.min(0)) - 1
    order = np.random.default_rng(0).permutation(len(x))
    cut = {"own": order[:230], "public": order[230:460], "test": order[460:]}
    return {
        name: Part(x=torch.tensor(x[rows], dtype=torch.float32), y=torch.tensor(y[rows])) for name, rows in cut.items()
    }


def trained(x: Tensor, y: Tensor, seed: int = 0) -> nn.Module:
    """The target: here trained in a second; yours is loaded from where you keep it."""
    torch.manual_seed(seed)
    model = network(64)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(200):
        optimiser.zero_grad()
        cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()


def task() -> Task:
    parts = data()
    return Task(
        name="tumours",
        target=trained(parts["own"].x, parts["own"].y),
        spec=Spec(input_shape=(FEATURES,), output_shape=(2,), low=-1.0, high=1.0, output="probabilities"),
        **parts,
        architectures={"small": lambda: network(16), "wide": lambda: network(256)},
        epochs=60,
        teachers=64,
        lr=0.003,
    )


def export(model: nn.Module, path: str, x: Tensor) -> None:
    """Write a classifier as ONNX, answering with probabilities, for batches of any size."""
    sizes = ({0: torch.export.Dim("batch", min=1)},)
    answering = nn.Sequential(model, nn.Softmax(1)).eval()
    torch.onnx.export(answering, (x[:2],), path, dynamo=True, dynamic_shapes=sizes, verbose=False)


if __name__ == "__main__":
    parts = data()
    stolen = trained(parts["own"].x, parts["own"].y)
    with torch.no_grad():
        weight = stolen[0].weight
        weight[weight.abs() < weight.abs().median()] = 0
    export(stolen, "stolen.onnx", parts["test"].x)
    export(trained(parts["public"].x, parts["public"].y, seed=1), "stranger.onnx", parts["test"].x)
    export(trained(parts["own"].x, parts["own"].y, seed=1), "twin.onnx", parts["test"].x)
