"""What a zoo holds, one row a suspect: for the terminal, and as a file that outlives the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metav.results import environment
from metav.storage import write_json
from metav.zoo import Zoo

FACTS = ("family", "truly", "lineage", "parameters", "seconds", "digest")  # of a row; the others are its quality


def rows(zoo: Zoo) -> list[dict[str, Any]]:
    """One row for each model of the zoo, the target first.

    Keys: `family` (row of Table 3; `target`; `-` for a model that only others are derived from), `truly` (`derived`,
    `independent` or `-`), `lineage`, `parameters` (how many), `seconds` (of training), each figure of the scenario's
    quality, `digest` (of the weights, SHA-256).

    Raises
    ------
    StorageError, IntegrityError, SettingsError
        A suspect is missing; its record is damaged; the folder is of other settings.
    """
    zoo.check_settings()
    suspects = {zoo.scenario.lineage(s.lineage).text: s for s in zoo.scenario.suspects}
    found = []
    for lineage in zoo.lineages():
        record, suspect = zoo.record(lineage), suspects.get(lineage)
        found.append(
            {
                "family": suspect.family if suspect else ("target" if lineage == "target" else "-"),
                "truly": "-" if suspect is None else ("derived" if suspect.positive else "independent"),
                "lineage": lineage,
                "parameters": record.parameters,
                "seconds": record.seconds,
                **record.quality,
                "digest": record.digest,
            }
        )
    return found


def write(zoo: Zoo, models: Sequence[Mapping[str, Any]], path: Path, command: str) -> None:
    """Write the rows `models` as JSON, with the settings of the zoo, its target in full and what it was listed on."""
    content = {
        "settings": zoo.settings,
        "target": zoo.scenario.lineage("target").full,
        "environment": environment(),
        "command": command,
        "models": list(models),
    }
    write_json(path, content)
