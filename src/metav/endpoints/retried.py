"""Asking again what failed for a passing reason, with stamina."""

from __future__ import annotations

from threading import Event

import stamina
from torch import Tensor

from metav.endpoints.base import Endpoint, Wrapper
from metav.errors import EndpointError

PATIENCE = 600.0  # seconds that a server may ask for; if it wants more, its error is final


class Retried(Wrapper):
    """Ask again, up to `attempts` times, what failed for a passing reason: later each time, or when the server says.

    Parameters
    ----------
    inner
        The endpoint.
    attempts
        How often it is asked in all.
    first, longest
        Seconds to wait after the first failure, and at most.
    halt
        Once it is set, errors are final.
    """

    def __init__(
        self,
        inner: Endpoint,
        attempts: int,
        *,
        first: float = 0.1,
        longest: float = 60.0,
        halt: Event | None = None,
    ) -> None:
        super().__init__(inner)
        self.halt = halt or Event()
        self.attempts = self._left = attempts
        self.caller = stamina.RetryingCaller(
            attempts=attempts, timeout=None, wait_initial=first, wait_max=longest, wait_jitter=first
        ).on(self._waits)

    def _waits(self, error: Exception) -> bool | float:
        if not isinstance(error, EndpointError) or not error.passing or not self._left or self.halt.is_set():
            return False
        if error.after is None:
            return True
        if error.after > PATIENCE or self.halt.wait(error.after):  # here, where the wait can be cut short
            return False
        return 0.0

    def query(self, batch: Tensor) -> Tensor:
        """The answers of the first attempt that succeeds."""
        self._left = self.attempts
        return self.caller(self._ask, batch)

    def _ask(self, batch: Tensor) -> Tensor:
        self._left -= 1
        return self.inner.query(batch)
