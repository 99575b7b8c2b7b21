"""What stands between the queries and an endpoint: boxes, orders, batches, pace and second attempts."""

from __future__ import annotations

import math
import pickle
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest
import torch

import tiny
from metav.access import Access
from metav.campaign import judge
from metav.endpoints import Local, connect
from metav.endpoints.retried import Retried
from metav.endpoints.wrappers import Batched, Ordered, Pace, Paced, Prepared
from metav.errors import EndpointError, OrderError, UsageError
from misbehaving import serving


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


@pytest.mark.parametrize("tried", [(), (1, 0, 2), (0, 2, 1)])
def test_the_order_that_is_asked_for_is_the_suspect_s_whatever_was_tried_before(fingerprint, tried, tmp_path):
    order = [1, 2, 0]  # the target's first class is the suspect's second
    shuffled = lambda x: tiny.tables().target(x)[:, [order.index(place) for place in range(3)]]  # noqa: E731
    with serving(shuffled) as server:
        url = f"{server.url}/v2/models/m"
        with pytest.raises(OrderError, match=r"ask with --classes 1 2 0\.$") as caught:
            judge(fingerprint, url, Access(classes=tried))
        assert list(caught.value.places) == order
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        with pytest.raises(OrderError, match=r"ask with --classes 1 2 0\.$"):  # of the ledger nothing need be deleted
            judge(fingerprint, url, Access(classes=tried), tmp_path / "kept.jsonl")
        assert judge(fingerprint, url, Access(classes=tuple(order))).derived


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
