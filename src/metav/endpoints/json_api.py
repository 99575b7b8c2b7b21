"""Any API that takes and gives JSON, described by two small templates; MLflow's is one of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jmespath
import numpy as np
import torch
from jmespath.exceptions import JMESPathError
from torch import Tensor

from metav.access import BATCH, QUERY
from metav.endpoints.base import Endpoint
from metav.endpoints.http import Server
from metav.errors import UsageError

MLFLOW = ('{"inputs": "$batch"}', "predictions")


class JsonApi(Endpoint):
    """An API that is sent a JSON text and answers with one.

    Parameters
    ----------
    server
        The server, at the URL that requests go to.
    request
        JSON in which the string "$batch" stands for the list of queries, or "$query" for one query, which is then
        asked alone.
    answer
        JMESPath (https://jmespath.org) of the answers within what comes back: a list with one entry a query, or with
        "$query" the answer itself.
    """

    def __init__(self, server: Server, request: str = MLFLOW[0], answer: str = MLFLOW[1]) -> None:
        self.server = server
        try:
            self.request = json.loads(request)
            self.answer = jmespath.compile(answer)
        except ValueError as error:  # JMESPathError and JSONDecodeError are
            reason = " ".join(str(error).replace("^", "").split())  # of several lines, the last of which points
            raise UsageError(
                f"expected JSON for the request and JMESPath for the answer, got {request!r} and {answer!r} ({reason}):"
                f" see the default, {MLFLOW[0]} and {MLFLOW[1]}."
            ) from error
        marks = [mark for mark in (BATCH, QUERY) if f'"{mark}"' in request]
        if len(marks) != 1:
            raise UsageError(
                f'expected "{BATCH}" or "{QUERY}" in the request, got {request!r}: one of them, where the inputs go.'
            )
        self.single = marks[0] == QUERY
        self._names: list[str] = []  # of values that come by name

    def query(self, batch: Tensor) -> Tensor:
        """Answers (n, ...) as the API gives them."""
        values = batch.detach().to("cpu", torch.float32)
        if self.single:
            answers = [self._ask(QUERY, value) for value in values]
            if len({answer.shape for answer in answers}) > 1:
                raise self.server.misunderstood("answers of one shape", [a.tolist() for a in answers], "look at them")
            return torch.stack(answers)
        return self._ask(BATCH, values)

    def _ask(self, mark: str, values: Tensor) -> Tensor:
        found = self.server.post(_filled(self.request, mark, values.tolist()))
        there: Any = None
        try:
            there = self.answer.search(found)
            return torch.from_numpy(np.array(self._numbers(there), dtype=np.float64))  # null is NaN
        except (JMESPathError, TypeError, ValueError, KeyError, ArithmeticError) as error:
            step = "set --answer to where they are"
            if isinstance(there, list) and there:
                step = "have them written as numbers, as many for each query, and labels as numbers from 0 on"
            raise self.server.misunderstood(f"numbers at {self.answer.expression!r}", found, step) from error

    def _numbers(self, found: Any) -> Any:
        """Numbers as they are; of a table's rows, as some servers of pandas give them, the values in their order.

        All rows must have one order, that of the first answer: otherwise nobody can tell which class is which.
        """
        if found is None:
            raise ValueError("nothing is there")
        if isinstance(found, list) and found and isinstance(found[0], dict):
            self._names = self._names or list(found[0])
            if any(set(row) != set(self._names) for row in found):
                raise ValueError("rows of other names")
            if any(list(row) != self._names for row in found):
                shown = ", ".join(f'"{name}"' for name in self._names)
                raise self.server.misunderstood(
                    f"values by name in one order ({self.server.shortened(shown.encode())})",
                    found,
                    'end --answer with the names in the target\'s order, as .["a", "b"]',
                )
            return [list(row.values()) for row in found]
        return found

    def close(self) -> None:
        """Close connections to the server."""
        self.server.close()

    @property
    def about(self) -> Mapping[str, str]:
        """Where it is."""
        return {"suspect": self.server.shown, "protocol": "JSON"}


def _filled(template: Any, mark: str, value: Any) -> Any:
    """A template with `value` where `mark` stands."""
    if isinstance(template, dict):
        return {key: _filled(each, mark, value) for key, each in template.items()}
    if isinstance(template, list):
        return [_filled(each, mark, value) for each in template]
    return value if template == mark else template
