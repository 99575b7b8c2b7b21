"""A model gives one verdict however it is reached: as a module, as a file, behind MLServer and MLflow themselves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import nn

import tiny
from metav import Fingerprint, schemes
from metav.access import Access
from metav.cli import main
from metav.endpoints import Local, connect
from metav.errors import EndpointError
from metav.verification import verify
from misbehaving import OWN_API, serving

KINDS = {"tables": tiny.tables, "images": tiny.classifiers, "regression": tiny.regressors, "codes": tiny.generators}
HERE = Path(__file__).parent
PYTHON = Path(os.environ.get("METAV_SERVERS", HERE.parent / ".venv-servers")) / "bin" / "python"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise AssertionError(f"{url} did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Fingerprint, list[nn.Module], list[Path]]]:
    """For each kind of task a fingerprint, and target, a positive and a negative, as modules and as ONNX files."""
    folder, found = tmp_path_factory.mktemp("served"), {}
    batch = torch.export.Dim("batch", min=1, max=4096)
    for kind, ensemble in ((kind, make()) for kind, make in KINDS.items()):
        made = schemes.get("metav(iterations=20)").construct(ensemble, queries=12, seed=0)
        models = [ensemble.target, ensemble.positives[0], ensemble.negatives[0]]
        files = [folder / f"{kind}-{index}.onnx" for index in range(3)]
        with warnings.catch_warnings(action="ignore"):  # of torch's exporter, about itself
            for model, file in zip(models, files, strict=True):
                inputs, shapes = (made.queries[:2],), ({0: batch},)
                torch.onnx.export(model.eval(), inputs, file, dynamo=True, dynamic_shapes=shapes, verbose=False)
        found[kind] = (made, models, files)
    return found


@pytest.fixture(scope="module")
def urls(served, tmp_path_factory) -> Iterator[dict[str, str]]:
    """The addresses of both servers, which serve all the models."""
    assert PYTHON.exists(), "make .venv-servers/.ready installs MLServer and MLflow, as make test does"
    folder = tmp_path_factory.mktemp("servers")
    http, grpc, metrics, flow = free_ports(4)
    files = {file.stem: file for _, _, paths in served.values() for file in paths}
    for name, file in files.items():
        (folder / "models" / name).mkdir(parents=True)
        settings = {"name": name, "implementation": "onnx_runtime.OnnxRuntime", "parameters": {"uri": str(file)}}
        (folder / "models" / name / "model-settings.json").write_text(json.dumps(settings))
    ports = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, **ports}
    (folder / "models" / "settings.json").write_text(json.dumps(settings))
    home = {"PYTHONPATH": str(HERE / "servers"), "PATH": f"{PYTHON.parent}:{os.environ['PATH']}", "HOME": str(folder)}
    environment = {**os.environ, **home, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    save = [PYTHON, HERE / "servers" / "save_mlflow.py", next(iter(files.values())).parent, folder / "flow"]
    log = folder / "log"
    with log.open("w") as out:
        options = {"env": environment, "cwd": folder, "stdout": out, "stderr": out, "start_new_session": True}
        ml = subprocess.Popen([PYTHON.parent / "mlserver", "start", folder / "models"], **options)
        subprocess.run(save, check=True, **options)
        serve = ["models", "serve", "-m", folder / "flow", "-p", str(flow), "--env-manager", "local", "--workers", "1"]
        mlflow = subprocess.Popen([PYTHON.parent / "mlflow", *serve], **options)
        try:
            wait_for(f"http://127.0.0.1:{http}/v2/health/ready", ml, log)
            wait_for(f"http://127.0.0.1:{flow}/ping", mlflow, log)
            yield {"mlserver": f"http://127.0.0.1:{http}", "mlflow": f"http://127.0.0.1:{flow}"}
        finally:
            for process in (ml, mlflow):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_gives_the_same_rate_as_a_module_a_file_and_behind_each_protocol(served, kind):
    fingerprint, models, files = served[kind]
    for model, file in zip(models, files, strict=True):
        rate = verify(fingerprint, Local(model)).rate
        with serving(model) as server:
            ways = {
                "ONNX": (str(file), Access()),
                "v2": (f"{server.url}/v2/models/m", Access()),
                "v2, one at a time": (f"{server.url}/v2/models/m/versions/1", Access(batch=1)),
                "MLflow": (f"{server.url}/invocations", Access(batch=5)),
                "own": (f"{server.url}/score", OWN_API),
            }
            for name, (suspect, access) in ways.items():
                endpoint = connect(suspect, fingerprint.spec, access)
                assert verify(fingerprint, endpoint, repeat=3).rate == pytest.approx(rate, abs=1e-5), name
                assert endpoint.about["suspect"] == suspect
                endpoint.close()


@pytest.mark.parametrize("kind", KINDS)
def test_both_servers_give_the_rates_of_the_modules(served, urls, kind):
    fingerprint, models, files = served[kind]
    for model, file in zip(models, files, strict=True):
        rate = verify(fingerprint, model).rate
        named = Access(request=json.dumps({"inputs": {file.stem: "$batch"}}), answer="predictions")
        for suspect, access in (
            (f"{urls['mlserver']}/v2/models/{file.stem}", Access(batch=5)),
            (f"{urls['mlflow']}/invocations", named),
        ):
            with closing(connect(suspect, fingerprint.spec, access)) as endpoint:
                assert verify(fingerprint, endpoint, repeat=3).rate == pytest.approx(rate, abs=1e-5), suspect


def test_the_commands_do_too(served, urls, tmp_path, capsys):
    fingerprint, _, files = served["codes"]  # what MLflow serves unasked is the first by name
    fingerprint.save(tmp_path / "fp.safetensors")
    said = []
    for suspect in (str(files[0]), f"{urls['mlserver']}/v2/models/{files[0].stem}", f"{urls['mlflow']}/invocations"):
        assert main(["verify", str(tmp_path / "fp.safetensors"), suspect, "--json"]) in (0, 10)
        said.append(json.loads(capsys.readouterr().out)["rate"])
    assert said == pytest.approx([said[0]] * 3, abs=1e-5)


def test_what_the_servers_say_of_a_mistake_is_repeated(served, urls):
    fingerprint, _, _ = served["tables"]
    cases = {
        f"{urls['mlserver']}/v2/models/unknown": r"status 404 .*check the URL and the model's name",
        f"{urls['mlserver']}/v2/models/images-0": r"status 500 ",  # a model of other inputs
        f"{urls['mlflow']}/invocations": r"status (400|500) ",
    }
    for suspect, words in cases.items():
        with (
            closing(connect(suspect, fingerprint.spec, Access(attempts=1))) as endpoint,
            pytest.raises(EndpointError, match=words),
        ):
            verify(fingerprint, endpoint)
