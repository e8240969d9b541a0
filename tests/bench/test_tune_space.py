"""The points of a search: what there is, in which order, and what is refused before it is built."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any, cast, get_args

import pytest

from fakes import here
from fakes.tuned import accuracy
from resnext.errors import MissingRequirement
from resnext.runtimes.registry import ARTIFACT_RUNTIMES
from resnext.verify.accuracy import Accuracy
from resnext.verify.labeled import Labeled
from resnext.weights.spec import Weights, load_weights
from resnext_bench.limits.ceilings import MachineCeilings, ProductCeiling
from resnext_bench.limits.needed import Limits
from resnext_bench.tune import space, workshop
from resnext_bench.tune.board import Board
from resnext_bench.tune.recipes import bench_words, export_record, export_words
from resnext_bench.tune.request import Request, checked_request
from resnext_bench.tune.space import Point, baselines, points, static_refusals
from resnext_export import ExportRequest, options
from resnext_export.cli.options import request_from

HERE = ("ort-cpu", "openvino", "pt2")


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


@pytest.fixture(autouse=True)
def _this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores, with bf16 and without fp16 instructions; everything is installed."""
    monkeypatch.setattr(space, "available", lambda *_: None)
    monkeypatch.setattr(space, "threads_of", lambda count: count or 2)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(
        "resnext.runtimes.openvino.library.fast_types", lambda: frozenset({"FP32", "BF16", "INT8"})
    )


def ceilings(operations_per_s: float) -> Limits:
    """A machine of two threads."""
    product = ProductCeiling(
        precision="fp32", instructions="avx512", operations_per_s=operations_per_s
    )
    machine = MachineCeilings(
        created="2026-11-28T12:00:00+00:00",
        machine="a machine",
        torch="2.11",
        device="cpu",
        threads=2,
        products=(product,),
        copy_bytes_per_s=1e11,
        launch_ns=1000.0,
    )
    return Limits({("cpu", 2): machine})


def request_of(weights: Weights, **asked: Any) -> Request:
    return checked_request(weights, **{"goal": "latency"} | asked)


def test_cheap_builds_come_first_and_a_further_setting_counts_like_a_step(digits: Weights) -> None:
    request = request_of(digits, goal="throughput", precisions=("fp32", "bf16", "int8"))
    found = points(request, HERE)
    assert len({point.name for point in found}) == len(found)
    names = [point.name for point in found]
    costs = [point.build_cost() for point in found]
    assert names[:2] == ["ort-cpu fp32, batch 1", "openvino fp32, batch 1"]
    place = {name: index for index, name in enumerate(names)}
    assert place["ort-cpu fp32, 2 streams, batch 1"] < place["ort-cpu int8, batch 1"]
    assert place["ort-cpu int8, batch 1"] < place["ort-cpu int8 merged auto, batch 1"]
    assert place["ort-cpu int8 merged auto, batch 1"] < place["ort-cpu fp32 merged auto, batch 1"]
    assert place["ort-cpu fp32 merged auto, batch 1"] < place["pt2 fp32, batch 1"]
    assert costs[0] == 0
    assert costs[-1] == max(costs)
    assert "pt2 fp32, 2 streams, batch 1" not in names  # it runs one at a time


VNNI, AMX = frozenset({"avx512_vnni"}), frozenset({"avx512_vnni", "amx_int8"})


def _places(request: Request, features: frozenset[str]) -> dict[str, int]:
    return {point.name: at for at, point in enumerate(points(request, HERE, features=features))}


def test_a_width_that_was_faster_on_such_processors_comes_with_the_plain_network(
    digits: Weights,
) -> None:
    request = request_of(digits, precisions=("fp32", "int8"))
    place = _places(request, VNNI)
    early = place["ort-cpu int8 merged 32, batch 1"]
    assert place["ort-cpu int8, batch 1"] < early < place["openvino int8, batch 1"]
    assert early < place["ort-cpu int8 merged auto, batch 1"]
    place = _places(request, AMX)
    assert place["openvino int8 merged 16, batch 1"] < place["ort-cpu int8 merged auto, batch 1"]
    assert "ort-cpu int8 merged 32, batch 1" not in place  # nothing is known of it there


def test_merges_come_late_where_none_was_faster_and_none_is_left_out(digits: Weights) -> None:
    request = request_of(digits, precisions=("fp32", "int8"))
    usual, place = _places(request, frozenset()), _places(request, VNNI)
    name, other = "openvino int8 merged auto, batch 1", "ort-cpu fp32 merged auto, batch 1"
    assert usual[name] < usual[other]
    assert place[name] > place[other]
    for features in (VNNI, AMX, frozenset({"avx2"})):
        assert usual.keys() <= _places(request, features).keys()
    assert list(_places(request, frozenset({"avx2"}))) == list(usual)


def test_the_board_says_why_a_candidate_is_early_or_late(digits: Weights) -> None:
    request = request_of(digits, precisions=("int8",))
    refusal = static_refusals(request, Limits())
    board = Board(request, refusal, VNNI)
    for point in points(request, HERE, refusal, VNNI):
        board.add(point)
    told = {name: board[name].prior for name in board if board[name].prior}
    assert told == {
        "ort-cpu int8 merged 32, batch 1": "tried early: merging made int8 1.38 times as fast with"
        " 32 channels a group on a 2-core EPYC with AVX-512 VNNI, 2026-11-23",
        "openvino int8 merged auto, batch 1": "tried late: merging made int8 no faster (1.00"
        " with 16, 0.91 with 32, 0.82 with 64 channels a group) on a 2-core EPYC with AVX-512 VNNI,"
        " 2026-11-28",
    }


def test_the_calibration_methods_are_those_of_an_export() -> None:
    assert get_args(options.Method) == space.METHODS


def test_the_defaults_follow_the_goal_and_the_size_of_the_network(digits: Weights) -> None:
    latency, throughput = request_of(digits), request_of(digits, goal="throughput")
    assert (latency.batches, latency.streams) == ((1,), (1,))
    assert (throughput.batches, throughput.streams) == ((1, 8, 64), (1, 2))
    assert [point.name for point in baselines(latency)] == ["torch fp32, batch 1"]
    assert latency.accuracy == "digits"
    assert [gate.name for gate in latency.gates] == ["agreement", "top1-loss"]
    own = request_of(digits, gate="agreement>=0.9,size<=1MB")
    assert [gate.name for gate in own.gates] == ["agreement", "size"]


def test_what_is_known_against_a_point_is_said_before_it_is_built(digits: Weights) -> None:
    request = request_of(digits, calibration="random", slo="p99<=20ms")
    refusal = static_refusals(request, ceilings(1e6))
    told = {
        point.name: found
        for point in points(request, HERE, refusal)
        if (found := refusal(point)) is not None
    }
    for name, outcome, reason in (
        ("ort-cpu bf16, batch 1", "refused", "does not run bf16"),
        ("ort-cpu fp16, batch 1", "refused", "in float32 on an x86 processor"),
        ("openvino fp16, batch 1", "refused", "no fp16 instructions"),
        ("pt2 fp32 merged 32, batch 1", "refused", "pt2 packages keep the groups"),
        ("pt2 int8, batch 1", "refused", "does not run int8"),
        ("ort-cpu fp32, batch 1", "gate", "even at this machine's limit"),
    ):
        assert told[name].outcome == outcome
        assert reason in told[name].reason
    assert "openvino fp8 merged auto, batch 1" not in told  # what is not run is there once
    (gate,) = [each for each in told["ort-cpu fp32, batch 1"].gates if each.name == "p99"]
    assert gate.actual is not None
    assert not gate.passed
    assert static_refusals(request, ceilings(1e13))(Point("ort-cpu")) is None
    assert static_refusals(request, Limits())(Point("openvino", "int8", method="minmax")) is None


def test_without_calibration_images_a_quantized_point_is_refused_with_what_to_do(
    digits: Weights,
) -> None:
    own = replace(digits, source="/somewhere/net.safetensors")
    int8 = Point("openvino", "int8", method="minmax")
    found = static_refusals(request_of(own), Limits())(int8)
    assert found is not None
    assert found.outcome == "refused"
    assert "`calibration`" in found.hint
    missing = static_refusals(request_of(own, calibration="/nowhere"), Limits())(int8)
    assert missing is not None
    assert "/nowhere" in missing.reason


def test_every_point_of_every_runtime_has_commands_or_is_refused(digits: Weights) -> None:
    request = request_of(digits, goal="throughput")  # those for latency are among them
    refusal = static_refusals(request, Limits())
    board = Board(request, refusal)
    for point in points(request, ARTIFACT_RUNTIMES, refusal):
        board.add(point)
    records = board.records().values()
    assert {one.backend for one in records} == set(ARTIFACT_RUNTIMES)
    for one in records:
        refused = refusal(board.points[one.name]) is not None
        assert (bool(one.export_command), bool(one.bench_command)) == (not refused,) * 2, one.name
    # what a package cannot have would be refused by the exporter, too
    assert not board["pt2 fp32 merged 32, batch 1"].export_command
    assert board["pt2 fp32, batch 1"].export_command


POINTS = (
    Point("ort-cpu"),
    Point("ort-cpu", "fp16", merge=32),
    Point("openvino", "int8", "auto", "percentile", batch=8, streams=2),
    Point("pt2", "fp16", batch=8, threads=1),
    Point("trt", "fp8", 32, "minmax", batch=8),
)


@pytest.mark.parametrize("widths", [None, "layer1=16,layer3=32"])
@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_the_commands_of_a_point_are_those_of_its_artifact(
    digits: Weights, point: Point, widths: str | None
) -> None:
    if widths is not None and point.merge != "auto":
        return
    from resnext_bench.cli.bench import main as bench
    from resnext_export.cli.export import main as export

    request = request_of(digits, batch=(1, 8), calibration="random", calibration_images=16)
    _, *words = export_words(point, request, widths)
    assert ("auto" in words) == (point.merge == "auto" and widths is None)
    with export.make_context("resnext-export", list(words)) as context:
        given = dict(context.params)
    for name in ("output", "check", "force", "json_path", "sbom_path", "preprocessing"):
        given.pop(name)
    typed = request_from({k: v for k, v in given.items() if not k.startswith("list_")})
    assert typed.record() == export_record(point, request, widths)
    assert ExportRequest(**export_record(point, request, widths)) == typed
    _, *words = bench_words(point, request)
    with bench.make_context("resnext-bench", list(words)) as context:
        assert context.params["backend"] == (point.backend,)
        assert context.params["batch"] == (point.batch,)
        assert context.params["streams"] == (point.streams,)


@pytest.mark.parametrize(
    ("hint", "kept"),
    [
        ("use `backend` torch, torch-folded", ""),
        ("use `streams` 1, or `backend` ort-cpu, openvino", "use `streams` 1"),
        ("apt-get install g++ (or set CXX), or use `backend` torch", None),
        ("use another machine; to run, use `backend` torch", "use another machine"),
        ("try fewer `batch` sizes, `streams` or `backend`s at once", "all of it"),
        ("take int8", "all of it"),
    ],
)
def test_no_hint_names_another_runtime_since_all_are_tried(
    digits: Weights, hint: str, kept: str | None
) -> None:
    expected = {"all of it": hint, None: "apt-get install g++ (or set CXX)"}.get(kept, kept)
    board = Board(request_of(digits))
    name = board.add(Point("ort-cpu"))
    board.fell(name, workshop.Fall("refused", "planted", hint))
    assert board[name].hint == expected


def test_no_session_is_opened_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    assert workshop.short_of_memory() is None
    monkeypatch.setattr(workshop, "_LEAST_FREE", 1.1)
    found = workshop.short_of_memory()
    assert isinstance(found, MissingRequirement)
    assert "GB of memory are left" in found.message


def test_the_baseline_is_the_reference_and_runs_no_labeled_images(digits: Weights) -> None:
    class Labels:
        ran = 0

        def measure(self, *_: object) -> Accuracy:
            self.ran += 1
            return accuracy(0.9, 1.0)

    labels, request = Labels(), request_of(digits)
    said: list[str] = []
    baseline = Point(space.BASELINE)
    bench = workshop.Bench(request, [baseline], cast(Labeled, labels), here.HERE, said.append)
    with ExitStack() as stack:
        opening = bench.open(baseline, stack)
        proof = bench.prove(baseline, opening, None)
        assert (proof.fall, proof.accuracy, labels.ran) == (None, None, 0)
        bench.prove(Point("ort-cpu"), replace(opening), None)  # another one does
    assert labels.ran == 1
    # the answers of a large network take long: the step is named
    assert "comparing torch fp32, batch 1 with PyTorch in float64" in said
