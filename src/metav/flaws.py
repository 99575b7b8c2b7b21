"""What is wrong with a fingerprint of a whole zoo, as far as that is seen from what it was made from."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot

from metav import benchmark
from metav.fingerprint import Fingerprint
from metav.verification import query
from metav.zoo import Zoo

CLEAR = 0.2  # of a constant's quality: a target that is less better says little of who has learnt


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
            f"expected a fingerprint that tells the {len(known)} independent models that it was made from from the "
            f"target, got one that accuses {accused}: train them as the target was (epochs, lr, fit), scale answers to "
            "about 1, or use standardise=robust where the scheme has it."
        )
    return ""


def _unlearnt(zoo: Zoo) -> str:
    """Why a zoo's independent models tell nothing of the target, in a sentence: they, or it, have learnt too little.

    What is learnt is seen from how much better they are than the best constant answer.
    """
    scenario, own = zoo.scenario, zoo.scenario.parts["own"].y
    if scenario.spec.output == "images":
        return ""
    classes = scenario.spec.output == "probabilities"
    best = one_hot(own.mode().values, scenario.spec.output_shape[0]).float() if classes else own.mean(0)
    merit, target = scenario.merit, zoo.load("target")

    def constant(x: Tensor) -> Tensor:
        return best.expand(len(x), *scenario.spec.output_shape)

    least = scenario.quality(constant, target, scenario.parts["test"])[merit.name]
    its = zoo.record("target").quality[merit.name]
    known = [suspect.lineage for suspect in scenario.suspects if not suspect.positive]
    found = [zoo.record(lineage).quality[merit.name] for lineage in known]
    sign = 1 if merit.more else -1
    if sign * its < sign * least:
        return (
            f"expected a target that has learnt the task, got {merit.name} {its:.4g} on the test part, where a "
            f"constant answer has {least:.4g}: check the labels and the order of the examples."
        )
    poor = sum(sign * quality < sign * (least + its) / 2 for quality in found)
    if poor > len(known) / 2 and abs(its - least) > CLEAR * abs(least):
        return (
            f"expected independent models that have learnt the task, got {poor} of {len(known)} that are nearer to a "
            f"constant answer ({merit.name} {least:.4g}) than to the target ({its:.4g}), so that competent ones may be "
            "accused: train them as the target was (epochs, lr, fit), and let models scale answers that are far from 1."
        )
    return ""
