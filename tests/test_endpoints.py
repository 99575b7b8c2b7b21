"""The same model gives the same answers however it is reached, and what goes wrong on the way is one sentence."""

from __future__ import annotations

import math
import random
import socket
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import onnx
import pytest
import torch
from pytest_httpserver import HTTPServer
from torch import nn
from werkzeug import Request, Response

import tiny
from metav.access import Access
from metav.endpoints import Local, connect, content_of, named
from metav.endpoints.http import Server, secrets
from metav.endpoints.inference_v2 import InferenceV2
from metav.endpoints.json_api import JsonApi
from metav.endpoints.ledger import Ledger, Recorded
from metav.endpoints.retried import Retried
from metav.endpoints.wrappers import Batched, Ordered, Pace, Paced, Prepared
from metav.errors import EndpointError, UsageError
from metav.schemes import get
from metav.verification import verify
from misbehaving import FAULTS, serving

OWN_API = Access(request='{"instance": {"values": "$query"}, "n": 1}', answer="result.scores")


@pytest.mark.parametrize("kind", ["tables", "images", "regression", "codes"])
def test_a_model_gives_the_same_rate_as_a_module_a_file_and_behind_each_kind_of_server(served, kind):
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


class Nothing(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :2].softmax(1)


def answered(httpserver: HTTPServer, response: Response, **server) -> None:
    httpserver.expect_request("/m").respond_with_response(response)
    with closing(Server(httpserver.url_for("/m"), **server)) as asked:
        asked.post({})


@pytest.mark.parametrize(
    ("response", "words", "passing"),
    [
        (Response("<html>Sign in</html>", content_type="text/html"), r"something else \(<html>Sign in</html>\)", False),
        (Response("", 200), r"something else \(empty\)", False),
        (Response("", 302, {"location": "https://sso.example/login?s=1"}), "redirect to https://sso.example/login:", 0),
        (Response("", 302, {"location": "https://sso.example/cb#token=1"}), "redirect to https://sso.example/cb:", 0),
        (Response("[" * 200_000), r"something else \(\[", False),
        (Response("\x1b[2Jno\x07 [/m]", 404), r"status 404 \(\[2Jno \[/m\]\)", False),
        (Response("no", 401), r"status 401 \(no\): log in with --header", False),
        (Response("no", 404), "status 404.*check the URL", False),
        (
            Response("slow down", 429, {"retry-after": "7"}),
            r"status 429 \(slow down\), to be asked again after 7 s: ask",
            True,
        ),
        (Response("slow down", 429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 +99999999999999"}), "status 429", True),
        (Response("a traceback", 500), r"status 500 \(a traceback\)", True),
        (Response("x" * 3_000_000), "more than 1 MiB: ask for fewer", False),
    ],
)
def test_what_a_server_answers_instead_is_said_in_one_sentence(httpserver, response, words, passing):
    with pytest.raises(EndpointError, match=words) as caught:
        answered(httpserver, response, largest=2**20)
    assert caught.value.passing == bool(passing)
    assert str(caught.value).count("\n") == 0
    assert caught.value.after == (7 if response.headers.get("retry-after") == "7" else None)


def test_headers_that_come_letter_by_letter_take_no_longer_than_a_request_may():
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"

    def serve() -> None:
        for content, pause in ((whole[:12] + b"0" * 100, 0.1), (whole, 0.0)):
            connection, _ = listener.accept()
            with connection, suppress(OSError):  # the other side leaves
                connection.recv(65536)
                for letter in content:
                    connection.send(bytes([letter]))
                    time.sleep(pause)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        began = time.monotonic()
        with closing(Server(f"http://127.0.0.1:{listener.getsockname()[1]}/m", timeout=1.0)) as server:
            with pytest.raises(EndpointError, match="no whole one within 1 s") as caught:
                server.post({})
            assert caught.value.passing
            assert time.monotonic() - began < 8
            assert server.post({}) == {}  # it can be asked again


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


def test_a_secret_is_sent_and_shown_nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("THE_KEY", "Bearer s3cr3t-value")
    access = Access(header=("Authorization=THE_KEY",), batch=4)
    ensemble = tiny.tables()
    made = get("metav(iterations=5)").construct(ensemble, queries=8, seed=0)
    with serving(ensemble.target) as server:
        url = f"{server.url}/v2/models/m"
        endpoint = connect(url, made.spec, access)
        book = Ledger(tmp_path / "ledger.jsonl", made.digest, url)
        verify(made, Recorded(endpoint, book, 4))
        book.close()
        endpoint.close()
        assert {seen["authorization"] for seen in server.seen_headers} == {"Bearer s3cr3t-value"}
    assert "s3cr3t" not in (tmp_path / "ledger.jsonl").read_text() + repr(endpoint.about) + repr(access)


def test_what_a_server_calls_its_outputs_and_itself_shows_no_secret_and_moves_no_cursor(httpserver, monkeypatch):
    monkeypatch.setenv("THE_KEY", 'Token token="s3cr3t-value"')
    facts = {"name": "for s3cr3t-value", "inputs": [{"name": "x"}]}
    outputs = [{"name": name, "shape": [1], "data": [1.0]} for name in ('\x1b[2J token="s3cr3t-value"', "y" * 1000)]
    httpserver.expect_request("/v2/models/m").respond_with_json(facts)
    httpserver.expect_request("/v2/models/m/infer").respond_with_json({"outputs": outputs})
    access = Access(header=("Authorization=THE_KEY",))
    with closing(connect(httpserver.url_for("/v2/models/m"), tiny.TABLES, access)) as endpoint:
        with pytest.raises(EndpointError, match="choose with --output") as raised:
            endpoint.query(torch.rand(1, 6))
        shown = f"{raised.value} {endpoint.about}"
    assert "s3cr3t" not in shown
    assert shown.isprintable()
    assert len(shown) < 600


def test_a_secret_that_a_server_repeats_is_left_out_of_the_error(httpserver, monkeypatch):
    monkeypatch.setenv("THE_KEY", "Bearer s3cr3t-value")
    refusal = Response("key s3cr3t-value is not known", 403)
    with pytest.raises(EndpointError, match=r"key \[secret\] is not known"):
        answered(httpserver, refusal, headers=secrets(["Authorization=THE_KEY"]))


@pytest.mark.parametrize(
    ("suspect", "access", "words"),
    [
        ("gone.onnx", {}, "expected an ONNX file or a URL for the suspect, got 'gone.onnx'"),
        ("ftp://host/v2/models/m", {}, "http or https"),
        ("http://host/predict", {}, "describe another API with --request and --answer"),
        ("http://me:pw@host/v2/models/m", {}, "a URL without a password"),
        ("http:///v2/models/m", {}, "got one without a host"),
        ("http://host/v2/models/m", {"header": ("Schlüssel=PATH",)}, "the name of a header in ASCII"),
        ("http://host/x", {"request": "{", "answer": "a"}, "expected JSON for the request"),
        ("http://host/x", {"request": '{"a": 1}', "answer": "a"}, r'expected "\$batch" or "\$query" in the request'),
        ("http://host/x", {"request": '["$batch"]', "answer": "a[["}, "JMESPath for the answer"),
        ("http://host/v2/models/m", {"header": ("X-Key=NOT_SET_ANYWHERE",)}, "NOT_SET_ANYWHERE, which is not set"),
        ("http://host/v2/models/m", {"header": ("X-Key: abc",)}, "expected --header NAME=VARIABLE"),
        ("http://host/v2/models/m", {"classes": (1, 0)}, "give one place for each of them"),
        ("http://host/v2/models/m", {"classes": (1, 1, 2)}, "each place once"),
        ("http://host/v2/models/m", {"attempts": 0}, "--attempts of at least 1"),
        ("http://host/v2/models/m", {"box": (1.0, 0.0)}, "LOW below HIGH"),
        ("http://host/v2/models/m", {"box": (0.0, math.inf)}, "finite, with LOW below HIGH"),
        ("http://host/v2/models/m", {"rate": math.nan}, r"--rate of 0 or 0.0001 to 1e\+06"),
        ("http://host/v2/models/m", {"rate": 1e-300}, "--rate of 0 or 0.0001"),
        ("http://host/v2/models/m", {"timeout": math.inf}, "--timeout above 0 and up to 1e"),
        ("http://host/invocations", {"output": "b"}, "expected --output beside a URL that ends with /v2/models/NAME"),
        ("http://host/x", {"request": '["$query"]', "answer": "a", "batch": 4}, "expected no --batch beside a request"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_asked(suspect, access, words):
    with pytest.raises(UsageError, match=words):
        connect(suspect, tiny.TABLES, Access(**access))


@pytest.mark.parametrize("inputs", [[{}], {"a": 1}, 3])
def test_a_server_that_tells_nonsense_of_its_inputs_is_an_error(httpserver, inputs):
    httpserver.expect_request("/v2/models/m").respond_with_json({"name": "m", "inputs": inputs})
    with (
        closing(connect(httpserver.url_for("/v2/models/m"), tiny.TABLES)) as endpoint,
        pytest.raises(EndpointError, match="expected the model's inputs from"),
    ):
        endpoint.query(torch.rand(2, 6))


@pytest.mark.parametrize(("shape", "data"), [("[1]", "1" + 400 * "0"), ("[1e400]", "1")])
def test_numbers_beyond_all_bounds_are_an_error(httpserver, shape, data):
    httpserver.expect_request("/v2/models/m").respond_with_json({"name": "m"})
    httpserver.expect_request("/v2/models/m/infer").respond_with_data(
        f'{{"outputs": [{{"name": "y", "shape": {shape}, "data": [{data}]}}]}}'
    )
    httpserver.expect_request("/invocations").respond_with_data(f'{{"predictions": [[{data}], [1, 2]]}}')
    for path, words in (("/v2/models/m", "outputs of the Open"), ("/invocations", "numbers at 'predictions'")):
        with (
            closing(connect(httpserver.url_for(path), tiny.TABLES)) as endpoint,
            pytest.raises(EndpointError, match=f"expected {words}"),
        ):
            endpoint.query(torch.rand(1, 6))


@pytest.mark.parametrize("proxy", ["foo://127.0.0.1:1", "http://host:abc"])
def test_a_proxy_that_cannot_be_used_is_an_error(monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(UsageError, match="expected a proxy over http or https"):
        connect("http://host/v2/models/m", tiny.TABLES)


def test_the_query_of_a_url_is_shown_nowhere(httpserver):
    refusal = Response("Cannot POST /m?key=s3cr3t%20value&v=1: s3cr3t value, s3cr3t%20value v=1", 404)
    httpserver.expect_request("/m").respond_with_response(refusal)
    with (
        closing(Server(httpserver.url_for("/m?key=s3cr3t%20value&v=1"))) as server,
        pytest.raises(EndpointError, match=r"Cannot POST /m\?\[secret\]: \[secret\], \[secret\] v=1\)"),
    ):
        server.post({})


def graph(path, node, batch, kinds=(onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT), weight=None, **saved):
    """A model of one operator from (batch, 6); with a weight (6, 3) its second input."""
    given, answer = (
        onnx.helper.make_tensor_value_info(name, kind, [batch, None]) for name, kind in zip("xy", kinds, strict=True)
    )
    inputs = ["x"] if weight is None else ["x", "w"]
    weights = [] if weight is None else [onnx.numpy_helper.from_array(weight.numpy(), "w")]
    made = onnx.helper.make_graph([onnx.helper.make_node(node, inputs, ["y"])], "g", [given], [answer], weights)
    model = onnx.helper.make_model(made, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.save(model, path, **saved)
    return str(path)


@pytest.mark.parametrize("batch", [1, 4, None])
def test_a_file_may_fix_how_many_queries_it_takes(tmp_path, batch):
    x = torch.rand(6, 6)
    endpoint = connect(graph(tmp_path / "m.onnx", "Neg", batch), tiny.TABLES)
    torch.testing.assert_close(endpoint.query(x), -x)
    torch.testing.assert_close(endpoint.query(x[:3]), -x[:3])


def test_a_file_that_answers_more_often_than_asked_is_refused(tmp_path):
    endpoint = connect(graph(tmp_path / "m.onnx", "Transpose", None), tiny.TABLES)
    with pytest.raises(EndpointError, match="expected 2 answers from"):
        endpoint.query(torch.rand(2, 6))


def test_answers_of_a_file_may_be_of_any_type_of_number(tmp_path):
    x = torch.tensor([[1.5, 0.0], [-2.0, 3.0]])
    kinds = onnx.TensorProto
    half = connect(graph(tmp_path / "h.onnx", "Neg", None, (kinds.FLOAT16, kinds.FLOAT16)), tiny.TABLES)
    torch.testing.assert_close(half.query(x).float(), -x)
    yes = connect(graph(tmp_path / "b.onnx", "IsNaN", None, (kinds.FLOAT, kinds.BOOL)), tiny.TABLES)
    assert yes.query(x / x).tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_words_of_a_file_are_no_answers(tmp_path):
    answers = np.array(["nevus", "melanoma"])
    node = onnx.helper.make_node("Constant", [], ["y"], value=onnx.numpy_helper.from_array(answers.astype(object)))
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 6])
    answer = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.STRING, [2])
    made = onnx.helper.make_graph([node], "g", [given], [answer])
    model = onnx.helper.make_model(made, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.save(model, tmp_path / "m.onnx")
    endpoint = connect(str(tmp_path / "m.onnx"), tiny.TABLES)
    with pytest.raises(EndpointError, match=r"expected numbers from output 'y' of .*, got an array of object: choose"):
        endpoint.query(torch.rand(2, 6))


@pytest.mark.parametrize("name", ["m.onnx.data", 120 * "w" + "/" + 60 * "w"])
def test_what_a_file_is_asked_for_is_known_by_its_weights_too(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    first, second = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(0))
    saved = {"save_as_external_data": True, "location": name, "size_threshold": 0}
    file = graph(tmp_path / "m.onnx", "MatMul", None, weight=first, **saved)
    content, known = (tmp_path / "m.onnx").read_bytes(), content_of(file, Access())
    assert content_of(file, Access()) == known
    (tmp_path / name).write_bytes(second.numpy().tobytes())
    assert (tmp_path / "m.onnx").read_bytes() == content
    assert content_of(file, Access()) != known
    (tmp_path / name).unlink()
    with pytest.raises(EndpointError, match=rf"in {tmp_path / name}, got no such file: put it there"):
        connect(file, tiny.TABLES)


def test_a_file_that_is_no_model_is_an_error(tmp_path):
    (tmp_path / "bad.onnx").write_text("<html>")
    with pytest.raises(EndpointError, match="expected an ONNX model in"):
        connect(str(tmp_path / "bad.onnx"), tiny.TABLES)


def test_an_api_may_want_inputs_in_another_box_and_channels_last():
    seen = []

    def model(x):
        seen.append(x)
        return torch.full((len(x), 4), 0.25)

    with serving(model) as server:
        access = Access(box=(0.0, 255.0), channels_last=True)
        with closing(connect(f"{server.url}/v2/models/m", tiny.IMAGES, access)) as endpoint:
            endpoint.query(torch.ones(2, 3, 8, 6))
    assert seen[0].shape == (2, 8, 6, 3)
    assert (seen[0] == 255).all()
    said = ("inputs between 0 and 255, as --box says", "inputs with their channels last, as --channels-last says")
    assert access.remarks() == said
    with pytest.raises(UsageError, match=r"inputs are images, got one with inputs of shape \(6,\): leave it out"):
        connect("", tiny.TABLES, access, ledger=lambda: None)


def test_another_order_of_classes_is_put_right():
    order = (2, 0, 1)

    def shuffled(x):
        answers = torch.empty(len(x), 3)
        answers[:, list(order)] = tiny.of_tables(0)(x).detach()
        return answers

    x = torch.rand(5, 6)
    for labels in (False, True):
        with (
            serving((lambda x: shuffled(x).argmax(1)) if labels else shuffled) as server,
            closing(connect(f"{server.url}/v2/models/m", tiny.TABLES, Access(classes=order))) as endpoint,
        ):
            got = endpoint.query(x)
        want = tiny.of_tables(0)(x).detach()
        torch.testing.assert_close(got.float(), (want.argmax(1) if labels else want).float(), rtol=1e-5, atol=1e-6)
    deep = Ordered(Local(lambda x: shuffled(x)[:, :, None, None]), order)  # as networks that pool at the end answer
    torch.testing.assert_close(deep.query(x), want)


@pytest.mark.parametrize("value", [0.58, 3.0, -1.0, math.nan])
def test_an_order_of_classes_needs_classes(value):
    ordered = Ordered(Local(lambda x: torch.full((len(x),), value)), (2, 0, 1))
    with pytest.raises(EndpointError, match="expected 3 probabilities or a class a query"):
        ordered.query(torch.rand(4, 6))


def test_values_of_a_regression_are_put_in_order_too(httpserver):
    httpserver.expect_request("/invocations").respond_with_json({"predictions": [[2.5, 1.5], [4.5, 3.5]]})
    url = httpserver.url_for("/invocations")
    spec = replace(tiny.REGRESSION, output_shape=(2,))
    with closing(connect(url, spec, Access(classes=(1, 0)))) as endpoint:
        assert endpoint.query(torch.rand(2, *spec.input_shape)).tolist() == [[1.5, 2.5], [3.5, 4.5]]
    with pytest.raises(UsageError, match=r"expected --classes for a target with 2 classes or values, got one with reg"):
        connect(url, replace(spec, output_shape=(3,)), Access(classes=(1, 0)))


def test_wrappers_compose():
    times = []

    def model(x):
        times.append((time.monotonic(), len(x)))
        return x.flatten(1).softmax(1)

    pace = Pace(rate=100.0)
    first, second = (Ordered(Batched(Paced(Local(model), pace), 2), (2, 0, 1)) for _ in range(2))
    x, start = torch.rand(5, 3), time.monotonic()
    assert (first(x) == x.softmax(1)[:, [2, 0, 1]]).all()
    assert [count for _, count in times] == [2, 2, 1]
    assert times[-1][0] - start >= 0.039  # four queries at a hundred a second
    second(x)
    assert times[-1][0] - start >= 0.089  # nine, whoever asks


def test_nobody_waits_for_a_turn_once_halted():
    halt, began = threading.Event(), time.monotonic()
    paced = Paced(Local(lambda x: x), Pace(rate=0.01), halt)
    paced(torch.rand(1, 3))  # the next one's turn is in 100 s
    threading.Timer(0.05, halt.set).start()
    with pytest.raises(EndpointError, match="got an interrupt: run it again"):
        paced(torch.rand(1, 3))
    assert time.monotonic() - began < 50


def test_what_is_not_passing_is_not_asked_again_and_a_server_s_wish_is_granted():
    calls = []

    def failing(_):
        calls.append(time.monotonic())
        raise EndpointError("expected, got", passing=len(calls) < 3, after=0.05 if len(calls) == 1 else None)

    with pytest.raises(EndpointError):
        Retried(Local(failing), attempts=9, first=0.001).query(torch.zeros(1, 3))
    assert len(calls) == 3
    assert calls[1] - calls[0] >= 0.05


def test_after_the_last_attempt_nobody_waits():
    def busy(_):
        raise EndpointError("expected, got", passing=True, after=300.0)

    began = time.monotonic()
    with pytest.raises(EndpointError):
        Retried(Local(busy), attempts=1).query(torch.zeros(1, 3))
    assert time.monotonic() - began < 100


@pytest.mark.parametrize(("low", "high", "box"), [(0.1, 0.9, (0.0, 255.0)), (-3.0, 3.0, (0.0, 100.0))])
def test_inputs_stay_in_the_box_that_was_given(low, high, box):
    seen = []
    spec = replace(tiny.TABLES, low=low, high=high)
    Prepared(Local(lambda x: seen.append(x) or x), spec, box).query(torch.tensor([low, high]).repeat(1, 3))
    assert (float(seen[0].min()), float(seen[0].max())) == box


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


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"predictions": 0.3}, r"expected 2 answers from .*, got an answer of shape \(\)"),
        ({"predictions": [[1, 2], [3]]}, "expected numbers at 'predictions'"),
        ({"predictions": ["a", "b"]}, "expected numbers at 'predictions'"),
        ({"error": "key s3cr3t-value"}, r"got .*\[secret\].*set --answer"),
        ({"predictions": [{"a": 1, "b": 2}, {"a": 1, "c": 2}]}, "expected numbers at 'predictions'"),
    ],
)
def test_json_that_holds_no_answers_is_said(httpserver, answers, words, monkeypatch):
    monkeypatch.setenv("THE_KEY", "Bearer s3cr3t-value\n")
    httpserver.expect_request("/invocations").respond_with_json(answers)
    access = Access(header=("Authorization=THE_KEY",))
    with (
        closing(connect(httpserver.url_for("/invocations"), tiny.TABLES, access)) as endpoint,
        pytest.raises(EndpointError, match=words),
    ):
        endpoint.query(torch.rand(2, 6))


def test_rows_of_named_values_are_taken_in_one_order_over_all_answers(httpserver):
    steady, sorted_ = ([{"a": 0.9, "b": 0.1}, {"a": 0.2, "b": 0.8}], [{"a": 0.9, "b": 0.1}, {"b": 0.8, "a": 0.2}])
    for path, rows in (("/first", [steady, sorted_]), ("/second", [sorted_])):
        for each in rows:
            httpserver.expect_ordered_request(path).respond_with_json({"predictions": each})
    with closing(connect(httpserver.url_for("/first"), tiny.TABLES, Access(answer="predictions"))) as endpoint:
        assert endpoint.query(torch.rand(2, 6)).tolist() == [[0.9, 0.1], [0.2, 0.8]]
        with pytest.raises(EndpointError, match=r'values by name in one order \("a", "b"\).*: end --answer with'):
            endpoint.query(torch.rand(2, 6))
    named_ = Access(answer='predictions[*].["b", "a"]')
    with closing(connect(httpserver.url_for("/second"), tiny.TABLES, named_)) as endpoint:
        assert endpoint.query(torch.rand(2, 6)).tolist() == [[0.1, 0.9], [0.8, 0.2]]


def test_a_server_that_wants_to_be_left_alone_for_long_is(httpserver):
    busy = Response("busy", 429, {"retry-after": "86400"})
    httpserver.expect_request("/invocations").respond_with_response(busy)
    with (
        closing(connect(httpserver.url_for("/invocations"), tiny.TABLES)) as endpoint,
        pytest.raises(EndpointError, match="to be asked again after 86400 s"),
    ):
        endpoint.query(torch.rand(2, 6))
    assert len(httpserver.log) == 1


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


def test_a_short_value_of_a_header_is_no_secret_and_a_longer_one_is(httpserver):
    httpserver.expect_request("/v2/models/m").respond_with_data("no", status=404)
    server = Server(httpserver.url_for("/v2/models/m"), headers={"X-Version": "1", "X-Key": "v2/m"})
    with closing(server), pytest.raises(EndpointError) as raised:
        server.get()
    assert "127.0.0.1" in str(raised.value) or "localhost" in str(raised.value)
    assert "[secret]" not in str(raised.value).replace("[secret]odels", "")


def test_headers_of_a_request_may_be_others_than_those_of_plain_json(httpserver):
    seen = []

    def handler(request: Request) -> Response:
        seen.append({name: request.headers.get(name) for name in ("Accept", "Content-Type", "User-Agent")})
        return Response("{}")

    httpserver.expect_request("/m").respond_with_handler(handler)
    for headers in ({}, {"ACCEPT": "application/vnd.own+json", "content-type": "application/json; format=split"}):
        with closing(Server(httpserver.url_for("/m"), headers=headers)) as server:
            server.post({})
    assert [each["Accept"] for each in seen] == ["application/json", "application/vnd.own+json"]
    assert [each["Content-Type"] for each in seen] == ["application/json", "application/json; format=split"]


def test_a_date_without_a_zone_is_one_of_utc(httpserver):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100)).replace("+0000", "-0000")
    with pytest.raises(EndpointError) as caught:
        answered(httpserver, Response("slow down", 429, {"retry-after": soon}))
    assert caught.value.after == pytest.approx(100, abs=5)


def test_certificates_that_cannot_be_read_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
    with pytest.raises(UsageError, match="correct or unset SSL_CERT_FILE"):
        connect("https://host/v2/models/m", tiny.TABLES)


def test_outputs_of_another_name_are_told(httpserver):
    httpserver.expect_request("/v2/models/m").respond_with_json({"name": "m"})
    output = {"name": "out", "shape": [1, 1], "data": [1]}
    httpserver.expect_request("/v2/models/m/infer").respond_with_json({"outputs": [output]})
    with (
        closing(connect(httpserver.url_for("/v2/models/m"), tiny.TABLES, Access(output="logits"))) as endpoint,
        pytest.raises(EndpointError, match=r"expected the output 'logits' from .*, got out: choose with --output"),
    ):
        endpoint.query(torch.rand(1, 6))


def test_names_of_classes_are_no_answers(httpserver):
    httpserver.expect_request("/v2/models/m").respond_with_json({"name": "m"})
    output = {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["naevus"]}
    httpserver.expect_request("/v2/models/m/infer").respond_with_json({"outputs": [output]})
    with (
        closing(connect(httpserver.url_for("/v2/models/m"), tiny.TABLES)) as endpoint,
        pytest.raises(EndpointError, match=r"numbers in the output 'label' from .*naevus.*probabilities \(--output\)"),
    ):
        endpoint.query(torch.rand(1, 6))


def test_what_is_wrong_with_a_path_of_answers_is_one_sentence():
    with pytest.raises(UsageError, match="JMESPath for the answer") as caught:
        connect("http://host/x", tiny.TABLES, Access(request='["$batch"]', answer="a[?b=="))
    assert "\n" not in str(caught.value)


def test_a_suspect_is_called_without_password_and_query():
    assert named("http://me:pw@host/m").startswith("http://host/m#")
    assert named("http://host/a/http://b@c/m") == "http://host/a/http://b@c/m"
    assert named("HTTPS://me:pw@host/m?key=abc").startswith("HTTPS://host/m#")
    assert named("a@b.onnx") == "a@b.onnx"


@pytest.mark.parametrize(("kind", "sent"), [("FP64", "FP64"), ("FP16", "FP16"), ("INT64", "FP32")])
def test_a_server_gets_the_floats_that_it_asks_for(httpserver, kind, sent):
    facts = {"name": "m", "inputs": [{"name": "x", "datatype": kind, "shape": [-1, 6]}]}
    httpserver.expect_request("/v2/models/m").respond_with_json(facts)
    output = {"name": "out", "shape": [1, 1], "data": [1]}
    httpserver.expect_request("/v2/models/m/infer").respond_with_json({"outputs": [output]})
    with closing(connect(httpserver.url_for("/v2/models/m"), tiny.TABLES)) as endpoint:
        endpoint.query(torch.rand(1, 6))
    (asked,) = [request for request, _ in httpserver.log if request.path.endswith("/infer")]
    assert [(each["name"], each["datatype"]) for each in asked.get_json()["inputs"]] == [("x", sent)]


def test_a_file_of_other_inputs_is_told_with_what_it_takes(tmp_path):
    kinds = onnx.TensorProto
    bytes_ = graph(tmp_path / "b.onnx", "Identity", None, (kinds.UINT8, kinds.UINT8))
    with pytest.raises(UsageError, match=r"expected one input of floats in .*b\.onnx', got x \(tensor\(uint8\)\)"):
        connect(bytes_, tiny.TABLES)
    values = [onnx.helper.make_tensor_value_info(name, kinds.FLOAT, [None, 6]) for name in "abcd"]
    nodes = [onnx.helper.make_node("Add", ["a", "b"], ["c"]), onnx.helper.make_node("Neg", ["c"], ["d"])]
    made = onnx.helper.make_graph(nodes, "g", values[:2], values[2:])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(made, ir_version=9, opset_imports=opset), tmp_path / "two.onnx")
    with pytest.raises(UsageError, match=r"got a \(tensor\(float\)\), b \(tensor\(float\)\): it takes something else"):
        connect(str(tmp_path / "two.onnx"), tiny.TABLES, Access(output="c"))


def test_a_file_that_takes_other_shapes_is_told_with_both(tmp_path):
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 4, "w"]) for name in "xy"]
    made = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(made, ir_version=9, opset_imports=opset), tmp_path / "m.onnx")
    with pytest.raises(
        EndpointError, match=r"inputs are of shape \(4, w\), got an error to queries of shape \(6,\) \("
    ):
        connect(str(tmp_path / "m.onnx"), tiny.TABLES).query(torch.rand(2, 6))
