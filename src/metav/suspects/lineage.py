"""Lineages: how a suspect was made, as one readable string that is also its name and, hashed, its identity."""

from __future__ import annotations

import re
from dataclasses import dataclass

from metav.errors import unknown
from metav.suspects.base import Training
from metav.suspects.distillation import Distillation
from metav.suspects.finetuning import FineTuning, Retraining
from metav.suspects.independent import Independent
from metav.suspects.pruning import FilterPruning, WeightPruning
from metav.text import build, call

AnyStep = Independent | Distillation | FineTuning | Retraining | WeightPruning | FilterPruning

# name in a lineage -> class, values it fixes
STEPS: dict[str, tuple[type[AnyStep], dict[str, int]]] = {
    "wp": (WeightPruning, {}),
    "fp": (FilterPruning, {}),
    "ftll": (FineTuning, {"last": 1}),
    "ftal": (FineTuning, {"last": 0}),
    "ft": (FineTuning, {}),
    "rtll": (Retraining, {"last": 1}),
    "rtal": (Retraining, {"last": 0}),
    "rt": (Retraining, {}),
    "distill": (Distillation, {}),
}


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """A parsed lineage: the text of each link, root first, and the last link as a step.

    `links` begins with the word `target` where the target is an ancestor; `full` spells it out.
    """

    links: tuple[str, ...]
    full: str
    step: AnyStep

    @property
    def text(self) -> str:
        """The lineage in its canonical form."""
        return ">".join(self.links)

    @property
    def parent(self) -> str | None:
        """The lineage of the parent model, None for a model trained from scratch."""
        return ">".join(self.links[:-1]) or None

    @property
    def training(self) -> Training | None:
        """The training of the last link, if it has one."""
        return self.step if isinstance(self.step, Training) else None


def parse(text: str, target: str) -> Lineage:
    """Read a lineage such as `target>wp(0.3)>ftal(public,10ep,lr=0.001,batch=64,seed=2)`.

    Parameters
    ----------
    text
        Links joined by `>`. The first is `target` or the training of a model from scratch,
        `ARCHITECTURE(data,EPOCHSep,lr=,batch=,seed=)`; the others are among `STEPS`.
    target
        The lineage that the word `target` stands for.

    Raises
    ------
    UsageError
        The text is no lineage; the message says which link is wrong.
    """
    links = _links(text)
    if links[0] == "target":
        links[:1] = _links(target)
    full = ">".join(links)
    name, args = call(links[0])
    step: AnyStep = build(Independent, args, {"architecture": name})
    for link in links[1:]:
        name, args = call(link)
        if name not in STEPS:
            raise unknown("way to derive a suspect", name, STEPS)
        kind, fixed = STEPS[name]
        step = build(kind, args, fixed)
    own = _links(target)
    if links[: len(own)] == own:
        links[: len(own)] = ["target"]
    return Lineage(links=tuple(links), full=full, step=step)


def _links(text: str) -> list[str]:
    return re.sub(r"\s", "", text).split(">")
