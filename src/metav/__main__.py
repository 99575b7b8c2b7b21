"""The command metav, also as `python -m metav`: even while its code is read, Ctrl-C is told in one sentence."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; return the exit code, as `metav.cli.main` does."""
    try:
        from metav.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("metav: interrupted before it began: run the same command again.\n")
        return 130
    return run()


if __name__ == "__main__":
    raise SystemExit(main())
