"""Open Inference Protocol v2 over REST, in JSON: MLServer, Triton, KServe, OpenVINO Model Server.

https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metav.endpoints.base import Endpoint
from metav.endpoints.http import Server, split
from metav.errors import EndpointError

FLOAT, FLOATS = "FP32", ("FP16", "FP32", "FP64")  # types of inputs
NEXT = "check that the URL ends with /v2/models/NAME"


class InferenceV2(Endpoint):
    """A model of an inference server; its URL ends with /v2/models/NAME, or with /versions/VERSION after that.

    Parameters
    ----------
    server
        The server, at the model's URL.
    output
        Which of several outputs is the answer; empty for the only one.
    """

    def __init__(self, server: Server, output: str = "") -> None:
        self.server, self.output = server, output
        self._facts: Mapping[str, Any] | None = None
        parts = split(server.url)
        self._infer = parts._replace(path=f"{parts.path.rstrip('/')}/infer").geturl()

    def query(self, batch: Tensor) -> Tensor:
        """Answers (n, ...) of the output, in the shape that the server names."""
        name, kind = self._input()
        values = batch.detach().to("cpu", torch.float32).contiguous()
        content = {
            "inputs": [
                {
                    "name": name,
                    "shape": list(values.shape),
                    "datatype": kind,
                    "data": values.flatten().numpy(),
                }
            ]
        }
        answer = self.server.post(content, self._infer)
        try:
            outputs = {each["name"]: each for each in answer["outputs"]}
            names = [self.output] if self.output else list(outputs)
            if len(names) > 1 or (outputs and names[0] not in outputs):
                wanted = f"the output {self.output!r}" if self.output else "one output"
                given = self.server.shortened(", ".join(map(str, outputs)).encode())
                raise EndpointError(f"expected {wanted} from {self.server.shown}, got {given}: choose with --output.")
            chosen = outputs[names[0]]
            if chosen.get("datatype") == "BYTES":
                raise self.server.misunderstood(
                    f"numbers in the output {names[0]!r}",
                    chosen["data"],
                    "choose one with probabilities (--output)",
                )
            flat = np.array(_flat(chosen["data"]), dtype=np.float64)  # null is NaN
            return torch.from_numpy(flat).reshape([int(size) for size in chosen["shape"]])
        except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError, IndexError) as error:
            raise self.server.misunderstood("outputs of the Open Inference Protocol v2", answer, NEXT) from error

    def close(self) -> None:
        """Close connections to the server."""
        self.server.close()

    @property
    def about(self) -> Mapping[str, str]:
        """Where it is, and what it was last known to call itself."""
        known = self._facts or {}
        named = {key: self.server.shortened(str(known[key]).encode()) for key in ("name", "platform") if known.get(key)}
        return {"suspect": self.server.shown, "protocol": "Open Inference Protocol v2", **named}

    def _input(self) -> tuple[str, str]:
        """Name and type of the model's only input; servers that do not tell take the first whatever its name."""
        if self._facts is None:
            found = self.server.get()
            self._facts = found if isinstance(found, dict) else {}
        try:
            inputs = [(str(each["name"]), each.get("datatype")) for each in self._facts.get("inputs") or []]
        except (KeyError, TypeError, AttributeError) as error:
            raise self.server.misunderstood("the model's inputs", self._facts, NEXT) from error
        if len(inputs) > 1:
            raise EndpointError(
                f"expected a model with one input at {self.server.shown}, got {len(inputs)}: it takes something else "
                "than the fingerprint's queries."
            )
        name, kind = inputs[0] if inputs else ("input", FLOAT)
        return name, kind if kind in FLOATS else FLOAT


def _flat(data: Any) -> list[float]:
    """Numbers of a list that some servers nest, and others flatten."""
    if not isinstance(data, list):
        return [data]
    return [value for each in data for value in _flat(each)] if data and isinstance(data[0], list) else data
