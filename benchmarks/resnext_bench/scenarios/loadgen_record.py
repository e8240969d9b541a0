"""The stored form of a LoadGen run, read from LoadGen's own summary."""

from __future__ import annotations

import re
from typing import Literal

from resnext.artifact.specs import Strict
from resnext.errors import SessionFailed

LoadGenScenario = Literal["single-stream", "multi-stream", "server", "offline"]

#: Longest summary that is stored, characters; LoadGen's have some 2,500.
_MOST = 20_000


class LoadGenRecord(Strict):
    """A LoadGen run: MLPerf's load generator, without MLPerf's rules, so not an MLPerf result.

    Attributes:
        scenario: MLPerf's scenario. A sample is one run of the row's batch; a query of multi-stream
            has eight samples.
        version: of mlcommons-loadgen.
        min_duration_s: requested minimum duration; official runs last for 600 s.
        target_per_s: queries a second that the server scenario sent; else None.
        slo_ns: target latency of the server scenario, nanoseconds; else None.
        result: LoadGen's verdict.
        recommendations: its reasons for INVALID, in its words.
        samples_per_s: samples a second that it reports; None if it does not.
        images_per_s: the same in images.
        percentiles_ns: latency of a query by percentile, nanoseconds.
        queries: that the session ran.
        wrong: in words, how outputs differ from those of the same worker alone; "" if they do not.
        summary: its mlperf_log_summary.txt.
    """

    scenario: LoadGenScenario
    version: str
    min_duration_s: float
    target_per_s: float | None = None
    slo_ns: int | None = None
    result: Literal["VALID", "INVALID"]
    recommendations: tuple[str, ...] = ()
    samples_per_s: float | None = None
    images_per_s: float | None = None
    percentiles_ns: dict[str, int]
    queries: int
    wrong: str = ""
    summary: str


def record_of(
    summary: str,
    scenario: LoadGenScenario,
    version: str,
    batch: int,
    queries: int,
    *,
    min_duration_s: float,
    target_per_s: float | None = None,
    slo_ns: int | None = None,
    wrong: str = "",
) -> LoadGenRecord:
    """The record of a run with this ``summary``; the other arguments as in `LoadGenRecord`.

    Raises:
        SessionFailed: the summary has no verdict.
    """
    verdict = re.search(r"^Result is : (VALID|INVALID)$", summary, re.MULTILINE)
    if verdict is None:
        raise SessionFailed("LoadGen wrote no verdict", hint="keep its files: `loadgen_logs`")
    result: Literal["VALID", "INVALID"] = "VALID" if verdict[1] == "VALID" else "INVALID"
    speed = re.search(
        r"^(?:Completed samples per second|Samples per second|QPS w/ loadgen overhead)\s*:\s*"
        r"([\d.eE+]+)$",
        summary,
        re.MULTILINE,
    )
    samples_per_s = float(speed[1]) if speed else None
    return LoadGenRecord(
        scenario=scenario,
        version=version,
        min_duration_s=min_duration_s,
        target_per_s=target_per_s,
        slo_ns=slo_ns,
        result=result,
        recommendations=_recommendations(summary) if result == "INVALID" else (),
        samples_per_s=samples_per_s,
        images_per_s=None if samples_per_s is None else samples_per_s * batch,
        percentiles_ns={
            f"p{percent:g}": int(ns)
            for percent, ns in (
                (float(number), value)
                for number, value in re.findall(
                    r"^([\d.]+) percentile latency \(ns\)\s*:\s*(\d+)$", summary, re.MULTILINE
                )
            )
        },
        queries=queries,
        wrong=wrong,
        summary=summary[:_MOST],
    )


def _recommendations(summary: str) -> tuple[str, ...]:
    """LoadGen's bullets under its verdict, each as one line, without what was satisfied."""
    _, _, text = summary.partition("Recommendations:")
    text, _, _ = text.partition("\n=====")
    bullets = re.split(r"^ \* ", text, flags=re.MULTILINE)[1:]
    lines = [" ".join(bullet.replace("Early Stopping Result:", " ").split()) for bullet in bullets]
    return tuple(line for line in lines if line != "Run unsuccessful.")
