"""Building suspects of a zoo: a group is trained, judged, and written, weights first and records last."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from filelock import FileLock
from torch import Tensor, nn

from metav import engine
from metav.checkpoint import Checkpoint
from metav.errors import MetavError, described
from metav.suspects import Draft, Lineage
from metav.suspects.base import answering
from metav.zoo_files import ZooFiles

RESERVED = (  # names of other figures of a suspect, in results and listings
    *("scheme", "queries", "models", "left_out", "view", "repetition", "lineage", "family", "positive", "rate"),
    *("threshold", "useful", "refused", "quality", "derived", "truly", "parameters", "seconds", "digest"),
)


def build_group(zoo: ZooFiles, group: Sequence[str]) -> None:
    """Train a group, and write those of its members that are missing; whatever fails is told with a name.

    Raises
    ------
    MetavError
        A model could not be trained or judged, or a task's module gives something else in this process.
    """
    zoo.check_process()
    try:
        _train(zoo, group)
    except MetavError:
        raise
    except Exception as error:
        whose = group[0] if len(group) == 1 else f"{group[0]} and {len(group) - 1} more"
        raise MetavError(
            f"expected to train {whose}, got {described(error)}: correct it, and run the same command again."
        ) from error


def _train(zoo: ZooFiles, group: Sequence[str]) -> None:
    with FileLock(zoo.folder / "locks" / zoo.identity(group[0])):
        missing = [lineage for lineage in group if not zoo.whole(lineage)]
        if not missing:
            return
        start = time.perf_counter()
        together = "+".join(zoo.identity(text) for text in group)  # a stack's state is that of all its members
        drafts = {text: _draft(zoo, zoo.scenario.lineage(text), together) for text in group}
        data = {draft.training.data for draft in drafts.values() if draft.training is not None}
        device = engine.device()
        parts = {**zoo.scenario.parts, **{name: zoo.scenario.part(name) for name in data}}
        parts = {name: part.to(device) for name, part in parts.items()}
        learning = {text: draft for text, draft in drafts.items() if draft.training is not None}
        fixed = {text: _fixed(draft) for text, draft in learning.items()}
        for draft in learning.values():  # the others are as they should be
            draft.to(device)
            if draft.prepare is not None and draft.training is not None:
                draft.prepare(parts[draft.training.data].x)
        if learning:
            zoo.scenario.fit(list(learning.values()), parts)
        for draft in drafts.values():
            draft.to(torch.device("cpu"))
            draft.model.eval().requires_grad_(False)  # a task's own fit may not
        for text, draft in learning.items():
            _check_fixed(draft, fixed[text], text)
        earlier = sum(draft.checkpoint.spent for draft in drafts.values() if draft.checkpoint is not None)
        seconds = (time.perf_counter() - start + earlier) / len(group)
        target = zoo.load("target") if zoo.has("target") else drafts["target"].model
        for text in missing:
            draft = drafts[text]
            if not zoo.has(text):  # only its snapshots may be missing; others were made from it as it is
                _save(zoo, text, draft.model, target, seconds)
            before = deepcopy(draft.model) if draft.snapshots else draft.model  # the model may be the target itself
            for snapshot, epochs in zip(zoo.snapshots(text), draft.snapshots, strict=True):
                if epochs not in draft.kept:
                    raise MetavError(
                        f"expected the weights of {text} after {epochs} epochs, got none: let fit call draft.keep "
                        "after each epoch, or leave --snapshots out."
                    )
                before.load_state_dict(draft.kept[epochs])
                _save(zoo, snapshot, before, target, seconds=0.0)
        for text in group:  # of a training that kept no snapshots, too
            _checkpoint(zoo, text, together).clear()


def _fixed(draft: Draft) -> dict[str, Tensor]:
    """Copies of the parameters of the part that answers that are not to be trained."""
    prefix, part = answering(draft.model)
    named = part.named_parameters(prefix=prefix)
    return {name: value.detach().clone() for name, value in named if name not in draft.trainable}


def _check_fixed(draft: Draft, before: Mapping[str, Tensor], lineage: str) -> None:
    """Refuse a training that has changed what it was not to: the suspect would not be what its name says."""
    after = dict(draft.model.named_parameters())
    for name, value in before.items():
        if name not in after or not torch.equal(after[name], value):
            raise MetavError(
                f"expected {name} of {lineage} as it was, got other weights: let fit train what draft.trainable names, "
                "and nothing else."
            )


def _draft(zoo: ZooFiles, lineage: Lineage, together: str) -> Draft:
    parent = None if lineage.parent is None else zoo.load(lineage.parent)
    draft = lineage.step.draft(parent, zoo.scenario.fresh)
    kept = [zoo.scenario.lineage(snapshot).training for snapshot in zoo.snapshots(lineage.text)]
    draft.snapshots = tuple(training.until for training in kept if training is not None)
    if not kept:  # snapshots are held in memory until the end, so that a training that keeps some starts anew
        draft.checkpoint = _checkpoint(zoo, lineage.text, together)
    return draft


def _checkpoint(zoo: ZooFiles, lineage: str, together: str) -> Checkpoint:
    return Checkpoint(zoo.folder / f"{zoo.identity(lineage)}.checkpoint", together)


def _save(zoo: ZooFiles, text: str, model: nn.Module, target: nn.Module, seconds: float) -> None:
    scenario = zoo.scenario
    if broken := next((name for name, value in model.named_parameters() if not torch.isfinite(value).all()), None):
        raise MetavError(
            f"expected finite weights of {text}, got NaN or infinity in {broken}: leave a model at hand out; where it "
            "was trained, lower the learning rate, or correct fit."
        )
    quality = {k: float(v) for k, v in scenario.quality(model, target, scenario.parts["test"]).items()}
    if scenario.merit.name not in quality:
        raise MetavError(
            f"expected {scenario.merit.name} among the figures of quality, got {', '.join(quality)}: rename one of "
            "them, or merit."
        )
    if taken := sorted(quality.keys() & set(RESERVED)):
        raise MetavError(
            f"expected figures of quality with names of their own, got {taken[0]}, which results have too: rename it."
        )
    if not all(map(math.isfinite, quality.values())):
        raise MetavError(
            f"expected finite figures of quality of {text}, got {quality}: its training did not converge, or the "
            "figures do not fit the task; lower the learning rate, or correct them."
        )
    zoo.save(text, model, quality, seconds)
