"""Lineages: how a suspect was made, as one readable string that is also its name and, hashed, its identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from metav.errors import unknown
from metav.suspects.base import Step, Training
from metav.suspects.changed_answers import AnswerNoise, Clipping, Rescaling, Rounding, Tempering, Top
from metav.suspects.changed_inputs import Blurring, Compression, Squeezing
from metav.suspects.distillation import Distillation
from metav.suspects.fine_pruning import FinePruning
from metav.suspects.finetuning import FineTuning, Retraining
from metav.suspects.independent import Independent, Ready
from metav.suspects.perturbation import Quantisation, WeightNoise
from metav.suspects.pruning import FilterPruning, WeightPruning
from metav.text import build, call, render

# name in a lineage -> class, values it fixes
STEPS: dict[str, tuple[type[Step], dict[str, Any]]] = {
    "wp": (WeightPruning, {}),
    "fp": (FilterPruning, {}),
    "ftll": (FineTuning, {"last": 1}),
    "ftal": (FineTuning, {"last": 0}),
    "ft": (FineTuning, {}),
    "fineprune": (FinePruning, {"last": 0}),
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
    "top": (Top, {}),
    "squeezed": (Squeezing, {}),
    "blurred": (Blurring, {}),
    "compressed": (Compression, {}),
}
# name in a lineage -> the paper's name of the obfuscation
OBFUSCATIONS = {
    "wp": "WP",
    "fp": "FP",
    **dict.fromkeys(("ftll", "ftal", "ft"), "FT"),
    **dict.fromkeys(("rtll", "rtal", "rt"), "RT"),
    **dict.fromkeys(("distill", "extract", "copycat"), "Distillation"),
}


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """A parsed lineage: the text of each link, root first, and the steps they stand for.

    `links` begins with the word `target` where the target is an ancestor; `full` spells it out, and `steps` has the
    target's too.
    """

    links: tuple[str, ...]
    full: str
    steps: tuple[Step, ...]

    @property
    def step(self) -> Step:
        """The last step."""
        return self.steps[-1]

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

    @property
    def architecture(self) -> str:
        """The architecture of the model: that of the last step which makes a new one."""
        return _architecture(self.steps)

    @property
    def new_architecture(self) -> str:
        """Its architecture if it was made anew, empty if its weights are the target's, changed or not."""
        return _architecture(self.steps[len(self.steps) - len(self.links) + 1 :] if self._of_target else self.steps)

    @property
    def obfuscation(self) -> str:
        """What made a positive from the target: WP, FP, FT, RT or Distillation, otherwise the step's name.

        That is the first step, as tuning what was pruned is a part of pruning. Empty for the target and independent
        models.
        """
        name = call(self.links[1])[0] if self._of_target and len(self.links) > 1 else ""
        return OBFUSCATIONS.get(name, name)

    @property
    def _of_target(self) -> bool:
        return self.links[0] == "target"


def _architecture(steps: Sequence[Step]) -> str:
    found = (getattr(step, "architecture", "") or getattr(step, "student", "") for step in reversed(steps))
    return next(filter(None, found), "")


@lru_cache(maxsize=2**16)  # a zoo asks for the same ones again and again
def parse(text: str, target: str) -> Lineage:
    """Read a lineage such as `target>wp(0.3)>ftal(public,10ep,lr=0.001,batch=64,seed=2)`.

    Parameters
    ----------
    text
        Links joined by `>`. The first is `target`, or the training of a model from scratch,
        `ARCHITECTURE(data,EPOCHSep,lr=,batch=,seed=)`, or `ready(NAME)` for one that came trained; the others are
        among `STEPS`.
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
    return Lineage(links=tuple(links), full=full, steps=tuple(step for _, step in steps))


def _steps(text: str, target: str) -> list[tuple[str, Step]]:
    """Each link in canonical form, with the target spelt out, beside the step it stands for."""
    words = [word.strip() for word in text.split(">")]
    if words[0] == "target":
        words[:1] = target.split(">")
    found: list[tuple[str, Step]] = []
    for word in words:
        name, args = call(word)
        kind: type[Step] = Ready if name == "ready" else Independent
        fixed: dict[str, Any] = {} if name == "ready" else {"architecture": name}
        if found:
            if name not in STEPS:
                raise unknown("way to derive a suspect", name, STEPS)
            kind, fixed = STEPS[name]
        step = build(kind, args, fixed)
        found.append((render(name, step, fixed), step))
    return found
