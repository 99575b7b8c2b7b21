"""Lineages: how a suspect was made, as one readable string that is also its name and, hashed, its identity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from metav.errors import unknown
from metav.suspects.base import Training
from metav.suspects.distillation import Distillation
from metav.suspects.facade import (
    AnswerNoise,
    Blurring,
    Clipping,
    Compression,
    Rescaling,
    Rounding,
    Tempering,
)
from metav.suspects.finetuning import FineTuning, Retraining
from metav.suspects.independent import Independent
from metav.suspects.perturbation import Quantisation, WeightNoise
from metav.suspects.pruning import FilterPruning, WeightPruning
from metav.text import build, call, render

AnyStep = (
    Independent
    | Distillation
    | FineTuning
    | Retraining
    | WeightPruning
    | FilterPruning
    | Quantisation
    | WeightNoise
    | Rounding
    | AnswerNoise
    | Clipping
    | Rescaling
    | Tempering
    | Blurring
    | Compression
)

# name in a lineage -> class, values it fixes
STEPS: dict[str, tuple[type[AnyStep], dict[str, Any]]] = {
    "wp": (WeightPruning, {}),
    "fp": (FilterPruning, {}),
    "ftll": (FineTuning, {"last": 1}),
    "ftal": (FineTuning, {"last": 0}),
    "ft": (FineTuning, {}),
    "rtll": (Retraining, {"last": 1}),
    "rtal": (Retraining, {"last": 0}),
    "rt": (Retraining, {}),
    "distill": (Distillation, {"labels": 1, "soft": 1}),
    "extract": (Distillation, {"labels": 0, "soft": 1}),
    "copycat": (Distillation, {"labels": 0, "soft": 0}),
    "quantise": (Quantisation, {}),
    "jitter": (WeightNoise, {}),
    "rounded": (Rounding, {}),
    "noisy": (AnswerNoise, {}),
    "clipped": (Clipping, {}),
    "rescaled": (Rescaling, {}),
    "tempered": (Tempering, {}),
    "blurred": (Blurring, {}),
    "compressed": (Compression, {}),
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


@lru_cache(maxsize=2**16)  # a zoo asks for the same ones again and again
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
    steps = _steps(text, target)
    links = [link for link, _ in steps]
    full = ">".join(links)
    own = [link for link, _ in _steps(target, target)]
    if links[: len(own)] == own:
        links[: len(own)] = ["target"]
    return Lineage(links=tuple(links), full=full, step=steps[-1][1])


def _steps(text: str, target: str) -> list[tuple[str, AnyStep]]:
    """Each link in canonical form, with the target spelt out, beside the step it stands for."""
    words = [word.strip() for word in text.split(">")]
    if words[0] == "target":
        words[:1] = target.split(">")
    found: list[tuple[str, AnyStep]] = []
    for word in words:
        name, args = call(word)
        kind: type[AnyStep] = Independent
        fixed: dict[str, Any] = {"architecture": name}
        if found:
            if name not in STEPS:
                raise unknown("way to derive a suspect", name, STEPS)
            kind, fixed = STEPS[name]
        step = build(kind, args, fixed)
        found.append((render(name, step, fixed), step))
    return found
