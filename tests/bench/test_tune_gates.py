"""Limits as they are written, and held against what a candidate has."""

from __future__ import annotations

import math

import pytest

from fakes.tuned import accuracy
from resnext.errors import UsageError
from resnext_bench.tune.gates import (
    KINDS,
    judged,
    limit_text,
    missed,
    parsed_gates,
    with_actual,
)


@pytest.mark.parametrize(
    ("gate", "slo", "limits"),
    [
        ("agreement>=0.99,top1-loss<=1%", None, {"agreement": 0.99, "top1-loss": 1.0}),
        (" agreement >= 99 % ", None, {"agreement": 0.99}),
        ("top1>=0.7,size<=50MB,memory<=2GB", None, {"top1": 0.7, "size": 50.0, "memory": 2000.0}),
        ("size<=500kB", "p99<=20ms", {"size": 0.5, "p99": 20.0}),
        (None, "p50<=1.5ms,p90<=0.1s,p99<=900us", {"p50": 1.5, "p90": 100.0, "p99": 0.9}),
        (None, None, {}),
    ],
)
def test_limits_are_read_in_the_unit_of_their_kind(
    gate: str | None, slo: str | None, limits: dict[str, float]
) -> None:
    found = parsed_gates(gate, slo)
    assert {each.name: each.allowed for each in found} == pytest.approx(limits)
    assert all(each.actual is None and not each.passed for each in found)
    again = [
        parsed_gates(*((None, text) if KINDS[each.name].latency else (text, None)))
        for each in found
        for text in [limit_text(each)]
    ]
    assert [one for (one,) in again] == list(found)


WRONG = {
    ("agreement>=0.99,agreement<=0.9", None): "contradict each other: agreement has a lower limit",
    ("agreement>=0.99,agreement>=0.9", None): "given twice",
    (None, "p99<=20ms,p99<=30ms"): "given twice",
    ("agreement<=0.9", None): "agreement has a lower limit; write agreement>=0.9",
    ("size>=50MB", None): "size has an upper limit; write size<=50MB",
    ("agreement>0.9", None): "write agreement>=0.9",
    ("top1-loss<0%", None): "write top1-loss<=0%",
    ("top1-loss<=-1%", None): "top1-loss must be from 0 to 100 %",
    ("top1-loss<=1", None): "the unit is missing; give points of top-1 as %",
    ("agreement>=1.01", None): "agreement must be from 0 to 1 (100 %)",
    ("agreement>=nan", None): "is not a limit",
    ("agreement>=1e999", None): "agreement must be from 0 to 1",
    ("agreement>=0.9ms", None): "'ms' is no unit of agreement",
    ("size<=0MB", None): "size must be above 0",
    ("size<=50", None): "give MB or GB",
    (None, "p99<=20"): "the unit is missing; give ms or s",
    (None, "p99<=20lightyears"): "'lightyears' is no unit of p99; give ms or s",
    (None, "p99<=0ms"): "p99 must be above 0",
    (None, "p99<=1.2.3ms"): "'1.2.3' is not a number",
    (None, "p95<=20ms"): "unknown gate 'p95'; did you mean 'p99'? Known: p50, p90, p99",
    ("speed>=1", None): "Known: agreement, top1, top1-loss, size, memory",
    ("agrement>=0.9", None): "did you mean 'agreement'?",
    ("p99<=20ms", None): "p99 is for `slo`",
    (None, "agreement>=0.9"): "agreement is for `gate`",
    ("agreement", None): "is not a limit; for example agreement>=0.99",
    ("", None): "is not a limit",
    ("agreement>=0.9,", None): "is not a limit",
}


@pytest.mark.parametrize(("texts", "message"), WRONG.items())
def test_what_cannot_be_a_limit_is_refused_in_one_line(
    texts: tuple[str | None, str | None], message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        parsed_gates(*texts)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_not_known_or_not_a_number_does_not_pass() -> None:
    gates = parsed_gates("agreement>=0.9,size<=1MB", "p99<=1ms")
    assert missed(judged(gates), latency=False) == gates[0]
    nan = with_actual(gates[0], math.nan)
    assert not nan.passed
    broken = accuracy(0.9, 0.95).model_copy(update={"nonfinite": 1})
    found = missed(judged(gates, accuracy=broken, size_bytes=1), latency=False)
    assert found is not None
    assert found.actual is None
    found = missed(judged(gates, accuracy=accuracy(0.9, 0.95), size_bytes=10**7), latency=False)
    assert found is not None
    assert (found.name, found.actual) == ("size", 10.0)
    passing = judged(gates, accuracy=accuracy(0.9, 0.95), size_bytes=10**6)
    assert missed(passing, latency=False) is None
    assert missed(passing, latency=True) == gates[2]


def test_the_loss_of_top_1_is_counted_not_subtracted() -> None:
    measured = accuracy(0.95, 0.99).model_copy(update={"losing_flips": 12, "winning_flips": 2})
    (gate,) = judged(parsed_gates("top1-loss<=1%", None), accuracy=measured)
    assert gate.actual == 1.0
    assert gate.passed
