"""A torchvision classifier of one's own: a ResNet-18 that reads digits (scikit-learn's, 8 x 8 pixels).

    metav zoo build digits:task
    metav fingerprint digits:task --out digits.safetensors

Run in this folder. The trained target is kept in digits-target.safetensors; put your own in its place.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.models import mobilenet_v3_small, resnet18

from metav import Part, Spec, Task

WEIGHTS = Path("digits-target.safetensors")


def resnet() -> nn.Module:
    """A ResNet-18 whose first layers keep the few pixels that there are."""
    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def mobilenet() -> nn.Module:
    return nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(1, 3, 1), mobilenet_v3_small(num_classes=10))


def data() -> dict[str, Part]:
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1  # 0..16 to [-1, 1]
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    cut = {"own": order[:600], "public": order[600:1200], "test": order[1200:]}
    return {name: Part(x=x[rows], y=torch.from_numpy(labels)[rows]) for name, rows in cut.items()}


def target(own: Part) -> nn.Module:
    model = resnet()
    if not WEIGHTS.exists():
        torch.manual_seed(0)
        model = resnet()
        optimiser = torch.optim.Adam(model.parameters(), lr=0.001)
        for _ in range(3):
            for rows in torch.randperm(len(own.x)).split(50):
                optimiser.zero_grad()
                cross_entropy(model(own.x[rows]), own.y[rows]).backward()
                optimiser.step()
        save_file(model.state_dict(), WEIGHTS)
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


def task() -> Task:
    parts = data()
    return Task(
        name="digits",
        target=target(parts["own"]),
        spec=Spec(input_shape=(1, 8, 8), output_shape=(10,), low=-1.0, high=1.0, output="probabilities"),
        **parts,
        architectures={"mobilenet": mobilenet},
        epochs=3,
        tuning=1,
        independents=6,
    )
