"""The suspects of one scenario on disk: addressed by lineage, resumable, checked against digests."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from itertools import chain, compress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from metav import engine
from metav.building import Record, build_group
from metav.errors import IntegrityError, MetavError, SettingsError, StorageError
from metav.scenarios import Scenario
from metav.storage import canonical_json, home, load_tensors, make_folder, sweep, write_atomic
from metav.suspects import Lineage
from metav.suspects.distillation import Distillation
from metav.suspects.facade import Change

SNAPSHOTS = (0.35, 0.45, 0.55, 0.65, 0.75, 0.85)  # of a training: where LiteGuard takes them from
FORMAT = 2  # of the files, and of how models are trained: another number is another zoo


class Zoo:
    """The suspects of `scenario` in `folder` (by default below the cache folder).

    With `snapshots`, fractions of a training, the weights at these points of each suspect's last training are kept too;
    with `cohort` the scenario's matched-teacher cohort, with `open_world` its strangers.

    A suspect's identity is a hash of its full lineage (which holds its parents') and of the scenario's settings. Its
    weights are written first and its record last, both atomically, so that a suspect is there in whole or not at all.
    """

    def __init__(
        self,
        scenario: Scenario,
        folder: Path | None = None,
        snapshots: Sequence[float] = (),
        *,
        cohort: bool = False,
        open_world: bool = False,
    ) -> None:
        self.scenario = scenario
        self.cohort = scenario.cohort if cohort else None
        self.strangers = scenario.strangers if open_world else ()
        self.fractions = tuple(snapshots)
        usual = home() / "zoo" / scenario.name / scenario.profile
        self.folder = folder or usual
        words = ["metav zoo build", scenario.called or scenario.name]
        words += [] if scenario.profile == "cpu" else ["--profile", scenario.profile]
        words += [] if self.folder == usual else ["--zoo", shlex.quote(str(folder))]
        parts = {"--snapshots": self.fractions, "--cohort": self.cohort, "--open-world": self.strangers}
        words += [flag for flag, part in parts.items() if part]
        self.command = " ".join(words)
        self.settings = {"format": str(FORMAT), **scenario.settings()}

    @cached_property
    def _table(self) -> frozenset[str]:
        """The suspects of the table, without what lies between them."""
        return frozenset(self.scenario.lineage(suspect.lineage).text for suspect in self.scenario.suspects)

    # -- names ---------------------------------------------------------------------------------------------------

    def identity(self, lineage: str) -> str:
        """Identity of a lineage: 16 hex digits that name its files."""
        text = canonical_json([self.settings, self.scenario.lineage(lineage).full])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def lineages(self, *, cohort: bool = True, open_world: bool = True) -> list[str]:
        """All lineages of the zoo in canonical form: target, suspects, and any model between two of them.

        Those of its cohort and of its open world can be left out.
        """
        wanted = compress(self._parts(), (True, cohort, open_world))
        return list(dict.fromkeys(chain.from_iterable(wanted)))

    def _parts(self) -> Iterator[list[str]]:
        """The lineages of the table, of the cohort and of the strangers, each after those of all its ancestors."""
        table = ("target", *(suspect.lineage for suspect in self.scenario.suspects))
        cohort = () if self.cohort is None else self.cohort.all()
        strangers = (suspect.lineage for suspect in self.strangers)
        for texts in (table, cohort, strangers):
            found: dict[str, None] = {}
            for text in texts:
                ancestry = []
                parent: str | None = text
                while parent is not None:
                    lineage = self.scenario.lineage(parent)
                    ancestry.append(lineage.text)
                    parent = lineage.parent
                found.update(dict.fromkeys(reversed(ancestry)))
            yield list(found)

    def snapshots(self, lineage: str) -> list[str]:
        """Lineages of the snapshots that are kept of a suspect's last training: one for each of the fractions.

        None of the target, the cohort and strangers, whose snapshots nothing learns from.
        """
        found = self.scenario.lineage(lineage)
        if found.training is None or found.training.until or found.text not in self._table:
            return []
        epochs = found.training.epochs
        kept = sorted({min(max(1, round(part * epochs)), epochs - 1) for part in self.fractions} - {0})
        return [self.scenario.lineage(f"{found.full[:-1]},until={epoch})").text for epoch in kept]

    def _weights(self, lineage: str) -> Path:
        return self.folder / f"{self.identity(lineage)}.safetensors"

    def _record(self, lineage: str) -> Path:
        return self.folder / f"{self.identity(lineage)}.json"

    def files(self, lineage: str) -> tuple[Path, Path]:
        """Weights and record of a suspect; it is there when both are."""
        return self._weights(lineage), self._record(lineage)

    def _mend(self, name: str) -> str:
        return f"delete {name} there and run {self.command} again."

    # -- reading -------------------------------------------------------------------------------------------------

    def check_settings(self, archive: Path | None = None) -> None:
        """Compare the folder's settings, or those of the archive that it was taken from, with the scenario's.

        Raises
        ------
        SettingsError
            The folder holds a zoo of other settings; the message names the first that differs, with both values.
        StorageError
            There is no zoo in the folder.
        """
        path = self.folder / "zoo.json"
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise StorageError(
                f"expected a zoo in {str(self.folder)!r}, got none: run {self.command} first."
            ) from error
        except (OSError, ValueError) as error:
            raise IntegrityError(
                f"expected the settings of a zoo in {str(path)!r}, got {error}: build in another folder."
            ) from error
        if not isinstance(found, dict):
            raise IntegrityError(
                f"expected the settings of a zoo in {str(path)!r}, got {found!r}: build in another folder."
            )
        for name, value in self.settings.items():
            if found.get(name) != value:
                step = "choose another folder with --zoo." if archive is None else "give the archive of such a zoo."
                raise SettingsError(
                    f"expected a zoo with {name} {value!r} in {str(archive or self.folder)!r}, got one with {name} "
                    f"{found.get(name)!r}: {step}"
                )

    def has(self, lineage: str) -> bool:
        """Whether the suspect is there."""
        return all(file.exists() for file in self.files(lineage))

    def whole(self, lineage: str) -> bool:
        """Whether the suspect and its snapshots are there."""
        return all(self.has(each) for each in (lineage, *self.snapshots(lineage)))

    def record(self, lineage: str) -> Record:
        """The record of a suspect.

        Raises
        ------
        StorageError, IntegrityError
            It is missing; it is damaged.
        """
        path = self._record(lineage)
        try:
            found = json.loads(path.read_bytes())
            seal = found.pop("seal")
            record = Record(**found)
            if seal != record.seal() or record.lineage != self.scenario.lineage(lineage).text:
                raise ValueError("a seal of other content")
            return record
        except OSError as error:
            raise StorageError(
                f"expected suspect {lineage} in {str(self.folder)!r}, got none: run {self.command}."
            ) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise IntegrityError(
                f"expected the record of {lineage} in {str(path)!r}, got a truncated, edited or foreign file: "
                f"{self._mend(path.name)}"
            ) from error

    def load(self, lineage: str) -> nn.Module:
        """The suspect's model, frozen and in eval mode, after its weights were checked against their digest.

        Raises
        ------
        StorageError, IntegrityError
            It is missing; its files are damaged or do not belong together.
        """
        record = self.record(lineage)
        path = self._weights(lineage)
        mend = self._mend(f"{path.stem}.*")
        tensors, meta = load_tensors(path, mend)
        if meta["digest"] != record.digest or meta["lineage"] != self.scenario.lineage(lineage).text:
            raise IntegrityError(
                f"expected weights with digest {record.digest[:12]} in {str(path)!r}, got {meta['digest'][:12]}: {mend}"
            )
        with torch.device("meta"):  # shapes alone: the file's pages, mapped into memory, are the weights
            model = self._shell(self.scenario.lineage(lineage))
        model.load_state_dict(tensors, assign=True)
        return model.eval().requires_grad_(False)

    def _shell(self, lineage: Lineage) -> nn.Module:
        """A model of a lineage's architecture, without weights that mean anything, behind what changes its answers."""
        if lineage.parent is None or isinstance(lineage.step, Distillation):
            return self.scenario.make(lineage.architecture)()
        shell = self._shell(self.scenario.lineage(lineage.parent))
        return lineage.step.wrap(shell) if isinstance(lineage.step, Change) else shell

    def verify(self) -> list[str]:
        """Check every suspect; return one sentence for each that is missing or damaged."""
        self.check_settings()
        problems = []
        for lineage in self.lineages():
            try:
                self.load(lineage)
            except MetavError as error:
                problems.append(str(error))
        return problems

    # -- building ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Check that the folder is of this zoo; make it if it is not there. A whole zoo may be read-only.

        Raises
        ------
        SettingsError, StorageError
            The folder holds another zoo, or cannot be written.
        """
        if (self.folder / "zoo.json").exists():
            self.check_settings()
            if all(self.whole(lineage) for lineage in self.lineages()):
                return
        make_folder(self.folder / "locks")
        with FileLock(self.folder / "locks" / "settings"):
            if not (self.folder / "zoo.json").exists():
                write_atomic(self.folder / "zoo.json", json.dumps(self.settings, indent=1).encode())
        self.check_settings()

    def build(self, *, jobs: int = 2, progress: Callable[[int], None] | None = None) -> int:
        """Train what is missing, in `jobs` processes; return how many suspects that were.

        Killed at any moment, it can be called again and ends in the same zoo: the groups that train together are
        fixed by the scenario, not by what is missing. Two builders on one folder wait for each other's groups.

        Raises
        ------
        SettingsError, StorageError
            The folder holds another zoo, or cannot be written.
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

        The target comes first, as the records of all others tell their agreement with it. Cohort and
        strangers come last, and share no group with the table: groups are the same with and without them.
        """
        planned: set[str] = set()
        for part in self._parts():
            yield from self._levels([text for text in part if text not in planned])
            planned.update(part)

    def _levels(self, texts: Sequence[str]) -> Iterator[list[tuple[str, ...]]]:
        size = self.scenario.group
        levels: dict[int, dict[Any, list[str]]] = defaultdict(lambda: defaultdict(list))
        for text in texts:
            lineage = self.scenario.lineage(text)
            depth = len(lineage.links) - (lineage.links[0] == "target")
            levels[depth][self._kind(lineage)].append(text)
        for depth in sorted(levels):
            groups = [
                tuple(members[start : start + size])
                for members in levels[depth].values()
                for start in range(0, len(members), size)
            ]
            yield sorted(groups, key=self._cost, reverse=True)

    def _kind(self, lineage: Lineage) -> tuple[Any, ...]:
        """What models must have in common to train side by side."""
        training = lineage.training
        if training is None:
            return (type(lineage.step).__name__,)
        settings = asdict(training)
        del settings["seed"]
        rows = self.scenario.rows(settings.pop("data"))
        return (type(lineage.step).__name__, lineage.architecture, rows, *settings.values())

    def _cost(self, group: Sequence[str]) -> float:
        """Roughly how long a group takes, to start the longest first."""
        lineage = self.scenario.lineage(group[0])
        training = lineage.training
        if training is None:
            return 0.0
        with torch.device("meta"):  # no weights are drawn
            model = self.scenario.make(lineage.architecture)()
        size = sum(parameter.numel() for parameter in model.parameters())
        return float(len(group) * size * training.epochs * self.scenario.rows(training.data))
