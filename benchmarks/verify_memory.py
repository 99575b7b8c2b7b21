"""Memory of `metav verify` over a list of suspects: flat, however long the list is.

    python benchmarks/verify_memory.py [--suspects 10000] [--jobs 2]

The suspects are files of one small ONNX model, all loaded and asked one by one. Prints the resident memory of the
process when 100, 1,000, ... verdicts were there, and at last its peak and the seconds. Linux only.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from metav import Fingerprint, Spec
from metav.scorers import MetaVerifier

SPEC = Spec(input_shape=(30,), output_shape=(2,), low=-1.0, high=1.0, output="probabilities")


def prepare(folder: Path, count: int) -> None:
    """A fingerprint, a list, and its suspects: one file under many names."""
    torch.manual_seed(0)
    queries = torch.rand(100, 30)
    Fingerprint(queries=queries, scorer=MetaVerifier(200, 1, 100), spec=SPEC).save(folder / "fp.safetensors")
    model = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 2), nn.Softmax(1)).eval()
    sizes = ({0: torch.export.Dim("batch", min=1)},)
    torch.onnx.export(model, (queries[:2],), folder / "0.onnx", dynamo=True, dynamic_shapes=sizes, external_data=False)
    for index in range(1, count):
        os.link(folder / "0.onnx", folder / f"{index}.onnx")
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["suspect"], *([f"{index}.onnx"] for index in range(count))])


def resident(process: int, name: str) -> float:
    """MiB that a process holds (VmRSS), or held at most (VmHWM); 0 for one that has just ended."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suspects", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.suspects)
        out = folder / "verdicts.csv"
        many = ["--suspects", str(folder / "list.csv"), "--out", str(out), "--jobs", str(options.jobs)]
        command = [sys.executable, "-m", "metav", "verify", str(folder / "fp.safetensors"), *many]
        start, mark, peak = time.perf_counter(), 100, 0.0
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                time.sleep(0.1)
                done = out.read_bytes().count(b"\n") - 1 if out.exists() else 0
                if process.poll() is None:
                    peak = max(peak, resident(process.pid, "VmHWM"))
                if done >= mark and process.poll() is None:
                    print(f"{done:7,} verdicts   {resident(process.pid, 'VmRSS'):6.0f} MiB", flush=True)
                    mark *= 10
        verdicts = out.read_text().count(",no evidence of copying,") + out.read_text().count(",evidence of copying,")
        if process.returncode not in (0, 10) or verdicts != options.suspects:
            raise SystemExit(
                f"expected {options.suspects} verdicts, got {verdicts}, and exit code {process.returncode}"
            )
        print(f"{options.suspects:7,} verdicts   {peak:6.0f} MiB at most, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
