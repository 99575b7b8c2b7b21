"""What is wrong with a fingerprint of a whole zoo, as far as that is seen from what it was made from."""

from __future__ import annotations

import torch
from torch import nn

from metav import benchmark
from metav.fingerprint import Fingerprint
from metav.training import Part
from metav.verification import query
from metav.zoo import Zoo

CLEAR = 0.2  # a skill of the target, below which it says little of who has learnt
GLANCE = 500  # test examples that show who has learnt


def flaw(zoo: Zoo, fingerprint: Fingerprint) -> str:
    """Why a fingerprint of the whole zoo is of no use, in one sentence with the next step; empty if nothing is seen.

    It is judged by the target and the independent models that it was made from: what fails on these fails on others.
    """
    if (
        fingerprint.reference is not None
        and (rate := fingerprint.score(fingerprint.reference)) <= fingerprint.threshold
    ):
        return (
            f"expected a fingerprint that recognises its own target, got a rate of {rate:.4f} with a threshold "
            f"of {fingerprint.threshold:.4f}: use more --queries, more models, or a larger level where the scheme has "
            "one."
        )
    if zoo.scenario.profile == "smoke":  # its models have learnt nothing yet
        return ""
    if said := _unlearnt(zoo):
        return said
    known = [suspect.lineage for suspect in zoo.scenario.suspects if not suspect.positive]
    rates = (benchmark.matching_rate(fingerprint, query(zoo.load(lineage), fingerprint.queries)) for lineage in known)
    accused = sum(rate > fingerprint.threshold for rate in rates)
    if accused > len(known) / 2:
        return (
            f"expected a fingerprint that accuses few of the {len(known)} independent models that it was made from, "
            f"got {accused} accused: train them as the target was (epochs, lr, fit), scale answers to about 1, or use "
            "standardise=robust where the scheme has it."
        )
    return ""


def _unlearnt(zoo: Zoo) -> str:
    """Why a zoo's models tell nothing of the target, in a sentence: they, or it, have learnt too little of the task."""
    scenario = zoo.scenario
    if scenario.spec.output == "images":
        return ""
    own, test = scenario.parts["own"], scenario.parts["test"]
    some = Part(x=test.x[:GLANCE], y=test.y[:GLANCE])
    its = _skill(zoo.load("target"), own, some)
    if its < 0:
        return (
            "expected a target that answers the test part better than a constant does, got one that does not "
            f"(skill {its:.2f}): check the labels and the order of the examples."
        )
    known = (suspect.lineage for suspect in scenario.suspects if not suspect.positive)
    trained = [lineage for lineage in known if not lineage.startswith("ready(")]
    poor = sum(_skill(zoo.load(lineage), own, some) < its / 2 for lineage in trained)
    if poor > len(trained) / 2 and its > CLEAR:
        scaled = ", and let models scale answers that are far from 1" if scenario.spec.output == "regression" else ""
        return (
            f"expected independent models that have learnt the task, got {poor} of {len(trained)} whose skill (0: a "
            f"constant answer, 1: no error) is below half of the target's, {its:.2f}, so that competent ones may be "
            f"accused: train them as the target was (epochs, lr, fit){scaled}."
        )
    return ""


def _skill(model: nn.Module, own: Part, test: Part) -> float:
    """How much better a model is than a constant answer: 0 for such a one, 1 for no error.

    Of classes, by their mean recall; of values, by the mean over them of the absolute error, that of the owner's median
    being 1.
    """
    answers = query(model, test.x)
    if test.y.dim() == 1 and not test.y.is_floating_point():
        present = test.y.unique()
        if len(present) < 2:
            return 0.0
        recall = torch.stack([(answers.argmax(1)[test.y == each] == each).double().mean() for each in present]).mean()
        return float((recall * len(present) - 1) / (len(present) - 1))
    apart, least = (((found - test.y).abs()).mean(0) for found in (answers, own.y.median(0).values))
    return float(1 - (apart / least)[least > 0].mean())
