"""A torchvision classifier of one's own: a ShuffleNet that reads digits (scikit-learn's, 8 x 8 pixels).

    metav zoo build digits:task
    metav fingerprint digits:task --out digits.safetensors

Run in this folder. The trained target is kept in digits-target.safetensors; put your own in its place.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.models import mobilenet_v3_small, shufflenet_v2_x0_5

from metav import Part, Spec, Task

WEIGHTS = Path("digits-target.safetensors")


def enlarged(model: nn.Module) -> nn.Module:
    """A network for 32 x 32 pixels in colour, for grey images of 8 x 8."""
    return nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(1, 3, 1), model)


def shufflenet() -> nn.Module:
    return enlarged(shufflenet_v2_x0_5(num_classes=10))


def mobilenet() -> nn.Module:
    """Its batch statistics follow a training of few steps: with torchvision's momentum of 0.01 they lag behind."""
    return enlarged(mobilenet_v3_small(num_classes=10, norm_layer=partial(nn.BatchNorm2d, momentum=0.1)))


def data() -> dict[str, Part]:
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1  # 0..16 to [-1, 1]
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    cut = {"own": order[:600], "public": order[600:1200], "test": order[1200:]}
    return {name: Part(x=x[rows], y=torch.from_numpy(labels)[rows]) for name, rows in cut.items()}


def target(own: Part) -> nn.Module:
    model = shufflenet()
    if not WEIGHTS.exists():
        torch.manual_seed(0)
        model = shufflenet()
        optimiser = torch.optim.Adam(model.parameters(), lr=0.004)
        for _ in range(15):
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
        epochs=15,
        lr=0.004,
        tuning=1,
        independents=6,
    )
