"""Checkpoints: a training that is killed goes on where it was, and ends in the same weights."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from metav.errors import MetavError
from metav.storage import load_tensors, save_tensors

EVERY = 30.0  # seconds: well below the two minutes that a kill may cost, well above what writing costs


class Checkpoint:
    """The state of one training in a file, written when `every` seconds went by since the last.

    A training calls `resume` once, with all tensors that it changes, then `save` after each step or epoch, and `clear`
    once its result is safe. `identity` says whose state it is: a file of another training is not used.
    """

    def __init__(self, path: Path, identity: str, every: float = EVERY) -> None:
        self.path, self.identity, self.every = path, identity, every
        self.last = self.began = time.monotonic()
        self.spent = 0.0  # seconds that earlier runs spent to reach the saved state

    def resume(self, live: Mapping[str, Tensor]) -> int:
        """Copy the saved state into the tensors `live`; return what was done, 0 if nothing is there.

        A file that is damaged, or of tensors with other shapes, counts as nothing.
        """
        self.last = self.began = time.monotonic()
        if not self.path.exists():
            return 0
        try:
            saved, meta = load_tensors(self.path, "it is not used.")
        except MetavError:
            return 0
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in live.items()}
        if (
            meta.get("identity") != self.identity
            or "done" not in meta
            or shapes != {n: (t.shape, t.dtype) for n, t in saved.items()}
        ):
            return 0
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(saved[name])
        self.spent = float(meta.get("seconds", 0.0))
        return int(meta["done"])

    def save(self, live: Mapping[str, Tensor], done: int) -> None:
        """Write the state after `done` steps or epochs, as the training counts them, if it is time."""
        if time.monotonic() - self.last >= self.every:
            spent = self.spent + time.monotonic() - self.began
            save_tensors(self.path, live, {"identity": self.identity, "done": done, "seconds": spent})
            self.last = time.monotonic()

    def clear(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
