"""How a suspect is reached and asked; also the options of `metav verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter, Token

from metav.errors import UsageError

BATCH, QUERY = "$batch", "$query"  # in a request: where all queries go, or a single one
SLOWEST, FASTEST = 1e-4, 1e6  # queries a second
LONGEST = 1e6  # seconds until a request is given up
LARGEST = 1_000_000  # queries at a time
FARTHEST = 1e30  # values of inputs: of float32, in other units too
_SEVERAL = Parameter(negative="", consume_multiple=1)


def _whole(_: object, tokens: Sequence[Token]) -> int:
    return int(tokens[0].value)


WholeNumber = Annotated[int, Parameter(converter=_whole)]  # of an option: the parser alone would round 2.5


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Access:
    """How a suspect is reached and asked.

    Attributes
    ----------
    batch
        Queries at a time; 0 for 32 over HTTP and 4096 from a file.
    attempts
        How often a request is made that fails for a passing reason (time-outs, 429, 5xx, broken connections).
    rate
        Queries a second at most that a server is asked; 0 for no limit.
    timeout
        Seconds that a request may take, from the connection to the end of the answer.
    header
        `NAME=VARIABLE`: send the header NAME with the value of an environment variable, e.g. Authorization=TOKEN.
    request
        For other JSON APIs: the text that is sent, with "$batch" for the list of queries, or "$query" for a single one.
    answer
        For other JSON APIs: the JMESPath of the answers in what comes back.
    output
        Which output is the answer, where a model has several.
    classes
        For each class of the target, or each value of a regression, its place in the suspect's answers.
    box
        The lowest and the highest value of the suspect's inputs, e.g. 0 255, where they are not the fingerprint's.
    channels_last
        Inputs as (height, width, channels).
    """

    batch: WholeNumber = 0
    attempts: WholeNumber = 6
    rate: float = 0.0
    timeout: float = 30.0
    header: Annotated[tuple[str, ...], _SEVERAL] = ()
    request: str = ""
    answer: str = ""
    output: str = ""
    classes: Annotated[tuple[WholeNumber, ...], _SEVERAL] = ()
    box: Annotated[tuple[float, float] | None, _SEVERAL] = None
    channels_last: Annotated[bool, Parameter(negative="")] = False

    def __post_init__(self) -> None:
        for name, holds, wanted in (
            ("batch", 0 <= self.batch <= LARGEST, f"from 0 to {LARGEST}"),
            ("attempts", self.attempts >= 1, "of at least 1"),
            ("rate", self.rate == 0 or SLOWEST <= self.rate <= FASTEST, f"of 0, or from {SLOWEST:g} to {FASTEST:g}"),
            ("timeout", 0 < self.timeout <= LONGEST, f"above 0 and of at most {LONGEST:g}"),
        ):
            if not holds:
                raise UsageError(f"expected --{name} {wanted}, got {getattr(self, name)}: give another number.")
        if f'"{QUERY}"' in self.request and self.batch > 1:
            raise UsageError(
                f'expected no --batch beside a request for a single "{QUERY}", got {self.batch}: leave it out, or '
                f'write "{BATCH}" for a list of queries.'
            )
        if sorted(self.classes) != list(range(len(self.classes))):
            raise UsageError(f"expected --classes with each place once, from 0 on, got {self.classes}: name all.")
        if self.box is not None and not (len(self.box) == 2 and -FARTHEST <= self.box[0] < self.box[1] <= FARTHEST):
            raise UsageError(
                f"expected --box LOW HIGH, within {FARTHEST:g}, with LOW below HIGH, got {self.box}: give others."
            )

    def remarks(self) -> tuple[str, ...]:
        """What was said of the suspect that changes what it is asked, or how its answers are read."""
        said = []
        if self.box is not None:
            said.append(f"inputs between {self.box[0]:g} and {self.box[1]:g}, as --box says")
        if self.channels_last:
            said.append("inputs with their channels last, as --channels-last says")
        if self.classes:
            said.append(f"classes or values at the places {' '.join(map(str, self.classes))}, as --classes says")
        return tuple(said)


ACCESS = Access()  # without options
