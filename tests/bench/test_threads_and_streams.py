"""Threads and streams as axes of a benchmark."""

from __future__ import annotations

import pytest

from resnext.errors import UsageError
from resnext.runtimes.registry import SessionOptions
from resnext_bench.cases import Axes, candidates_of_weights, cases_at, supported_cases
from resnext_bench.plan import Case

ONE = candidates_of_weights(("fp32",), None, None)


def test_every_combination_of_batch_threads_and_streams_is_a_row() -> None:
    axes = Axes((1, 8), threads=(2, 4), streams=(1, 2))
    cases, notes = supported_cases(("ort-cpu", "openvino"), axes, ONE)
    assert len(set(cases)) == 2 * 2 * 2 * 2
    assert notes == []
    assert [str(case) for case in cases[:4]] == [
        "ort-cpu 2 threads batch 1",
        "openvino 2 threads batch 1",
        "ort-cpu 2 threads, 2 streams batch 1",
        "openvino 2 threads, 2 streams batch 1",
    ]


def test_a_single_number_is_not_in_the_name() -> None:
    assert str(Case("ort", 1, "fp32")) == "ort fp32 batch 1"
    assert str(Case("ort", 1, "fp32", 1, 2)) == "ort fp32 1 thread, 2 streams batch 1"


def test_what_cannot_have_as_many_requests_in_flight_is_left_out_by_name() -> None:
    axes = Axes((1,), threads=(1, 2), streams=(1, 2), options=SessionOptions("cpu"))
    cases, notes = supported_cases(("torch", "ort-cpu"), axes, ONE)
    assert [(case.backend, case.threads, case.streams) for case in cases] == [
        ("torch", 1, 1),
        ("ort-cpu", 1, 1),
        ("torch", 2, 1),
        ("ort-cpu", 2, 1),
        ("ort-cpu", 2, 2),
    ]
    assert notes == [
        "backend 'torch' runs one request at a time (PyTorch's settings belong to the whole"
        " process): 2 streams left out",
        "2 streams need 2 CPU threads, and there are 1: 2 streams left out",
    ]


def test_more_streams_than_threads_are_refused_if_nothing_else_was_requested() -> None:
    axes = Axes((1,), streams=(3,), options=SessionOptions("cpu", threads=2))
    with pytest.raises(UsageError, match="3 streams need 3 CPU threads, and there are 2") as told:
        cases_at([("openvino", "")], axes)
    assert told.value.hint == "use at most `streams` 2, or more `threads`"
