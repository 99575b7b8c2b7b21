"""The same model gives the same answers however it is reached, and what goes wrong on the way is one sentence."""

from __future__ import annotations

import math
import random
import time
from contextlib import closing

import pytest
import torch
from werkzeug import Request, Response

import tiny
from metav.access import Access
from metav.endpoints import connect, named
from metav.endpoints.http import Server
from metav.endpoints.inference_v2 import InferenceV2
from metav.endpoints.json_api import JsonApi
from metav.endpoints.ledger import Ledger, Recorded
from metav.endpoints.retried import Retried
from metav.errors import EndpointError, UsageError
from metav.schemes import get
from metav.verification import verify
from misbehaving import FAULTS, OWN_API, serving


def test_a_server_that_is_silent_or_gone_may_be_asked_again(httpserver):
    def late(_: Request) -> Response:
        time.sleep(0.5)
        return Response("{}")

    httpserver.expect_request("/late").respond_with_handler(late)
    slow = Server(httpserver.url_for("/late"), timeout=0.1)
    with closing(slow), pytest.raises(EndpointError, match=r"no whole one within 0\.1 s: try later") as caught:
        slow.post({})
    assert caught.value.passing

    def drop_by_drop(_: Request) -> Response:
        return Response(time.sleep(0.05) or " " for _ in range(100))

    httpserver.expect_request("/drops").respond_with_handler(drop_by_drop)
    start = time.monotonic()
    with (
        closing(Server(httpserver.url_for("/drops"), timeout=0.2)) as endless,
        pytest.raises(EndpointError, match=r"no whole one within 0\.2 s") as caught,
    ):
        endless.post({})
    assert caught.value.passing
    assert time.monotonic() - start < 2
    gone = Server("http://127.0.0.1:9/m")
    with closing(gone), pytest.raises(EndpointError, match="a broken connection") as caught:
        gone.post({})
    assert caught.value.passing


@pytest.mark.parametrize(
    ("suspect", "access", "words"),
    [
        ("gone.onnx", {}, "expected an ONNX file or a URL for the suspect, got 'gone.onnx'"),
        ("ftp://host/v2/models/m", {}, "http or https"),
        ("http://host/predict", {}, "describe another API with --request and --answer"),
        ("http://me:pw@host/v2/models/m", {}, "a URL without a password"),
        ("http:///v2/models/m", {}, "got one without a host"),
        ("http://host/v2/models/m", {"header": ("Content-Length=PATH",)}, "no header 'Content-Length', which each"),
        ("http://host/v2/models/m", {"header": ("Schlüssel=PATH",)}, "the name of a header in ASCII"),
        ("http://host/x", {"request": "{", "answer": "a"}, "expected JSON for the request"),
        ("http://host/x", {"request": '{"a": 1}', "answer": "a"}, r'expected "\$batch" or "\$query" in the request'),
        ("http://host/x", {"request": '["$batch"]', "answer": "a[["}, "JMESPath for the answer"),
        (
            "http://host/v2/models/m",
            {"header": ("X-Key=NOT_SET_ANYWHERE",)},
            "variable NOT_SET_ANYWHERE, got none",
        ),
        ("http://host/v2/models/m", {"header": ("X-Key: abc",)}, "expected --header NAME=VARIABLE"),
        ("http://host/v2/models/m", {"classes": (1, 0)}, "give one place for each of them"),
        ("http://host/v2/models/m", {"classes": (1, 1, 2)}, "each place once"),
        ("http://host/v2/models/m", {"attempts": 0}, "--attempts of at least 1"),
        ("http://host/v2/models/m", {"box": (1.0, 0.0)}, "LOW below HIGH"),
        ("http://host/v2/models/m", {"box": (0.0, 1.0, 3.0)}, "expected --box LOW HIGH"),
        ("http://host/v2/models/m", {"box": (0.0, math.inf)}, r"within 1e\+30, with LOW below HIGH"),
        ("http://host/v2/models/m", {"box": (0.0, 1e39)}, r"within 1e\+30, with LOW below HIGH"),
        ("http://host/v2/models/m", {"batch": 2**63}, "--batch from 0 to 1000000, got 9223372036854775808"),
        ("http://host/v2/models/m", {"rate": math.nan}, r"--rate of 0, or from 0.0001 to 1e\+06"),
        ("http://host/v2/models/m", {"rate": 1e-300}, "--rate of 0, or from 0.0001"),
        ("http://host/v2/models/m", {"timeout": math.inf}, "--timeout above 0 and of at most 1e"),
        ("http://host/invocations", {"output": "b"}, "expected --output beside a URL that ends with /v2/models/NAME"),
        ("http://host/x", {"request": '["$query"]', "answer": "a", "batch": 4}, "expected no --batch beside a request"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_asked(suspect, access, words):
    with pytest.raises(UsageError, match=words):
        connect(suspect, tiny.TABLES, Access(**access))


def test_a_file_may_be_given_as_a_path(tmp_path):
    with pytest.raises(UsageError, match=r"expected an ONNX file or a URL for the suspect, got '.*gone\.onnx'"):
        connect(tmp_path / "gone.onnx", tiny.TABLES)


def test_answers_over_http_may_be_nan_and_are_no_wrong_address(tmp_path):
    with serving(lambda x: torch.full((len(x), 3), torch.nan)) as server:
        for path, access in (("v2/models/m", Access()), ("invocations", Access()), ("score", OWN_API)):
            with closing(connect(f"{server.url}/{path}", tiny.TABLES, access)) as endpoint:
                assert endpoint.query(torch.rand(2, 6)).isnan().all()


def test_a_url_may_have_a_query_which_is_shown_nowhere():
    with serving(tiny.tables().target) as server:
        with closing(connect(f"{server.url}/v2/models/m?key=s3cr3t", tiny.TABLES)) as endpoint:
            assert endpoint.query(torch.rand(2, 6)).shape == (2, 3)
            assert "s3cr3t" not in repr(endpoint.about)
        assert server.paths[-1] == "/v2/models/m/infer?key=s3cr3t"


def test_after_a_thousand_faults_no_answer_is_lost_none_asked_for_twice_and_the_verdict_is_the_same(tmp_path):
    ensemble = tiny.tables()
    made = get("metav(iterations=20)").construct(ensemble, queries=100, seed=0)
    faults = 0
    for seed, model in enumerate([ensemble.target, ensemble.positives[0], *ensemble.negatives[:3]]):
        generator = random.Random(seed)
        fault = iter(lambda generator=generator: generator.choice(FAULTS) if generator.random() < 0.7 else "", None)
        with serving(model, fault) as server:
            v2 = InferenceV2(Server(f"{server.url}/v2/models/m"))
            own = JsonApi(Server(f"{server.url}/score"), OWN_API.request, OWN_API.answer)
            patient = Retried(own if seed % 2 else v2, attempts=99, first=1e-4, longest=1e-3)
            book = Ledger(tmp_path / f"{seed}.jsonl", made.digest, server.url)
            verdict = verify(made, Recorded(patient, book, 1), repeat=3)
            book.close()
            patient.close()
            faults += sum(server.met.values())
            assert set(server.met) == set(FAULTS)
            assert sum(server.delivered.values()) == verdict.queries == 103
            assert sorted(server.delivered.values()) == [1] * 97 + [2] * 3  # three are asked twice on purpose
        assert verdict.rate == pytest.approx(verify(made, model).rate, abs=1e-5)
    assert faults >= 1000


def test_what_is_wrong_with_a_path_of_answers_is_one_sentence():
    with pytest.raises(UsageError, match="JMESPath for the answer") as caught:
        connect("http://host/x", tiny.TABLES, Access(request='["$batch"]', answer="a[?b=="))
    assert "\n" not in str(caught.value)


def test_a_suspect_is_called_without_password_and_query():
    assert named("http://me:pw@host/m").startswith("http://host/m#")
    assert named("http://host/a/http://b@c/m") == "http://host/a/http://b@c/m"
    assert named("HTTPS://me:pw@host/m?key=abc").startswith("HTTPS://host/m#")
    assert named("a@b.onnx") == "a@b.onnx"
