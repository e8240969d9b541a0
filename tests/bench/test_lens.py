"""Where the time goes: parts of stages, floors, the sum of the layers, and one sentence for each
planted profile.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from exported import derive_onnx, export_onnx
from resnext.artifact.files import Artifact
from resnext.errors import UsageError
from resnext.network.config import VARIANTS
from resnext.network.layers import layers, macs
from resnext.runtimes.registry import RUNTIMES
from resnext.runtimes.session import DeliveredLayer, LayerTime
from resnext.testing.fake_session import FakeSession
from resnext.weights.spec import Weights, load_weights
from resnext_bench.cli import bench as cli
from resnext_bench.lens.look import (
    DISTURBED,
    DISTURBED_CEILINGS,
    NO_SUM,
    disturbance_findings,
    layer_times,
    look,
    sum_findings,
)
from resnext_bench.lens.parts import Part, by_stage, merged_part, parts_of
from resnext_bench.lens.sentences import sentences
from resnext_bench.limits.ceilings import MachineCeilings, ProductCeiling
from resnext_bench.limits.floors import layer_floors
from resnext_bench.measure import Subject
from resnext_export.request import ExportRequest

FIFTY = VARIANTS["resnext50_32x4d"]
#: A machine of round numbers.
CEILINGS = MachineCeilings(
    created="2026-11-27T00:00:00+00:00",
    machine="planted",
    torch="0",
    device="cpu",
    threads=1,
    products=(
        ProductCeiling(precision="fp32", instructions="x", operations_per_s=1e12),
        ProductCeiling(precision="int8", instructions="y", operations_per_s=4e12),
    ),
    copy_bytes_per_s=1e10,
    launch_ns=1.0,
)
CEILING = CEILINGS.ceiling("fp32")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def artifact(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(weights, tmp_path_factory.mktemp("lens") / "artifact", check=False)


def timed(name: str, ns: float, *modules: str, op: str = "", dtype: str = "float32") -> LayerTime:
    op = op or ("Conv" if modules else "Add")
    return LayerTime(DeliveredLayer(name, op, dtype, "cpu", modules), ns, "kernel" * bool(modules))


def parts(*times: LayerTime, precision: str = "fp32", **groups: int) -> tuple[Part, ...]:
    floors = {floor.layer.name: floor for floor in layer_floors(FIFTY, precision, 8, CEILING)}
    merged = {name.replace("_", "."): count for name, count in groups.items()}
    return tuple(parts_of(times, floors, dict.fromkeys(floors, precision), merged))


# ---- from layers to parts


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        # OpenVINO
        ("input_QuantizeLinear_abcd_acdb_conv1/WithoutBiases", "stem"),
        ("node_max_pool2d", "stem"),
        ("layer2.0.conv2/WithoutBiases_acdb_abcd_x", "layer2"),
        ("node_mean", "head"),
        # ONNX Runtime
        ("max_pool2d_nchwc", "stem"),
        ("ReorderInput_token_12", "other"),
        ("node_add_85", "other"),
        # PyTorch
        ("bn1", "stem"),
        ("relu", "stem"),
        ("maxpool", "stem"),
        ("layer3.1.bn1", "layer3"),
        ("layer4", "layer4"),
        ("avgpool", "head"),
        ("ResNeXt", "other"),
    ],
)
def test_a_layer_without_a_module_is_in_the_stage_that_its_name_says(name: str, stage: str) -> None:
    (part,) = parts(timed(name, 5.0))
    assert (part.stage, part.kind, part.channels, part.macs) == (stage, "rest", None, 0)
    assert part.times_floor is None


@pytest.mark.parametrize(
    ("module", "stage", "kind", "channels"),
    [
        ("conv1", "stem", "stem", 3),
        ("layer1.0.conv1", "layer1", "1x1", 64),
        ("layer1.0.conv2", "layer1", "grouped 3x3", 4),
        ("layer4.2.conv2", "layer4", "grouped 3x3", 32),
        ("layer3.0.downsample.0", "layer3", "1x1", 512),
        ("fc", "head", "fc", 2048),
    ],
)
def test_a_layer_with_a_module_has_its_operations_and_floor(
    module: str, stage: str, kind: str, channels: int
) -> None:
    (part,) = parts(timed("a", 7e6, module))
    layer = next(layer for layer in layers(FIFTY) if layer.name == module)
    assert (part.stage, part.kind, part.channels) == (stage, kind, (channels, channels))
    assert part.macs == 8 * layer.macs
    assert part.floor_ns is not None
    assert part.floor_ns >= 2 * part.macs / 1e12 * 1e9
    assert part.times_floor == pytest.approx(7e6 / part.floor_ns)


def test_merged_groups_are_wider_and_compute_the_same() -> None:
    (plain,) = parts(timed("a", 1.0, "layer1.0.conv2"))
    (merged,) = parts(timed("a", 1.0, "layer1.0.conv2"), layer1_0_conv2=4)
    assert (plain.channels, merged.channels) == ((4, 4), (32, 32))
    assert merged == replace(plain, channels=(32, 32))


def test_the_parts_of_a_network_add_up_to_it() -> None:
    times = [timed(layer.name, 1.0, layer.name) for layer in layers(FIFTY)]
    stages = by_stage(parts(*times, timed("node_add", 3.0)))
    assert sum(part.macs for part in stages) == 8 * macs(FIFTY)
    assert sum(part.ns for part in stages) == len(times) + 3
    assert [(part.stage, part.kind) for part in stages] == [
        ("stem", "stem"),
        *((f"layer{n}", kind) for n in range(1, 5) for kind in ("1x1", "grouped 3x3")),
        ("head", "fc"),
        ("other", "rest"),
    ]


def test_a_module_in_two_layers_is_counted_once() -> None:
    both = parts(timed("a", 2.0, "layer1.0.conv2"), timed("b", 1.0, "layer1.0.conv2"))
    assert merged_part(both).macs == merged_part(both[:1]).macs
    assert [part.stage for part in both] == ["layer1", "layer1"]


# ---- sentences


def part(kind: str, ms: float, macs: int, floor_ms: float | None = None, **changes: Any) -> Part:
    """Of a network with 100 multiply-accumulates and about 100 ms."""
    grouped = kind.startswith("grouped")
    planted = Part(
        stage="layer1",
        kind=kind,
        names=("a",),
        channels=None if kind == "rest" else (4, 8) if grouped else (64, 64),
        macs=macs,
        bytes=0,
        ops=(),
        requested="int8",
        actual=("uint8",),
        delivered=True,
        kernels=(),
        ns=ms * 1e6,
        floor_ns=None if floor_ms is None else floor_ms * 1e6,
    )
    return replace(planted, **changes)


POINTWISE = part("1x1", 58, 95, 29)
GROUPED = part("grouped 3x3", 38, 5, 4)
REST = part("rest", 4, 0)
ODD = (
    "The grouped 3x3 convolutions take 38% of the time for 5% of the multiply-accumulates, 9.5"
    " times their floor"
)
MOST = (
    "The 1x1 convolutions take 58% of the time for 95% of the multiply-accumulates, 2.0 times their"
    " floor."
)


@pytest.mark.parametrize(
    ("stages", "mergeable", "expected"),
    [
        (
            (POINTWISE, GROUPED, REST),
            True,
            (f"{ODD}; merging groups (`merge_groups` auto) may help.", MOST),
        ),
        ((POINTWISE, GROUPED, REST), False, (f"{ODD}.", MOST)),
        ((POINTWISE, replace(GROUPED, channels=(32, 32)), REST), True, (f"{ODD}.", MOST)),
        (
            (part("1x1", 92, 95, 23), part("grouped 3x3", 8, 5, 4)),
            True,
            (
                "The 1x1 convolutions take 92% of the time for 95% of the multiply-accumulates, 4.0"
                " times their floor.",
            ),
        ),
        (
            (
                part("1x1", 60, 95, 30),
                part("grouped 3x3", 10, 5, 4),
                part("rest", 10, 0, ops=("Add",)),
                part("rest", 20, 0, ops=("ReorderInput",)),
            ),
            True,
            (
                "The 1x1 convolutions take 60% of the time for 95% of the multiply-accumulates, 2.0"
                " times their floor.",
                "Layers without multiply-accumulates take 30% of the time, most of it in"
                " ReorderInput and Add.",
            ),
        ),
        (
            (part("1x1", 70, 97, 10), part("stem", 30, 3, 2, stage="stem")),
            True,
            (
                "The first convolution takes 30% of the time for 3% of the multiply-accumulates,"
                " 15.0 times its floor.",
                "The 1x1 convolutions take 70% of the time for 97% of the multiply-accumulates, 7.0"
                " times their floor.",
            ),
        ),
        (
            (
                part("1x1", 90, 95, 30),
                part("grouped 3x3", 10, 5, 4, delivered=False, actual=("float32",)),
            ),
            True,
            (
                "10% of the time goes to layers that compute in float32, although int8 was"
                " requested: first of all grouped 3x3 of layer1.",
                "The 1x1 convolutions take 90% of the time for 95% of the multiply-accumulates, 3.0"
                " times their floor.",
            ),
        ),
        (
            (part("1x1", 95, 95, 70), part("grouped 3x3", 5, 5, 5)),
            True,
            (
                "The 1x1 convolutions take 95% of the time for 95% of the multiply-accumulates, 1.4"
                " times their floor.",
                "All layers together take 1.3 times their floor: at this precision and batch,"
                " little can be gained.",
            ),
        ),
    ],
    ids=[
        "narrow groups",
        "cannot be merged",
        "wide groups",
        "in proportion",
        "without operations",
        "the stem",
        "wrong precision",
        "near the floor",
    ],
)
def test_a_planted_profile_has_its_sentences(
    stages: tuple[Part, ...], mergeable: bool, expected: tuple[str, ...]
) -> None:
    assert sentences(stages, mergeable=mergeable) == expected


def test_near_the_floor_is_not_said_of_a_disturbed_machine() -> None:
    stages = (part("1x1", 95, 95, 70), part("grouped 3x3", 5, 5, 5))
    quiet, busy = (sentences(stages, mergeable=True, undisturbed=each) for each in (True, False))
    assert len(quiet) == 2
    assert busy == quiet[:1]


def test_there_are_three_sentences_at_most() -> None:
    stages = (
        part("1x1", 40, 90, 30),
        part("grouped 3x3", 25, 5, 20, delivered=False),
        part("rest", 35, 0, ops=("Add",)),
    )
    assert len(sentences(stages, mergeable=True)) == 3


# ---- the sum of the layers


@pytest.mark.parametrize(
    ("share", "warned"), [(0.79, True), (0.81, False), (1.09, False), (1.11, True)]
)
def test_layers_that_do_not_add_up_to_a_run_are_a_warning(share: float, warned: bool) -> None:
    times = (timed("a", share * 600, "fc"), timed("b", share * 400))
    findings = list(sum_findings(times, (900, 1000, 5000)))
    assert [(finding.code, finding.severity) for finding in findings] == (
        [(NO_SUM, "warning")] if warned else []
    )
    if warned:
        assert f"add up to {share:.0%} of a run" in findings[0].message


def test_what_disturbed_the_layers_or_the_ceilings_is_a_warning() -> None:
    assert list(disturbance_findings((), CEILINGS)) == []
    busy = CEILINGS.model_copy(update={"disturbed": ("steal time (0.4 processors)",)})
    layers_, ceilings = disturbance_findings(("other processes (1.2 processors)",), busy)
    assert (layers_.code, layers_.severity) == (DISTURBED, "warning")
    assert "other processes (1.2 processors)" in layers_.message
    assert (ceilings.code, ceilings.severity) == (DISTURBED_CEILINGS, "warning")
    assert "steal time (0.4 processors)" in ceilings.message


def test_a_process_beside_the_layers_is_noticed(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = SimpleNamespace(disturbances=lambda threads: (f"beside {threads} threads",))
    meter = SimpleNamespace(read=lambda: 0, since=lambda _: load)
    monkeypatch.setattr("resnext_bench.lens.look.Meter", lambda: meter)
    seen = look(weights, "torch-folded", threads=1, ceilings=CEILINGS)
    assert not any("little can be gained" in text for text in seen.sentences)
    assert "beside 1 threads" in next(f for f in seen.findings if f.code == DISTURBED).message


def test_a_run_without_profiling_comes_before_each_profiled_one() -> None:
    order: list[str] = []

    class Ordered(FakeSession):
        def layer_times(self, *arguments: Any) -> Any:
            _, runs, before_each = arguments
            for _ in range(runs):
                before_each()
                order.append("profiled")
            return (timed("a", 1.0, "fc"),)

        def apply(self, images: Any) -> Any:
            order.append("run")
            return super().apply(images)

    session = Ordered()
    inputs = {"input": np.zeros((1, 1), np.float32)}
    times, run_ns = layer_times(Subject(session, inputs, session.bind(inputs)), 4)
    assert order[-8:] == ["run", "profiled"] * 4
    assert (len(times), len(run_ns)) == (1, 4)


def test_runs_of_a_device_are_timed_by_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnext_bench.lens.look.time_device", lambda *_: ([7], 9))
    session = FakeSession()
    session.cuda_stream, session.layers = 4711, (timed("a", 1.0, "fc"),)
    inputs = {"input": np.zeros((1, 1), np.float32)}
    _, run_ns = layer_times(Subject(session, inputs, session.bind(inputs)), 3)
    assert run_ns == (7, 7, 7)


# ---- the whole


TIMED = [name for name, runtime in RUNTIMES.items() if runtime.times_layers]


@pytest.mark.parametrize("backend", [name for name in TIMED if "cpu" in RUNTIMES[name].devices])
def test_every_runtime_that_says_so_times_the_whole_network(
    backend: str, weights: Weights, artifact: Artifact
) -> None:
    subject = weights if RUNTIMES[backend].live else artifact
    seen = look(subject, backend, batch=4, threads=1, ceilings=CEILINGS)
    assert seen.backend == backend.replace("ort-cpu", "ort").replace("ort", "ort-cpu")
    assert sum(part.macs for part in seen.stages) == 4 * macs(weights.config)
    assert sum(part.ns for part in seen.stages) == pytest.approx(seen.layers_ns)
    assert {part.requested for part in seen.stages} <= {"fp32", ""}
    assert all(part.delivered for part in seen.layers)
    assert all((part.floor_ns is None) == (part.kind == "rest") for part in seen.stages)
    assert 1 <= len(seen.sentences) <= 3


def test_a_backend_that_does_not_time_layers_is_refused_before_anything_is_built(
    weights: Weights,
) -> None:
    said: list[str] = []
    for backend in sorted(set(RUNTIMES) - set(TIMED)):
        with pytest.raises(UsageError, match=f"'{backend}' does not report times of layers"):
            look(weights, backend, say=said.append)
    assert said == []


def test_a_quantized_network_with_merged_groups_has_its_widths_and_its_skipped_layers(
    weights: Weights, artifact: Artifact, tmp_path: Path
) -> None:
    request = ExportRequest(precision="int8", runtime="openvino", merge_groups=16)
    int8 = derive_onnx(artifact, weights, tmp_path / "int8", request, check=False)
    seen = look(int8, "openvino", batch=2, threads=1, ceilings=CEILINGS)
    grouped = {part.channels for part in seen.layers if "3x3" in part.kind}
    assert grouped == {(16, 16)}
    requested = {part.kind: part.requested for part in seen.stages}
    assert requested["1x1"] == "int8"
    assert requested["fc"] == ("fp32" if "fc" in int8.manifest.left else "int8")
    assert not any("merging" in text for text in seen.sentences)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnext_bench.lens.look.stored_ceilings", lambda *_: CEILINGS)


def lens(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["lens", *arguments], catch_exceptions=False)


@pytest.mark.usefixtures("limits")
def test_the_command_prints_stages_the_sum_and_sentences(artifact: Artifact) -> None:
    done = lens(str(artifact.directory), "--batch", "2", "--threads", "1")
    assert done.exit_code == 0, done.output
    for text in ("layer1  grouped 3x3", "ort-cpu, batch 2", "layers add up to", "of the time"):
        assert text in done.stdout
    assert "`" not in done.stdout


@pytest.mark.usefixtures("limits")
def test_the_command_prints_every_layer(artifact: Artifact) -> None:
    done = lens(str(artifact.directory), "--backend", "openvino", "--threads", "1", "--layers")
    assert done.exit_code == 0, done.output
    config = artifact.manifest.network
    assert [
        name for name in (layer.name for layer in layers(config)) if name not in done.stdout
    ] == []
    assert "jit_avx" in done.stdout or "brgconv" in done.stdout or "_f32" in done.stdout


@pytest.mark.usefixtures("limits")
def test_json_has_stages_layers_and_runs_alone_on_stdout(weights: Weights) -> None:
    done = lens("--weights", "digits", "--backend", "torch-folded", "--threads", "1", "--json", "-")
    facts = json.loads(done.stdout)
    assert (facts["format_version"], facts["backend"]) == (1, "torch-folded")
    assert sum(part["macs"] for part in facts["layers"]) == macs(weights.config)
    assert len(facts["run_ns"]) == 11
    assert "layer1" in done.stderr
