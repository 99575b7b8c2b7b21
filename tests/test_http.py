"""Servers that lie, drip, redirect or repeat secrets: one sentence each, and no secret is shown."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import torch
from pytest_httpserver import HTTPServer
from torch import nn
from werkzeug import Request, Response

import tiny
from metav.access import Access
from metav.endpoints import connect
from metav.endpoints.http import Server, secrets
from metav.endpoints.ledger import Ledger, Recorded
from metav.errors import EndpointError, UsageError
from metav.schemes import get
from metav.verification import verify
from misbehaving import serving


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
                while not connection.recv(65536).endswith(b"{}"):  # closed with half of it unread, it would be reset
                    pass
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


def test_a_secret_that_begins_with_a_shorter_one_is_left_out_whole(httpserver, monkeypatch):
    monkeypatch.setenv("TENANT", "acme")
    monkeypatch.setenv("THE_KEY", "acme-9f3b77aa")
    refusal = Response("key acme-9f3b77aa of acme is not known", 403)
    with pytest.raises(EndpointError, match=r"\(key \[secret\] of \[secret\] is not known\)"):
        answered(httpserver, refusal, headers=secrets(["X-Tenant=TENANT", "Authorization=THE_KEY"]))


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


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"predictions": 0.3}, r"expected 2 answers from .*, got an answer of shape \(\)"),
        ({"predictions": [[1, 2], [3]]}, "expected numbers at 'predictions' .*: have them written as numbers, as many"),
        ({"predictions": ["a", "b"]}, "expected numbers at 'predictions' .*, and labels as numbers from 0 on"),
        ({"predictions": {"a": [1]}}, "expected numbers at 'predictions' .*: set --answer to where they are"),
        ({"error": "key s3cr3t-value"}, r"got .*\[secret\].*set --answer"),
        ({"predictions": [{"a": 1, "b": 2}, {"a": 1, "c": 2}]}, "expected numbers at 'predictions'"),
        ({"predictions": nested(900)}, "expected numbers at 'predictions' .*, got "),
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


@pytest.mark.parametrize("wish", ["0", "-3", "nan", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_who_asks_for_no_wait_is_left_alone_for_longer_each_time_all_the_same(httpserver, wish):
    with pytest.raises(EndpointError, match="status 429") as caught:
        answered(httpserver, Response("slow down", 429, {"retry-after": wish}))
    assert caught.value.passing
    assert caught.value.after is None


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
