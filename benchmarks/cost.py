"""What a command costs: seconds and memory, from nothing, with the zoo there, and with all that is kept.

    python benchmarks/cost.py                                  (metav bench warfarin, thrice in a fresh cache folder)
    python benchmarks/cost.py --once zoo build skin            (any command, once, in the cache folder in use)

Memory is the largest sum over the command and its worker processes of their proportional set sizes (pages that
processes share are counted once), sampled twice a second: all of it, and what of it is not pages of files, such as
weights that are mapped into memory and given back when others need the room. Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METAV = [sys.executable, "-m", "metav"]


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


def memory(pid: int) -> tuple[int, int]:
    """Proportional set size of a process in KiB, and its part that is no file's; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return found["Pss"], found["Pss_Anon"]


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Seconds, and peaks in GiB of all memory and of what is no file's."""
    start, peaks = time.perf_counter(), [0, 0]
    process = subprocess.Popen([*METAV, *command], env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        now = [sum(each) for each in zip(*(memory(pid) for pid in tree(process.pid)), strict=True)]
        peaks = [max(pair) for pair in zip(peaks, now, strict=True)]
        time.sleep(0.5)
    assert process.returncode == 0
    return time.perf_counter() - start, peaks[0] / 2**20, peaks[1] / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--once", nargs=argparse.REMAINDER, help="the arguments of a metav command")
    once = parser.parse_args().once
    with tempfile.TemporaryDirectory() as folder:
        if once:
            runs = {"metav " + " ".join(once): (once, dict(os.environ))}
        else:
            demo = ["bench", "warfarin", "--out", f"{folder}/out"]
            demos = {"from nothing": demo, "with the zoo there": [*demo, "--again"], "with all there": demo}
            runs = {name: (each, {**os.environ, "METAV_HOME": folder}) for name, each in demos.items()}
        for name, (command, environment) in runs.items():
            seconds, peak, own = run(command, environment)
            print(f"{name:20} {seconds:7.1f} s   {peak:5.2f} GiB, {own:5.2f} of them in no file", flush=True)


if __name__ == "__main__":
    main()
