"""Options that commands share, and what commands do first: open a zoo, fill it, check numbers."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from metav.access import WholeNumber
from metav.console import output, progress_bar
from metav.errors import UsageError

if TYPE_CHECKING:
    from metav.scenarios import Scenario
    from metav.zoo import Zoo as ZooFolder

MOST = 1_000_000  # of anything that is counted

command_words: list[str] = []  # of this run, for the results


def _several(help_: str, name: str | None = None) -> Parameter:
    """An option that takes one or more values."""
    return Parameter(name=name, consume_multiple=1, negative="", help=help_)


ScenarioName = Annotated[str, Parameter(help="warfarin, skin, fashion, or your own: package.module:task.")]
BenchName = Annotated[
    str,
    Parameter(help="warfarin, skin, fashion, your own (package.module:task), or paper: the paper's whole evaluation."),
]
Only = Annotated[
    list[str] | None,
    _several(
        "With paper: scenarios (skin, warfarin, fashion), each with all parts, or parts (skin-main, skin-queries, ...)."
    ),
]
Schemes = Annotated[
    list[str] | None,
    _several("One or more schemes, with options where wanted: metav 'metav(standardise=robust,batch=4)'.", "--scheme"),
]
SchemeName = Annotated[str, Parameter(help="A scheme, with options where wanted.")]
ProfileName = Annotated[
    str,
    Parameter(
        help="Size: smoke (seconds, for trying out), cpu (all suspects, on two cores), paper (the paper's sizes)."
    ),
]
Repeats = Annotated[WholeNumber, Parameter(help="Repetitions, each with another split of the zoo.")]
Queries = Annotated[WholeNumber, Parameter(help="N, the queries of a fingerprint.")]
Sweep = Annotated[
    list[WholeNumber] | None,
    _several("N, the queries of a fingerprint, one or several numbers (100 without)."),
]
Models = Annotated[
    list[WholeNumber] | None,
    _several("One or more numbers of suspects a side to construct from; by default half of the zoo."),
]
Snapshots = Annotated[
    bool,
    Parameter(
        negative="", help="Keep the weights at several points of each training, for schemes that learn from them."
    ),
]
ProtocolName = Annotated[
    str,
    Parameter(
        name="--protocol",
        help="paper: test on the other half of the zoo. unseen-obfuscation, unseen-architecture: keep a whole kind "
        "from construction. api: let out less of the answers. open-world: models of kinds that the zoo does not hold.",
    ),
]
LeftOut = Annotated[
    list[str] | None,
    _several("Some of what the protocol leaves out of construction, e.g. Distillation, or L; by default all in turn."),
]
OpenWorld = Annotated[bool, Parameter(negative="", help="With the networks of the open world (--protocol open-world).")]
Again = Annotated[
    bool,
    Parameter(
        negative="",
        help="Compute fingerprints and verdicts anew, even those an earlier run kept; not what a cohort answered.",
    ),
]
Cohort = Annotated[
    bool, Parameter(negative="", help="With the matched-teacher cohort, for schemes that need it (scheme cohort).")
]
Seed = Annotated[WholeNumber, Parameter(help="Seed of the construction.")]
Results = Annotated[
    Path | None,
    Parameter(
        help="Folder for results.json, report.md and figures; by default metav-results/SCENARIO, with -PROFILE and "
        "-PROTOCOL where they are not cpu and paper; of paper, metav-results/paper-PROFILE."
    ),
]
File = Annotated[Path, Parameter(help="A fingerprint, a safetensors file.")]
ZooPath = Annotated[
    Path | None, Parameter(name="--zoo", help="The zoo's folder; by default in METAV_HOME or ~/.cache/metav.")
]
DataPath = Annotated[
    Path | None,
    Parameter(name="--data", help="The folder to look for data sets in first, as METAV_DATA."),
]
Listing = Annotated[
    Path | None,
    Parameter(help="A JSON file for the table; a PNG beside it shows samples of generators, else the quality."),
]
Archive = Annotated[Path, Parameter(help="The archive, a tar file.")]
Jobs = Annotated[WholeNumber, Parameter(help="Processes.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Which:
    """Which zoo of a scenario a command works on."""

    profile: ProfileName = "cpu"
    zoo: ZooPath = None
    data: DataPath = None

    def open(self, name: str, *, snapshots: bool = False, cohort: bool = False, open_world: bool = False) -> ZooFolder:
        """Load a scenario, and return its zoo with what was asked for beside the table; nothing is built."""
        if self.data is not None:
            os.environ["METAV_DATA"] = str(self.data)  # for the worker processes too
        from metav import scenarios
        from metav.zoo import SNAPSHOTS, Zoo

        scenario: Scenario = scenarios.load(name, self.profile)
        return Zoo(scenario, self.zoo, SNAPSHOTS if snapshots else (), cohort=cohort, open_world=open_world)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Whole(Which):
    """A zoo with what a command is to work on beside the table."""

    snapshots: Snapshots = False
    cohort: Cohort = False
    open_world: OpenWorld = False

    def opened(self, name: str) -> ZooFolder:
        """The zoo; what is asked for and the scenario does not plan is refused."""
        zoo = self.open(name, snapshots=self.snapshots, cohort=self.cohort, open_world=self.open_world)
        for option, asked, planned in (
            ("--cohort", self.cohort, zoo.scenario.cohort),
            ("--open-world", self.open_world, zoo.scenario.open_world),
        ):
            if asked and not planned:
                raise UsageError(f"expected a scenario that plans models for {option}, got {name}: leave it out.")
        return zoo


WHICH, WHOLE = Which(), Whole()  # without options


def fill(zoo: ZooFolder, jobs: int) -> None:
    """Say where the data are, and train what is missing of a zoo."""
    output().print(f"Data: {zoo.scenario.data}.", soft_wrap=True)
    with progress_bar(f"zoo {zoo.scenario.name}", len(zoo.lineages())) as progress:
        zoo.build(jobs=jobs, progress=progress)


def command_line() -> str:
    """The command line as it was given."""
    return shlex.join(["metav", *command_words])


def at_least_one(name: str, value: int) -> None:
    """Refuse a value below 1 for the option `name`, or one that nobody means."""
    if not 1 <= value <= MOST:
        raise UsageError(f"expected --{name} from 1 to {MOST}, got {value}: give another number.")


def a_file(out: Path, example: str, option: str = "--out") -> None:
    """Refuse a folder where a file is to be written, and what is no file, such as a device."""
    if out.is_dir():
        raise UsageError(f"expected a file for {option}, got the folder {str(out)!r}: add a name, e.g. {example}.")
    if out.exists() and not out.is_file():
        raise UsageError(f"expected a file for {option}, got {str(out)!r}, which is none: take a name, e.g. {example}.")
