"""Published formulas for the dose of warfarin, as models of the Warfarin scenario: nobody made them from the target.

Those of the IWPC were fitted to patients of the same collection, as the target is.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from metav.scenarios.base import Subject
from metav.scenarios.warfarin_data import natural
from metav.spec import Model

INR = 2.5  # the target of most patients; the data do not tell it
WEEK = 7  # days
HALF = 5.0  # years: patients are known by decades


def formulas() -> Iterator[Subject]:
    """The formulas, as independent models: doses in mg a week from inputs (n, 31)."""
    named: tuple[tuple[str, Model], ...] = (
        ("IWPC, pharmacogenetic", _iwpc_pharmacogenetic),
        ("IWPC, clinical", _iwpc_clinical),
        ("Gage", _gage),
    )
    for name, model in named:
        yield Subject(name=name, family="published formula", positive=False, model=model)


class _Patients:
    """What the formulas ask about patients, (n,) each, of scaled inputs (n, 31)."""

    def __init__(self, x: Tensor) -> None:
        columns = natural(x)
        self.height, self.weight, self.amiodarone = columns[:, 0], columns[:, 1], columns[:, 2]  # cm, kg, yes or no
        self.inducer = columns[:, 3:6].sum(1).clamp(0, 1)  # carbamazepine, phenytoin, rifampicin
        self.smoker = columns[:, 6]
        self.asian, self.black, self.unknown = columns[:, 7], columns[:, 8], columns[:, 9]
        self.decades = columns[:, 11:20] @ torch.arange(1.0, 10.0)
        self.cyp2c9 = columns[:, 20:27]  # *1/*1, *1/*2, *1/*3, *2/*2, *2/*3, *3/*3, unknown
        self.vkorc1 = columns[:, 27:31]  # A/A, A/G, G/G, unknown


def _iwpc_pharmacogenetic(x: Tensor) -> Tensor:
    """International Warfarin Pharmacogenetics Consortium, N Engl J Med 360:753-764, 2009, supplement."""
    of = _Patients(x)
    root = (
        5.6044
        - 0.2614 * of.decades
        + 0.0087 * of.height
        + 0.0128 * of.weight
        + of.vkorc1 @ torch.tensor([-1.6974, -0.8677, 0.0, -0.4854])
        + of.cyp2c9 @ torch.tensor([0.0, -0.5211, -0.9357, -1.0616, -1.9206, -2.3312, -0.2188])
        - 0.1092 * of.asian
        - 0.2760 * of.black
        - 0.1032 * of.unknown
        + 1.1816 * of.inducer
        - 0.5503 * of.amiodarone
    )
    return root.square()[:, None]


def _iwpc_clinical(x: Tensor) -> Tensor:
    """The same, without genes."""
    of = _Patients(x)
    root = (
        4.0376
        - 0.2546 * of.decades
        + 0.0118 * of.height
        + 0.0134 * of.weight
        - 0.6752 * of.asian
        + 0.4060 * of.black
        + 0.0443 * of.unknown
        + 1.2799 * of.inducer
        - 0.5695 * of.amiodarone
    )
    return root.square()[:, None]


def _gage(x: Tensor) -> Tensor:
    """Gage et al., Clin Pharmacol Ther 84:326-331, 2008: body surface after Mosteller, no thrombosis."""
    of = _Patients(x)
    surface = (of.height * of.weight / 3600).sqrt()  # square metres
    logarithm = (
        0.9751
        - 0.3238 * of.vkorc1 @ torch.tensor([2.0, 1.0, 0.0, 1.0])  # alleles A; one where they are unknown
        + 0.4317 * surface
        - 0.4008 * of.cyp2c9 @ torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0, 2.0, 0.0])  # alleles *3
        - 0.2066 * of.cyp2c9 @ torch.tensor([0.0, 1.0, 0.0, 2.0, 1.0, 0.0, 0.0])  # alleles *2
        - 0.00745 * (10 * of.decades + HALF)
        + 0.2029 * INR
        - 0.2538 * of.amiodarone
        + 0.0922 * of.smoker
        - 0.0901 * of.black
    )
    return WEEK * logarithm.exp()[:, None]
