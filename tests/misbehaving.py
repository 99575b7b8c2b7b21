"""A local inference server that answers for a model, and misbehaves when it is told to."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from metav.access import Access

OWN_API = Access(request='{"instance": {"values": "$query"}, "n": 1}', answer="result.scores")
FAULTS = ("429", "429 later", "500", "503", "dropped", "half", "refused body", "bad gateway page")


class Misbehaving(ThreadingHTTPServer):
    """Speaks v2, MLflow and a JSON API of its own; `faults` names what goes wrong, request by request ("" for nothing).

    `delivered` counts how often each query was answered whole.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, model, faults: Iterator[str] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.faults = model, faults or iter(())
        self.delivered: Counter[tuple[float, ...]] = Counter()
        self.seen_headers: list[dict[str, str]] = []
        self.met: Counter[str] = Counter()
        self.paths: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes, the second of which would wait for 40 ms
    server: Misbehaving

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self._send(200, json.dumps({"name": "m", "platform": "tests", "inputs": [{"name": "x"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.seen_headers.append({name.lower(): value for name, value in self.headers.items()})
            self.server.paths.append(self.path)
            fault = next(self.server.faults, "")
            if fault:
                self.server.met[fault] += 1
        if fault in ("429", "429 later", "429 much later", "500", "503"):
            later = {"429 later": {"retry-after": "0"}, "429 much later": {"retry-after": "500"}}.get(fault, {})
            return self._send(int(fault[:3]), b"busy", later)
        if fault == "dropped":
            self.close_connection = True
            return self.connection.close()
        if fault == "bad gateway page":
            return self._send(502, b"<html><body>Bad gateway</body></html>", kind="text/html")
        queries = self._queries(body)
        with torch.no_grad():
            answers = self.server.model(queries)
        content = json.dumps(self._answer(answers)).encode()
        if fault in ("half", "refused body"):
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if fault == "half" else b"")
            self.close_connection = True
            return self.connection.close()
        with self.server.lock:
            self.server.delivered.update(tuple(row.flatten().tolist()) for row in queries)
        return self._send(200, content)

    def _queries(self, body) -> torch.Tensor:
        if "inputs" in body and isinstance(body["inputs"][0], dict):
            (given,) = body["inputs"]
            return torch.tensor(given["data"]).reshape(given["shape"])
        return torch.tensor(body["inputs"] if "inputs" in body else [body["instance"]["values"]])

    def _answer(self, answers: torch.Tensor):
        if self.path.split("?")[0].endswith("/infer"):
            flat = {"name": "y", "shape": list(answers.shape), "datatype": "FP32", "data": answers.flatten().tolist()}
            return {"model_name": "m", "outputs": [flat]}
        if self.path.endswith("/invocations"):
            return {"predictions": answers.tolist()}
        return {"result": {"scores": answers[0].tolist()}}

    def _send(self, status: int, content: bytes, headers=None, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving(model, faults: Iterator[str] | None = None) -> Iterator[Misbehaving]:
    with Misbehaving(model, faults) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
