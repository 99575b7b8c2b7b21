"""Where data sets are looked for, and how a file that is found is known to be the right one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from metav.errors import UsageError
from metav.storage import home

SHARED = Path("../shared/data")


def cache() -> Path:
    """The folder for downloads."""
    return home() / "data"


def find(files: Sequence[str], below: Sequence[str], also: Sequence[Path] = ()) -> Path | None:
    """The first folder that holds all of `files`, each as it is or with `.gz`; None if there is none.

    Looked at are METAV_DATA (what `--data` sets), `../shared/data`, the folders `also`, and the cache, and in each of
    them its subfolders `below`.

    Raises
    ------
    UsageError
        METAV_DATA is set, but is no folder.
    """
    given = os.environ.get("METAV_DATA")
    if given and not Path(given).is_dir():
        raise UsageError(f"expected a folder of data in --data or METAV_DATA, got {given!r}: correct the path.")
    for root in (*([Path(given)] if given else []), SHARED, *also, cache()):
        for folder in (root, *(root / name for name in below)):
            if all(file(folder, name).exists() for name in files):
                return folder
    return None


def file(folder: Path, name: str) -> Path:
    """The file in the folder, or its compressed form where only that is there."""
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def digest(path: Path, algorithm: str) -> str:
    """Digest (hex) of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()
