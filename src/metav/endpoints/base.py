"""An endpoint: black-box access to one suspect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from torch import Tensor

from metav.errors import EndpointError


class Endpoint(ABC):
    """What one suspect is asked through; a `Model` like any other, that can tell about itself.

    Adapters (`OnnxFile`, `InferenceV2`, `JsonApi`) reach a suspect; wrappers (`Batched`, `Paced`, `Retried`,
    `Prepared`, `Ordered`, `Recorded`) are endpoints around an endpoint, and compose.
    """

    @abstractmethod
    def query(self, batch: Tensor) -> Tensor:
        """Answers (n, ...) of the suspect, as it gives them, to a batch (n, *input_shape), one a row.

        Raises
        ------
        EndpointError
            The suspect cannot be reached, or what came back is no answer.
        """

    @property
    @abstractmethod
    def about(self) -> Mapping[str, str]:
        """What the endpoint reports about itself, for reports; never a secret."""

    def close(self) -> None:  # noqa: B027 (most have nothing to close)
        """Let go of connections."""

    def __call__(self, batch: Tensor) -> Tensor:
        """As `query`."""
        return self.query(batch)


def query_checked(endpoint: Endpoint, batch: Tensor) -> Tensor:
    """Answers of an endpoint to a batch, one a query.

    Raises
    ------
    EndpointError
        They are more or fewer, or cannot be had.
    """
    answers = endpoint.query(batch)
    if answers.ndim == 0 or len(answers) != len(batch):
        raise EndpointError(
            f"expected {len(batch)} answers from {endpoint.about['suspect']}, got an answer of shape "
            f"{tuple(answers.shape)}: check that it answers each query once, or ask for fewer at a time with --batch."
        )
    return answers


class Local(Endpoint):
    """A model in this process: any callable on batches."""

    def __init__(self, model: Callable[[Tensor], Tensor], name: str = "a model in this process") -> None:
        self.model, self.name = model, name

    def query(self, batch: Tensor) -> Tensor:
        """Answers of the model, without gradients."""
        from metav.verification import query

        return query(self.model, batch)

    @property
    def about(self) -> Mapping[str, str]:
        """Its name."""
        return {"suspect": self.name}


class Wrapper(Endpoint):
    """An endpoint around another one."""

    def __init__(self, inner: Endpoint) -> None:
        self.inner = inner

    @property
    def about(self) -> Mapping[str, str]:
        """What the inner one reports."""
        return self.inner.about

    def close(self) -> None:
        """Close the inner one."""
        self.inner.close()
