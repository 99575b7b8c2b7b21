"""Real data, real zoos at smoke size, built once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metav import scenarios
from metav.scenarios import Scenario
from metav.zoo import Zoo

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


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """No test reads or writes the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METAV_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def _threads_are_left_alone():
    """No call of the library may leave torch with another number of threads."""
    threads = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == threads
