"""What verifying costs on top of what any client of a suspect pays.

    python benchmarks/verify_speed.py [--rounds 15] [--batch 1 32]

Locally: `verify` of a torchvision ResNet-18 on 3 x 32 x 32 images against the same 103 queries asked of it alone. Over
HTTP: a campaign with a ledger (every answer on disk before the next request) against a bare httpx2 client that sends
the same requests to the same server, one after the other, and reads the numbers. The server speaks the Open Inference
Protocol v2, in another process of this machine, so that no network hides what a campaign costs. Rounds alternate
between the two; medians are printed, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from metav import Fingerprint, Spec, verify
from metav.access import Access
from metav.campaign import REPEAT, judge
from metav.scorers import MetaVerifier
from metav.verification import query

SPEC = Spec(input_shape=(3, 32, 32), output_shape=(7,), low=-1.0, high=1.0, output="probabilities")


def suspect() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(resnet18(num_classes=7), nn.Softmax(1)).eval().requires_grad_(False)


class Handler(BaseHTTPRequestHandler):
    """v2 in JSON."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    model: nn.Module

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.send({"name": "m", "inputs": [{"name": "x"}]})

    def do_POST(self) -> None:
        (given,) = json.loads(self.rfile.read(int(self.headers["content-length"])))["inputs"]
        answers = self.model(torch.tensor(given["data"]).reshape(given["shape"]))
        self.send({"outputs": [{"name": "y", "shape": list(answers.shape), "data": answers.flatten().tolist()}]})

    def send(self, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def serve(port: Any) -> None:
    torch.set_num_threads(1)
    Handler.model = suspect()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.put(server.server_port)
    server.serve_forever()


def bare(url: str, queries: Tensor, batch: int) -> None:
    with httpx2.Client() as client:
        for part in queries.split(batch):
            given = {"name": "x", "shape": list(part.shape), "datatype": "FP32", "data": part.flatten().tolist()}
            answer = client.post(f"{url}/infer", json={"inputs": [given]}).json()["outputs"][0]
            torch.tensor(answer["data"]).reshape(answer["shape"])


def paired(title: str, base: Callable[[], object], ours: Callable[[], object], rounds: int) -> None:
    seconds: dict[str, list[float]] = {"base": [], "ours": []}
    for index in range(rounds + 1):
        for name, function in (("base", base), ("ours", ours)):
            start = time.perf_counter()
            function()
            if index:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    first, second = (statistics.median(seconds[name]) for name in ("base", "ours"))
    print(f"{title}: {1000 * first:.1f} ms without metav, {1000 * second:.1f} ms with it, {second / first:.2f} times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    queries = 2 * torch.rand(100, *SPEC.input_shape) - 1
    model = suspect()
    scorer = MetaVerifier(answers=700).eval().requires_grad_(False)
    made = Fingerprint(queries=queries, scorer=scorer, spec=SPEC, reference=query(model, queries))
    asked = torch.cat([queries, queries[:REPEAT]])

    def alone() -> None:
        query(model, queries)
        query(model, queries[:REPEAT])

    paired("local ResNet-18", alone, lambda: verify(made, model, repeat=REPEAT), options.rounds)
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    server = context.Process(target=serve, args=(port,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port.get()}/v2/models/m"
    with tempfile.TemporaryDirectory() as folder, closing(port):
        for batch in options.batch:
            count = iter(range(options.rounds + 1))

            def campaign(batch: int = batch, count: Any = count) -> None:
                judge(made, url, Access(batch=batch), Path(folder) / f"{batch}-{next(count)}.jsonl")

            paired(f"HTTP, {batch} a request", lambda b=batch: bare(url, asked, b), campaign, options.rounds)
    server.terminate()


if __name__ == "__main__":
    main()
