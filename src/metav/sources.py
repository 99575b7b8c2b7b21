"""The code that this process imported: a digest of it, and the commit that it is of."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent


def digest(files: Iterable[Path]) -> str:
    """SHA-256 (hex) of the files' content, one after the other."""
    sha = hashlib.sha256()
    for file in files:
        sha.update(file.read_bytes())
    return sha.hexdigest()


def commit() -> str | None:
    """The commit of metav's source, with `-dirty` where that differs from it; None where it is not a checkout."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(FOLDER), *arguments]
        return subprocess.run(command, capture_output=True, check=False, text=True, timeout=10)  # noqa: S603 (fixed)

    try:
        if git("ls-files", "--error-unmatch", "__init__.py").returncode:
            return None
        changed = git("diff", "--quiet", "HEAD", "--", ".").returncode
        return git("rev-parse", "--short=12", "HEAD").stdout.strip() + "-dirty" * (changed != 0)
    except (OSError, subprocess.SubprocessError):
        return None


CODE = digest(sorted(FOLDER.rglob("*.py")))
COMMIT = commit()
