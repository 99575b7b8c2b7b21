"""Trainings on CUDA, as far as that shows without one: no step mixes tensors of two devices.

Tensors are torch's fake ones, which have shapes and devices but no values, so that what reads values is replaced.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from metav import adversarial, scenarios, training
from metav.suspects.base import Draft, Training, all_names
from metav.training import Part

CUDA = torch.device("cuda")
EXAMPLES = 48


@pytest.fixture
def fake(monkeypatch):
    def gradients(_, inputs, **settings):
        return tuple(torch.empty_like(each) for each in (inputs if isinstance(inputs, list) else [inputs]))

    monkeypatch.setattr(torch.autograd, "grad", gradients)
    monkeypatch.setattr(nn.Module, "to", lambda self, **layout: self)
    monkeypatch.setattr(adversarial._Mean, "update", lambda self: None)
    for module in (training, adversarial):
        monkeypatch.setattr(module, "nonzero_masks", lambda parameters: {})


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("name", "architecture", "taught"),
    [
        ("warfarin", "S", False),  # side by side
        ("warfarin", "L", True),
        ("skin", "M", True),
        ("skin", "small", False),
        ("fashion", "XL", False),
        ("fashion", "S", True),
    ],
)
def test_no_training_mixes_devices(name, architecture, taught):
    scenario = scenarios.load(name, "smoke")
    shape = {"skin": (), "warfarin": (1,), "fashion": (1, 28, 28)}[name]
    with FakeTensorMode(allow_non_fake_inputs=True), CUDA:
        y = torch.zeros(EXAMPLES, *shape, dtype=torch.int64 if name == "skin" else torch.float32)
        part = Part(x=torch.zeros(EXAMPLES, *scenario.spec.input_shape), y=y)
        models = [scenario.constructor(architecture)() for _ in range(3)]
    drafts = [
        Draft(
            model=model,
            training=Training(data="own", epochs=1, lr=0.001, batch=16, seed=seed),
            trainable=all_names(model),
            teacher=models[2] if taught else None,
            snapshots=(),
        )
        for seed, model in enumerate(models[:2])
    ]
    with FakeTensorMode(allow_non_fake_inputs=True):
        scenario.fit(drafts, {"own": part})
    assert {tensor.device.type for draft in drafts for tensor in draft.model.parameters()} == {"cuda"}
