"""What `metav bench warfarin` costs: seconds and memory, from nothing and with the zoo there.

    python benchmarks/demo_cost.py

Memory is the largest sum over the command and its worker processes of their proportional set sizes (pages that
processes share are counted once), sampled five times a second. Linux only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "metav.cli", "bench", "warfarin"]


def tree(root: int) -> set[int]:
    """Ids of a process and of all below it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found = {root}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def memory(pid: int) -> int:
    """Proportional set size of a process in KiB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def run(folder: str) -> tuple[float, float]:
    """Seconds and peak memory in GiB of one run."""
    start, peak = time.perf_counter(), 0
    environment = {**os.environ, "METAV_HOME": folder}
    process = subprocess.Popen([*COMMAND, "--out", f"{folder}/out"], env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, sum(memory(pid) for pid in tree(process.pid)))
        time.sleep(0.2)
    assert process.returncode == 0
    return time.perf_counter() - start, peak / 2**20


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("from nothing", "with the zoo there"):
            seconds, peak = run(folder)
            print(f"{name:20} {seconds:6.1f} s   {peak:5.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
