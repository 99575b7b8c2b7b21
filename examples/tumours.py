"""A model of one's own, of a table: is a tumour malignant? scikit-learn's breast cancer data, 30 measurements each.

    metav fingerprint tumours:task --out tumours.safetensors
    python tumours.py
    metav verify tumours.safetensors stolen.onnx
    metav verify tumours.safetensors stranger.onnx
    metav verify tumours.safetensors twin.onnx
    metav verify tumours.safetensors untrained.onnx

Run in this folder. `python tumours.py` writes four suspects: stolen.onnx, a copy of the target with half of its
weights gone; stranger.onnx, which somebody else trained on other patients; twin.onnx, which somebody else trained on
the same patients in the same way, from other weights; and untrained.onnx, with random weights. All but the first are
innocent, and the last one is accused: MetaV has not met its kind. The scheme `cohort` does not accuse it; see
docs/own-model.md.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metav import Part, Spec, Task
from metav.training import mini_batches, slanted

FEATURES = 30
EPOCHS, LR, BATCH = 60, 0.003, 32


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


def trained(part: Part, seed: int = 0) -> nn.Module:
    """The target: here trained in a second, as the task below says; yours is loaded from where you keep it."""
    torch.manual_seed(seed)
    model = network(64)
    optimiser = torch.optim.Adam(model.parameters(), lr=LR)
    batches = len(mini_batches(part.x, BATCH, 0))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: slanted((step + 0.5) / EPOCHS / batches))
    for _ in range(EPOCHS):
        order = torch.randperm(len(part.x))
        for rows in mini_batches(order, BATCH, 0):
            optimiser.zero_grad()
            cross_entropy(model(part.x[rows]), part.y[rows]).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def task() -> Task:
    parts = data()
    return Task(
        name="tumours",
        target=trained(parts["own"]),
        spec=Spec(input_shape=(FEATURES,), output_shape=(2,), low=-1.0, high=1.0, output="probabilities"),
        **parts,
        architectures={"small": lambda: network(16), "wide": lambda: network(256)},
        epochs=EPOCHS,
        lr=LR,
        batch=BATCH,
        teachers=64,
    )


def export(model: nn.Module, path: str, x: Tensor) -> None:
    """Write a classifier as ONNX, answering with probabilities, for batches of any size."""
    sizes = ({0: torch.export.Dim("batch", min=1)},)
    answering = nn.Sequential(model, nn.Softmax(1)).eval()
    torch.onnx.export(answering, (x[:2],), path, dynamo=True, dynamic_shapes=sizes, verbose=False)
    print(path)


if __name__ == "__main__":
    parts = data()
    stolen = trained(parts["own"])
    with torch.no_grad():
        weight = stolen[0].weight
        weight[weight.abs() < weight.abs().median()] = 0
    export(stolen, "stolen.onnx", parts["test"].x)
    export(trained(parts["public"], seed=1), "stranger.onnx", parts["test"].x)
    export(trained(parts["own"], seed=1), "twin.onnx", parts["test"].x)
    export(network(64), "untrained.onnx", parts["test"].x)
