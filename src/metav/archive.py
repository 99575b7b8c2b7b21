"""A zoo as one file: built on one machine, used on another, with every digest checked on the way."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from metav.errors import IntegrityError, MetavError, SettingsError, StorageError
from metav.storage import STAGED, replacing, sweep
from metav.zoo import Zoo

_MEND = "export the zoo again."


def export(zoo: Zoo, path: Path, progress: Callable[[int], None] | None = None) -> None:
    """Write all of a zoo into the tar archive `path`, whole or not at all; weights do not compress, so it is plain.

    Raises
    ------
    StorageError, IntegrityError, SettingsError
        A suspect is missing or damaged; the folder is of other settings; the archive cannot be written.
    """
    zoo.check_settings()
    sweep(path.parent, re.compile(rf"\.{re.escape(path.name)}\.\d+"))
    with replacing(path) as temporary, tarfile.open(temporary, "w") as archive:
        archive.add(zoo.folder / "zoo.json", "zoo.json")
        for lineage in zoo.everything():
            zoo.load(lineage)
            for file in zoo.files(lineage):
                archive.add(file, file.name)
            if progress is not None:
                progress(1)


def check(zoo: Zoo, path: Path) -> None:
    """Check that `path` is an archive of a zoo with the settings of `zoo`.

    Raises
    ------
    StorageError, IntegrityError, SettingsError
        There is no such archive; it is truncated or no zoo; it is a zoo of other settings.
    """
    with _opened(path) as archive, tempfile.TemporaryDirectory() as folder:
        _extract(archive, "zoo.json", Path(folder))
        Zoo(zoo.scenario, Path(folder)).check_settings(path)


def import_(zoo: Zoo, path: Path, progress: Callable[[int], None] | None = None) -> int:
    """Take the suspects that `zoo` lacks from the archive `path`; return how many that were.

    Each is checked against its digest before it is put in its place, so that an archive that is damaged half-way
    leaves a zoo that is smaller, never one that is wrong.

    Raises
    ------
    StorageError, IntegrityError, SettingsError
        As `check`; a suspect in the archive is damaged or missing, or was made from a model that is another one here;
        the folder holds another zoo, or cannot be written.
    """
    check(zoo, path)
    zoo.prepare()
    taken = 0
    here = _origins(zoo)
    with _opened(path) as archive, tempfile.TemporaryDirectory(prefix=STAGED, dir=zoo.folder) as folder:
        staged = Zoo(zoo.scenario, Path(folder))
        for lineage in here:
            _extract(archive, staged.files(lineage)[1].name, staged.folder)
            if staged.record(lineage).digest != zoo.record(lineage).digest:
                raise SettingsError(
                    f"expected in {str(path)!r} what was made from {lineage} of {str(zoo.folder)!r}, got what was made "
                    "from another one, as of another processor: import into an empty folder (--zoo)."
                )
        for lineage in zoo.everything():
            if not zoo.has(lineage):
                for file in staged.files(lineage):
                    _extract(archive, file.name, staged.folder)
                try:
                    staged.load(lineage)
                except IntegrityError as error:
                    raise IntegrityError(
                        f"expected {lineage} whole in {str(path)!r}, got a damaged copy: {_MEND}"
                    ) from error
                for file in staged.files(lineage):
                    file.replace(zoo.folder / file.name)
                taken += 1
            if progress is not None:
                progress(1)
    return taken


def _origins(zoo: Zoo) -> list[str]:
    """Models that are there already, of which something that is missing was made; all are compared with the target."""
    origins = {"target": None} if zoo.has("target") else {}
    for lineage in zoo.lineages():
        parent = None if zoo.has(lineage) else zoo.scenario.lineage(lineage).parent
        if parent is not None and zoo.has(parent):
            origins[parent] = None
        if zoo.has(lineage) and not zoo.whole(lineage):  # its snapshots are missing
            origins[lineage] = None
    return [] if all(map(zoo.has, zoo.everything())) else list(origins)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive to read; what is wrong with it comes as one sentence."""
    try:
        with tarfile.open(path, "r:") as archive:
            yield archive
    except FileNotFoundError as error:
        raise StorageError(f"expected an archive at {str(path)!r}, got no such file: check the path.") from error
    except MetavError:
        raise
    except OSError as error:
        raise StorageError(
            f"expected to read the archive {str(path)!r} into the zoo, got {error.strerror or error}: check the path, "
            "and that the disk has room."
        ) from error
    except (tarfile.TarError, EOFError, OverflowError, ValueError) as error:
        raise IntegrityError(
            f"expected an archive of metav zoo export in {str(path)!r}, got {error}: {_MEND}"
        ) from error
    except KeyError as error:  # of getmember
        raise IntegrityError(
            f"expected a whole zoo in {str(path)!r}, got one where {error.args[0]}: {_MEND}"
        ) from error


def _extract(archive: tarfile.TarFile, name: str, folder: Path) -> None:
    """Copy one file; only names that the zoo asks for ever reach the disk, whatever else the archive holds."""
    member = archive.getmember(name)
    source = archive.extractfile(member)
    if source is None:
        raise tarfile.ReadError(f"{name!r} that is no file")
    with source, (folder / name).open("wb") as target:
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())
