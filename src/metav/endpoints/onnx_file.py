"""A model in an ONNX file, run by onnxruntime."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metav.endpoints.base import Endpoint
from metav.errors import EndpointError, UsageError, brief, missing_extra

# external data in an ONNX file (onnx.proto): the key "location", and the length of the path that follows
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x80-\xff]?[\x01-\x7f])")
TYPES = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16}


class OnnxFile(Endpoint):
    """A suspect whose file the verifier has; it is still only asked for its answers.

    Parameters
    ----------
    path
        The file.
    output
        Which of several outputs is the answer; empty for the only one.
    """

    def __init__(self, path: Path, output: str = "") -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_extra("onnxruntime for a suspect in an ONNX file", "none", "onnx") from error
        self.path = path
        if not path.is_file():
            raise UsageError(f"expected an ONNX file or a URL for the suspect, got {str(path)!r}: check the path.")
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:
            if missing := [str(each) for each in weights_beside(path, path.read_bytes()) if not each.is_file()]:
                raise EndpointError(
                    f"expected weights of {str(path)!r} in {', '.join(missing)}, got no such file: put it there."
                ) from error
            raise EndpointError(
                f"expected an ONNX model in {str(path)!r}, got another file ({str(error).splitlines()[0][:120]}): "
                "export the suspect again."
            ) from error
        inputs = self._session.get_inputs()
        outputs = [each.name for each in self._session.get_outputs()]
        if len(inputs) != 1 or inputs[0].type not in TYPES:
            got = ", ".join(f"{each.name} ({each.type})" for each in inputs) or "none"
            raise UsageError(
                f"expected one input of floats in {str(path)!r}, got {got}: it takes something else than the "
                "fingerprint's queries; export it with what comes before as a part of the model."
            )
        if output not in outputs if output else len(outputs) != 1:
            raise UsageError(
                f"expected {repr(output) if output else 'one output'} among the outputs of {str(path)!r}, got "
                f"{', '.join(outputs)}: choose one with --output."
            )
        self._input, self._output = inputs[0], output or outputs[0]

    def query(self, batch: Tensor) -> Tensor:
        """Answers (n, ...) of the model; as many at a time as the file wants, if it fixes the batch axis."""
        fixed = self._input.shape[0] if self._input.shape else None
        size = fixed if isinstance(fixed, int) and fixed > 0 else len(batch)
        values = batch.detach().to("cpu", TYPES[self._input.type])
        missing = -len(values) % size
        whole = torch.cat([values, values[-1:].expand(missing, *values.shape[1:])]) if missing else values
        try:
            parts = [self._session.run([self._output], {self._input.name: part.numpy()}) for part in whole.split(size)]
        except Exception as error:
            raise EndpointError(
                f"expected answers from {str(self.path)!r}, whose inputs are of shape {self._shown()}, got an error to "
                f"queries of shape {tuple(batch.shape[1:])} ({brief(error)}): compare the two."
            ) from error
        found = [self._numbers(part[0]) for part in parts]
        if any(each.ndim == 0 for each in found) or len({each.shape[1:] for each in found}) > 1:
            shapes = ", ".join(str(tuple(each.shape)) for each in found[:3])
            raise EndpointError(
                f"expected an answer to each query, of one shape, from output {self._output!r} of {str(self.path)!r}, "
                f"got arrays of shape {shapes}: choose another --output, or export the suspect with the batch as the "
                "first axis."
            )
        answers = torch.cat(found)
        return answers[: len(batch)] if len(answers) == len(whole) else answers  # more or fewer are not hidden

    def _shown(self) -> str:
        """The shape of one input, as the file says it; an axis of any size is n or what the file calls it."""
        shape = ["n" if each is None else str(each) for each in (self._input.shape or [])[1:]]
        return f"({', '.join(shape)}{',' if len(shape) == 1 else ''})"

    def _numbers(self, found: Any) -> Tensor:
        """An output as a tensor; classes, whatever their type, as floats."""
        kind = getattr(found, "dtype", np.dtype(object)).kind
        if kind not in "biuf":
            got = f"an array of {found.dtype}" if hasattr(found, "dtype") else f"a {type(found).__name__}"
            raise EndpointError(
                f"expected numbers from output {self._output!r} of {str(self.path)!r}, got {got}: choose another "
                "--output, or export the suspect so that it answers with numbers (scikit-learn: zipmap=False)."
            )
        return torch.from_numpy(found if kind == "f" else found.astype(np.float64))

    @property
    def about(self) -> Mapping[str, str]:
        """Its path."""
        return {"suspect": str(self.path), "protocol": "ONNX"}


def weights_beside(path: Path, model: bytes) -> list[Path]:
    """The files that an ONNX file at `path`, whose content is `model`, keeps its weights in, if any."""
    found = (
        (each.end(), sum((b & 127) << 7 * place for place, b in enumerate(each[1])))
        for each in _LOCATION.finditer(model)
    )
    names = sorted({model[start : start + length] for start, length in found})
    return [path.parent / os.fsdecode(name) for name in names]
