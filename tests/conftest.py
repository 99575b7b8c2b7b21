"""What tests share: real zoos at smoke size, built once a session, fingerprints, and the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tiny
from metav import Fingerprint, scenarios, schemes
from metav.scenarios import Scenario
from metav.zoo import Zoo
from own_task import EXAMPLES

torch.set_num_threads(1)  # as in all of metav's own processes


@pytest.fixture(scope="session")
def warfarin() -> Scenario:
    return scenarios.load("warfarin", "smoke")


@pytest.fixture(scope="session")
def smoke_zoo(warfarin: Scenario, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """A whole Warfarin zoo of the smoke profile; read only."""
    zoo = Zoo(warfarin, tmp_path_factory.mktemp("zoo") / "smoke")
    zoo.build(jobs=2)
    return zoo


@pytest.fixture(scope="session")
def zoo_folder(smoke_zoo: Zoo) -> Path:
    return smoke_zoo.folder


@pytest.fixture(scope="session")
def fingerprint() -> Fingerprint:
    """A fingerprint of a classifier of six features, with its target's answers."""
    made = schemes.get("metav(iterations=60)").construct(tiny.tables(), queries=20, seed=0)
    return tiny.referred(made, tiny.tables().target)


@pytest.fixture
def file(fingerprint: Fingerprint, tmp_path: Path) -> str:
    """The path of a file that holds `fingerprint`."""
    fingerprint.save(tmp_path / "fp.safetensors")
    return str(tmp_path / "fp.safetensors")


@pytest.fixture
def command(tmp_path: Path):
    """metav, run in the examples' folder as a user does."""

    def run(*arguments: str, code: int = 0) -> str:
        environment = {**os.environ, "METAV_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "metav", *arguments],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(EXAMPLES)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """No test reads or writes the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METAV_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def _alike_and_apart():
    """Each test draws the same numbers in each run, and leaves torch with the number of threads that it had."""
    torch.manual_seed(2022)  # no test's own seed
    threads = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == threads
