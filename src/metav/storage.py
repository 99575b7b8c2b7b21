"""Files that are whole or absent: atomic writes, and tensors that carry the digest of their own content."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from metav.errors import IntegrityError, StorageError

Tensors = dict[str, torch.Tensor]
OLD = 86_400.0  # seconds, after which nobody is still at a file
STAGED = ".import-"  # how the folder begins that an archive is unpacked in
HALF_WRITTEN = re.compile(
    rf"\.([0-9a-f]{{16}}\.((learning\.)?json|safetensors|checkpoint)|zoo\.json)\.\d+|\.write-\d+|{re.escape(STAGED)}\w+"
)
_KEY = "metav"  # one metadata key only: the order of several is not stable from one file to the next


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys and no spaces, so that equal values give equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def home() -> Path:
    """The cache folder: `METAV_HOME`, by default `~/.cache/metav`.

    Raises
    ------
    StorageError
        There is no home folder to find it in.
    """
    given = os.environ.get("METAV_HOME") or "~/.cache/metav"
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise StorageError(
            f"expected a folder for metav's cache, got {given!r}, where nobody has a home of that name: set METAV_HOME "
            "to another path."
        ) from error


def make_folder(path: Path, option: str = "METAV_HOME") -> Path:
    """Create the folder `path`, which `option` chooses, if it is not there, and check that files can be written in it.

    Raises
    ------
    StorageError
        The folder cannot be made or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        _probe(path / f".write-{os.getpid()}")
    except OSError as error:
        raise StorageError(
            f"expected a folder that can be written to, got {str(path)!r} ({error.strerror}): choose another with "
            f"{option}."
        ) from error
    return path


def make_place(path: Path, option: str) -> None:
    """Create the folder of the file `path`, which `option` chooses, and check that the file can be written there.

    Raises
    ------
    StorageError
        The folder cannot be made or not be written to, or can have no file of that name.
    """
    make_folder(path.parent, option)
    try:
        _probe(_temporary(path))
    except OSError as error:
        shown = f"{path.name[:40]}..." if len(path.name) > 40 else path.name
        raise StorageError(
            f"expected a file that can be written, got {shown!r} ({error.strerror}): choose another name with {option}."
        ) from error


def _probe(path: Path) -> None:
    """Write an empty file, and remove it; another thread may do so at the same time."""
    path.write_bytes(b"")
    path.unlink(missing_ok=True)


def unwritten(path: Path, error: OSError, otherwise: str) -> StorageError:
    """The error for a file that could not be written: a full disk wants room, others what `otherwise` says."""
    step = "make room, and run it again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else otherwise
    return StorageError(f"expected to write {str(path)!r}, got {str(error.strerror or error)!r}: {step}.")


def _temporary(path: Path) -> Path:
    """Where a file is written before it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which becomes `path` at the end: a reader sees the old file or the new one, never a part.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    if not path.name:
        raise StorageError(f"expected a file to write, got the folder {str(path)!r}: add a name.")
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
        sync(path.parent)
    except StorageError:
        raise
    except OSError as error:
        raise unwritten(path, error, "choose a folder you may write to") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` as `replacing` does, so that it outlasts a power cut too."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, as `write_atomic` does."""
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())


def sweep(folder: Path, names: re.Pattern[str] = HALF_WRITTEN) -> None:
    """Remove what killed processes left half-written in a folder, more than `OLD` seconds ago.

    `names` are those of such files, by default in the folders of zoos and the cache. Other files, a user's own hidden
    ones too, are left alone.
    """
    for path in folder.glob(".*"):
        with contextlib.suppress(OSError):
            if names.fullmatch(path.name) and time.time() - path.stat().st_mtime > OLD:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def sync(folder: Path) -> None:
    """Make a rename, or a new file, in `folder` outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of named tensors and of JSON-able metadata: names, types, shapes, values."""
    sha = hashlib.sha256(canonical_json(dict(meta)).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> str:
    """Write one safetensors file that holds `tensors`, `meta` and the digest of both; return the digest."""
    content = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    signature = digest(content, meta)
    text = canonical_json({**meta, "digest": signature})
    write_atomic(path, save(content, metadata={_KEY: text}))
    return signature


def load_tensors(path: Path, next_step: str) -> tuple[Tensors, dict[str, Any]]:
    """Read a file of `save_tensors` and check it against its digest.

    Parameters
    ----------
    path
        The file.
    next_step
        What the user should do when the file is bad; the end of the error's sentence.

    Returns
    -------
    tensors, meta
        As they were saved; `meta` has the further key `digest`.

    Raises
    ------
    StorageError
        There is no such file, or it may not be read.
    IntegrityError
        The file is truncated, not of metav, or its content is not what its digest says.
    """
    try:
        # safetensors opens a file twice, for its header and for its tensors: held open, both times it is the same one,
        # even if another was put in its place in between
        with path.open("rb") as held, safe_open(f"/dev/fd/{held.fileno()}", framework="pt") as file:
            meta = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        expected = meta.pop("digest")
        got = digest(tensors, meta)
    except OSError as error:
        raise StorageError(f"expected a file at {str(path)!r}, got {error.strerror or error}: {next_step}") from error
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"expected a whole safetensors file of metav at {str(path)!r}, "
            f"got a truncated or foreign one ({error}): {next_step}"
        ) from error
    if got != expected:
        raise IntegrityError(
            f"expected content with digest {str(expected)[:12]} in {str(path)!r}, got {got[:12]}, "
            f"so the file was changed after it was written: {next_step}"
        )
    return tensors, {**meta, "digest": expected}
