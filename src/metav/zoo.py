"""A zoo: the suspects of one scenario, and in which order and company they are trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

import torch

from metav import engine
from metav.building import build_group
from metav.storage import sweep
from metav.suspects import Lineage
from metav.zoo_files import ZooFiles

WIDEST = 4  # times the scenario's group: as wide as pays
SHARES = 2  # groups that a kind is still in where they are wider, for as many processes
SNAPSHOTS = (0.35, 0.45, 0.55, 0.65, 0.75, 0.85)  # of a training: where LiteGuard takes them from


class Zoo(ZooFiles):
    """The suspects of a scenario on disk, which can be trained; takes what `ZooFiles` takes."""

    def build(self, *, jobs: int = 2, progress: Callable[[int], None] | None = None) -> int:
        """Train what is missing, in `jobs` processes; return how many suspects that were.

        Killed at any moment, it can be called again and ends in the same zoo: the groups that train together are
        fixed by the scenario, not by what is missing. Two builders on one folder wait for each other's groups.

        Raises
        ------
        SettingsError, StorageError, IntegrityError
            The folder holds another zoo, or cannot be written; its settings are damaged.
        """
        self.prepare()
        sweep(self.folder)
        missing = sum(not self.whole(lineage) for lineage in self.lineages())
        for level in self.plan():
            todo = [group for group in level if not all(self.whole(lineage) for lineage in group)]
            if progress is not None:
                progress(sum(len(group) for group in level if group not in todo))
            engine.map(
                partial(build_group, self),
                todo,
                jobs=jobs,
                progress=None if progress is None else lambda group: progress(len(group)),
            )
        return missing

    def plan(self) -> Iterator[list[tuple[str, ...]]]:
        """Levels of groups: a group trains side by side, a level needs only what the levels before it made.

        The target comes first, as the records of all others tell their agreement with it. Cohort and open
        world come last, and share no group with the table: groups are the same with and without them.
        """
        planned: set[str] = set()
        for part in self._parts():
            yield from self._levels([text for text in part if text not in planned])
            planned.update(part)

    def _levels(self, texts: Sequence[str]) -> Iterator[list[tuple[str, ...]]]:
        levels: dict[int, dict[Any, list[str]]] = defaultdict(lambda: defaultdict(list))
        for text in texts:
            lineage = self.scenario.lineage(text)
            depth = len(lineage.links) - (lineage.links[0] == "target")
            levels[depth][self._kind(lineage)].append(text)
        for depth in sorted(levels):
            groups = [
                tuple(members[start : start + size])
                for members in levels[depth].values()
                for size in [self._size(len(members))]
                for start in range(0, len(members), size)
            ]
            yield sorted(groups, key=self._cost, reverse=True)

    def _size(self, count: int) -> int:
        """How many of `count` models of a kind train side by side: more where there are many, as in a cohort.

        A multiple of the scenario's number: all of Warfarin's cohort ends in the same bits then, on an Intel Xeon.
        """
        size = self.scenario.group
        return size if size == 1 else size * min(WIDEST, max(1, count // (SHARES * size)))

    def _kind(self, lineage: Lineage) -> tuple[Any, ...]:
        """What models must have in common to train side by side."""
        training = lineage.training
        if training is None:
            return (type(lineage.step).__name__,)
        settings = asdict(training)
        del settings["seed"]
        rows = self.scenario.rows(settings.pop("data"))
        return (type(lineage.step).__name__, lineage.architecture, rows, *settings.values())

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Parameters of each architecture that was asked about."""
        return {}

    def _cost(self, group: Sequence[str]) -> float:
        """Roughly how long a group takes, to start the longest first."""
        lineage = self.scenario.lineage(group[0])
        training = lineage.training
        if training is None:
            return 0.0
        if lineage.architecture not in self._sizes:
            with torch.device("meta"):  # no weights are drawn, but those of a task's models
                model = self.scenario.constructor(lineage.architecture)()
            self._sizes[lineage.architecture] = sum(parameter.numel() for parameter in model.parameters())
        size = self._sizes[lineage.architecture]
        return float(len(group) * size * training.epochs * self.scenario.rows(training.data))
