"""A zoo's cohort, as the scheme takes it; what its models answered to many inputs is kept on disk.

Fingerprints of one seed choose among the same inputs, whatever a protocol leaves out of their construction, and those
of another target ask the same teachers. The models of a cohort are hundreds, and asking them is most of the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from metav import cells, sources
from metav.errors import IntegrityError, StorageError
from metav.scenarios.base import CohortPlan
from metav.schemes.base import CohortModels, Columns
from metav.spec import Model
from metav.stacks import together
from metav.storage import canonical_json, load_tensors, make_folder, save_tensors, sweep
from metav.zoo import Zoo

MANY = 1000  # inputs, from which on answers are kept: candidates for queries, not queries


@dataclass(frozen=True, kw_only=True)
class KeptCohort(CohortModels):
    """A cohort whose columns are kept in `folder`.

    `parts` gives, for each kind, its thefts from teachers and those from the target, each with a name of their weights.
    """

    parts: Mapping[str, Sequence[tuple[str, Model]]]
    folder: Path

    def columns(self, kind: str, x: Tensor, columns: Columns, how: str) -> Tensor:
        """As `CohortModels.columns`, from the folder where they are there."""
        if len(x) < MANY:
            return super().columns(kind, x, columns, how)
        inputs = hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()
        both = ((f"{name} {inputs} {how}", partial(columns, model, x)) for name, model in self.parts[kind])
        return torch.cat([self._kept(name, made) for name, made in both])

    def _kept(self, name: str, made: partial[Tensor]) -> Tensor:
        file = self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.safetensors"
        with suppress(StorageError, IntegrityError):
            return load_tensors(file, "")[0]["columns"]
        found = made()
        save_tensors(file, {"columns": found}, {"content": "columns"})
        return found


def read(zoo: Zoo, plan: CohortPlan) -> KeptCohort:
    """All models of a zoo's cohort: thousands of files."""
    parts = {kind: _parts(zoo, plan, kind) for kind in plan.kinds}
    folder = make_folder(cells.folder("answers", zoo))
    sweep(folder)
    return KeptCohort(
        teachers=plan.teachers,
        kinds={kind: partial(_all, [model for _, model in both]) for kind, both in parts.items()},
        others=[zoo.load(each) for each in plan.others],
        parts=parts,
        folder=folder,
    )


def _parts(zoo: Zoo, plan: CohortPlan, kind: str) -> list[tuple[str, Model]]:
    found: list[tuple[str, Model]] = []
    lineages = plan.lineages(kind)
    for part in (lineages[: plan.teachers], lineages[plan.teachers :]):
        name = canonical_json([[zoo.record(each).digest for each in part], sources.CODE, torch.__version__])
        found.append((name, together([zoo.load(each) for each in part])))
    return found


def _all(models: Sequence[Model], x: Tensor) -> Tensor:
    return torch.cat([model(x) for model in models])
