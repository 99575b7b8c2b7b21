"""The suspects of one scenario on disk: which there are, addressed by lineage, and checked against digests."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain, compress
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn

from metav import sources
from metav.errors import IntegrityError, MetavError, SettingsError, StorageError
from metav.scenarios import Scenario
from metav.storage import canonical_json, home, load_tensors, make_folder, save_tensors, write_json
from metav.suspects import Lineage
from metav.suspects.distillation import Distillation
from metav.suspects.facade import Change

FORMAT = 2  # of the files, and of how models are trained: another number is another zoo


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the zoo keeps of a suspect besides its weights.

    `digest` is that of the weights; `parameters` counts them; `seconds` is its share of its group's training;
    `quality` holds the scenario's figures, e.g. error and agreement with the target.
    """

    lineage: str
    digest: str
    parameters: int
    seconds: float
    quality: dict[str, float]

    def seal(self) -> str:
        """SHA-256 of the record, kept beside it in its file."""
        return hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()


def _tied(model: nn.Module) -> list[list[str]]:
    """Names of parameters that are one, as where two layers share a weight."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [each for each in names.values() if len(each) > 1]


class ZooFiles:
    """The suspects of `scenario` in `folder` (by default below the cache folder).

    With `snapshots`, fractions of a training, the weights at these points of each suspect's last training are kept too;
    with `cohort` the scenario's matched-teacher cohort, with `open_world` the suspects of its open world.

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
        self.open_world = scenario.open_world if open_world else ()
        self.fractions = tuple(snapshots)
        usual = home() / "zoo" / scenario.name / scenario.profile
        self.folder = Path(folder or usual)
        words = ["metav zoo build", scenario.called or scenario.name]
        words += [] if scenario.profile == "cpu" else ["--profile", scenario.profile]
        words += [] if self.folder == usual else ["--zoo", shlex.quote(str(folder))]
        parts = {"--snapshots": self.fractions, "--cohort": self.cohort, "--open-world": self.open_world}
        words += [flag for flag, part in parts.items() if part]
        self.command = " ".join(words)
        self.settings = {"format": str(FORMAT), **scenario.settings}
        self.code = sources.CODE

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
        """The lineages of the table, of the cohort and of the open world, each after those of all its ancestors."""
        table = ("target", *(suspect.lineage for suspect in self.scenario.suspects))
        cohort = () if self.cohort is None else self.cohort.all()
        unseen = (suspect.lineage for suspect in self.open_world)
        for texts in (table, cohort, unseen):
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

        None of the target, the cohort and the open world, whose snapshots nothing learns from.
        """
        found = self.scenario.lineage(lineage)
        if found.training is None or found.training.until or found.text not in self._table:
            return []
        epochs = found.training.epochs
        kept = sorted({min(max(1, round(part * epochs)), epochs - 1) for part in self.fractions} - {0})
        return [self.scenario.lineage(f"{found.full[:-1]},until={epoch})").text for epoch in kept]

    def everything(self) -> list[str]:
        """All lineages, each with its snapshots."""
        return [each for lineage in self.lineages() for each in (lineage, *self.snapshots(lineage))]

    def _weights(self, lineage: str) -> Path:
        return self.folder / f"{self.identity(lineage)}.safetensors"

    def _record(self, lineage: str) -> Path:
        return self.folder / f"{self.identity(lineage)}.json"

    def files(self, lineage: str) -> tuple[Path, Path]:
        """Weights and record of a suspect; it is there when both are."""
        return self._weights(lineage), self._record(lineage)

    def _mend(self, name: str) -> str:
        return f"delete {name} there and run {self.command} again."

    def check_process(self) -> None:
        """Compare code and scenario with those of the process that opened the zoo, in one that has read them again.

        Raises
        ------
        MetavError
            The code has been changed meanwhile.
        SettingsError
            A task's module gave something else.
        """
        if self.code != sources.CODE:
            raise MetavError("expected the code that the run began with, got changed files: start it again.")
        for name, value in self.scenario.settings.items():
            if value != self.settings[name]:
                what = "models and training" if name == "method" else name
                raise SettingsError(
                    f"expected the same {what} of {self.scenario.called or self.scenario.name} in each process, got "
                    f"{self.settings[name]!r} and {value!r}: seed what its module draws, or load it from a file, and "
                    "do not change it meanwhile."
                )

    # -- reading -------------------------------------------------------------------------------------------------

    def check_settings(self, archive: Path | None = None) -> None:
        """Compare the folder's settings, or those of the archive that it was taken from, with the scenario's.

        Raises
        ------
        SettingsError
            The folder holds a zoo of other settings; the message names the first that differs, with both values.
        StorageError, IntegrityError
            There is no zoo in the folder; its settings are damaged.
        """
        path = self.folder / "zoo.json"
        try:
            found = json.loads(path.read_bytes())
            if not isinstance(found, dict):
                raise ValueError(repr(found))
        except FileNotFoundError as error:
            raise StorageError(
                f"expected a zoo in {str(self.folder)!r}, got none: run {self.command} first."
            ) from error
        except (OSError, ValueError) as error:
            step = "build in another folder" if archive is None else "export the zoo again"
            raise IntegrityError(
                f"expected the settings of a zoo in {str(archive or path)!r}, got {error}: {step}."
            ) from error
        for name, value in self.settings.items():
            if found.get(name) != value:
                step = (
                    "choose another folder with --zoo, or delete this one."
                    if archive is None
                    else "give the archive of such a zoo."
                )
                place = repr(str(archive or self.folder))
                if name == "method":  # a digest, which says nothing to people
                    raise SettingsError(
                        f"expected a zoo of the same models and training in {place}, got one of others: {step}"
                    )
                raise SettingsError(
                    f"expected a zoo with {name} {value!r} in {place}, got one with {name} {found.get(name)!r}: {step}"
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
        tied = _tied(model)
        model.load_state_dict(tensors, assign=True)
        for first, *others in tied:
            for name in others:
                module, _, own = name.rpartition(".")
                setattr(model.get_submodule(module), own, model.get_parameter(first))
        return model.eval().requires_grad_(False)

    def _shell(self, lineage: Lineage) -> nn.Module:
        """A model of a lineage's architecture, without weights that mean anything, behind what changes its answers."""
        if lineage.parent is None or isinstance(lineage.step, Distillation):
            return self.scenario.constructor(lineage.architecture)()
        shell = self._shell(self.scenario.lineage(lineage.parent))
        return lineage.step.wrap(shell) if isinstance(lineage.step, Change) else shell

    def verify(self) -> list[str]:
        """Check every suspect and snapshot; return one sentence for each that is missing or damaged."""
        self.check_settings()
        problems = []
        for lineage in self.everything():
            try:
                self.load(lineage)
            except MetavError as error:
                problems.append(str(error))
        return problems

    # -- writing -------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Check that the folder is of this zoo; make it if it is not there. A whole zoo may be read-only.

        Raises
        ------
        SettingsError, StorageError, IntegrityError
            The folder holds another zoo, or cannot be written; its settings are damaged.
        """
        if (self.folder / "zoo.json").exists():
            self.check_settings()
            if all(self.whole(lineage) for lineage in self.lineages()):
                return
        make_folder(self.folder / "locks", "--zoo or METAV_HOME")
        with FileLock(self.folder / "locks" / "settings"):
            if not (self.folder / "zoo.json").exists():
                write_json(self.folder / "zoo.json", self.settings)
        self.check_settings()

    def save(self, lineage: str, model: nn.Module, quality: dict[str, float], seconds: float) -> None:
        """Write a suspect: weights first, record last."""
        weights, record_file = self.files(lineage)
        meta = {"lineage": lineage, "architecture": self.scenario.lineage(lineage).architecture}
        record = Record(
            lineage=lineage,
            digest=save_tensors(weights, model.state_dict(), meta),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            seconds=round(seconds, 4),
            quality=quality,
        )
        write_json(record_file, {**asdict(record), "seal": record.seal()})
