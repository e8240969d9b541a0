"""Where the library has no kernel for half-precision grouped convolutions: what is done, in what
order, and proven.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from exported import export_engine
from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import EngineOptions, Fallback
from resnext.errors import EngineRefused, GateFailed, NoKernel, UsageError
from resnext.machine.cuda_driver import Driver, Gpu
from resnext.runtimes.delivered import delivered_from_engine
from resnext.runtimes.trt.library import Library, TensorRTRTX
from resnext.runtimes.trt.log import Log, captured
from resnext.verify.delivered import undelivered
from resnext.weights.spec import Weights
from resnext_export.cli.export import main
from resnext_export.passes.base import PassResult, run_pass
from resnext_export.passes.merge_groups import MergeGroups
from resnext_export.tensorrt import engine_from_onnx
from resnext_export.tensorrt.engine_from_onnx import BuiltEngine
from resnext_export.tensorrt.fallbacks import build_with_fallbacks

BOTH: tuple[Fallback, ...] = ("merge-groups", "fp32-islands")
GROUPED = ("layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2")  # 8 groups of 4, 8 and 16 channels
OPTIONS = EngineOptions(profiles=(BatchRange.parse("1:8:64"),))
ENGINE = BuiltEngine(b"engine", (), "nothing", (), 0.1)


def group_of(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


@dataclass
class Convolution:
    groups: int
    width: int
    half: bool


def convolutions(proto: onnx.ModelProto) -> dict[str, Convolution]:
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    found = {}
    for node in proto.graph.node:
        if node.op_type == "Conv":
            weight = tensors[node.input[1]]
            half = weight.data_type == onnx.TensorProto.FLOAT16
            found[node.name] = Convolution(group_of(node), weight.dims[1], half)
    return found


@dataclass
class Builder:
    """Builds nothing, and refuses on request; ``seen`` collects its graphs."""

    refuses: Callable[[dict[str, Convolution]], tuple[str, ...]]
    error: type[EngineRefused] = NoKernel
    seen: list[dict[str, Convolution]] = field(default_factory=list)

    def __call__(self, source: bytes) -> BuiltEngine:
        proto = onnx.load_from_string(source)
        self.seen.append(convolutions(proto))
        if names := self.refuses(self.seen[-1]):
            raise self.error(f"no kernel for {', '.join(names)}", names)
        return ENGINE


def narrow(convs: dict[str, Convolution]) -> tuple[str, ...]:
    """All at a time, as long as they are in half precision and have less than 32 channels a
    group.
    """
    return tuple(
        name for name, conv in convs.items() if conv.half and conv.groups > 1 and conv.width < 32
    )


def stubborn(*names: str) -> Callable[[dict[str, Convolution]], tuple[str, ...]]:
    """One at a time, as long as it is in half precision."""
    return lambda convs: tuple(name for name in names if convs[name].half)[:1]


# ---- the order of things


def test_a_graph_that_builds_is_left_alone(fp16_artifact: Artifact) -> None:
    build = Builder(lambda _: ())
    tried = build_with_fallbacks(fp16_artifact.path.read_bytes(), build, BOTH)
    assert (tried.done, tried.changed, len(build.seen)) == ((), None, 1)


def test_groups_are_merged_first_and_the_engine_stays_in_half_precision(
    fp16_artifact: Artifact,
) -> None:
    build = Builder(narrow)
    tried = build_with_fallbacks(fp16_artifact.path.read_bytes(), build, BOTH)
    assert tried.engine is ENGINE
    assert tried.done == (f"merge-groups: to 32 channels a group in {', '.join(GROUPED)}",)
    assert tried.changed is not None
    assert convolutions(tried.changed) == build.seen[-1]
    assert [build.seen[-1][name].groups for name in GROUPED] == [1, 2, 4]
    assert all(conv.half for conv in build.seen[-1].values())
    assert len(build.seen) == 2


def test_what_is_still_refused_after_merging_gets_float32_one_by_one(
    fp16_artifact: Artifact,
) -> None:
    # layer1.0.conv2 has one group after the merge; it was grouped and is refused all the same.
    build = Builder(
        lambda convs: narrow(convs) or stubborn("layer3.0.conv2", "layer1.0.conv2")(convs)
    )
    tried = build_with_fallbacks(fp16_artifact.path.read_bytes(), build, BOTH)
    assert tried.done[0].startswith("merge-groups: ")
    assert tried.done[1] == "fp32-islands: float32 in layer3.0.conv2, layer1.0.conv2"
    assert {name for name, conv in build.seen[-1].items() if not conv.half} == {
        "layer1.0.conv2",
        "layer3.0.conv2",
    }
    assert [build.seen[-1][name].groups for name in GROUPED] == [1, 2, 4]
    assert len(build.seen) == 4


def test_islands_alone_leave_the_groups_as_they_were(fp16_artifact: Artifact) -> None:
    build = Builder(stubborn(*GROUPED))
    tried = build_with_fallbacks(fp16_artifact.path.read_bytes(), build, ("fp32-islands",))
    assert tried.done == (
        "fp32-islands: float32 in layer1.0.conv2, layer2.0.conv2, layer3.0.conv2",
    )
    assert [build.seen[-1][name].groups for name in GROUPED] == [8, 8, 8]


def test_islands_first_where_they_are_asked_for_first(fp16_artifact: Artifact) -> None:
    build = Builder(lambda convs: tuple(name for name in GROUPED if convs[name].width < 32))
    tried = build_with_fallbacks(
        fp16_artifact.path.read_bytes(), build, ("fp32-islands", "merge-groups")
    )
    assert [done.partition(":")[0] for done in tried.done] == ["fp32-islands", "merge-groups"]


def test_groups_that_are_wide_already_are_not_built_again(
    fp16_artifact: Artifact, tmp_path: Path
) -> None:
    wide = run_pass(MergeGroups(32), onnx.load(str(fp16_artifact.path))).proto
    onnx.save(wide, str(tmp_path / "wide.onnx"))
    build = Builder(stubborn("layer3.0.conv2"))
    tried = build_with_fallbacks((tmp_path / "wide.onnx").read_bytes(), build, BOTH)
    assert tried.done == ("fp32-islands: float32 in layer3.0.conv2",)
    assert len(build.seen) == 2


# ---- when it does not help


@pytest.mark.parametrize(
    ("allowed", "builds", "tried", "fix"),
    [
        ((), 1, "no fallback was tried", "allow another one with `fallbacks`"),
        (
            ("merge-groups",),
            2,
            "tried merge-groups: to 32 channels",
            "allow another one with `fallbacks`",
        ),
        (BOTH, 3, "fp32-islands: float32 in layer1.0.conv2", "use `precision` fp32 or TensorRT 10"),
    ],
)
def test_a_refusal_that_stays_says_what_was_tried_and_what_to_do(
    allowed: tuple[Fallback, ...], builds: int, tried: str, fix: str, fp16_artifact: Artifact
) -> None:
    build = Builder(lambda _: ("layer1.0.conv2",))  # whatever its precision
    with pytest.raises(EngineRefused) as caught:
        build_with_fallbacks(fp16_artifact.path.read_bytes(), build, allowed)
    said = str(caught.value)
    assert said.startswith("no kernel for layer1.0.conv2; ")
    assert "these half-precision grouped convolutions have no kernel: layer1.0.conv2;" in said
    assert tried in said
    assert said.endswith(fix)
    assert caught.value.nodes == ("layer1.0.conv2",)
    assert len(build.seen) == builds


def test_a_changed_graph_that_is_refused_for_another_reason_blames_no_convolution(
    fp16_artifact: Artifact,
) -> None:
    exported = fp16_artifact.path.read_bytes()

    def build(source: bytes) -> BuiltEngine:
        if source != exported:
            raise EngineRefused("out of memory", ())
        raise NoKernel("no kernel for layer1.0.conv2", ("layer1.0.conv2",))

    with pytest.raises(
        EngineRefused, match=r"^out of memory; tried merge-groups: .*; use `precision` fp32"
    ) as caught:
        build_with_fallbacks(fp16_artifact.path.read_bytes(), build, BOTH)
    assert "have no kernel" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "nodes"),
    [
        (NoKernel, ("layer1.0.conv1",)),  # not grouped
        (NoKernel, ("fc", "node_relu")),
        (
            EngineRefused,
            ("layer1.0.conv2",),
        ),  # the parser: grouped, but a kernel is not what it lacks
        (EngineRefused, ()),
    ],
)
def test_a_refusal_that_no_fallback_is_for_passes_untouched(
    error: type[EngineRefused], nodes: tuple[str, ...], fp16_artifact: Artifact
) -> None:
    refusal, calls = error("planted", nodes), []

    def build(source: bytes) -> BuiltEngine:
        calls.append(source)
        raise refusal

    with pytest.raises(EngineRefused) as caught:
        build_with_fallbacks(fp16_artifact.path.read_bytes(), build, BOTH)
    assert caught.value is refusal
    assert calls == [fp16_artifact.path.read_bytes()]


def test_a_float32_convolution_is_no_case_for_a_fallback(digits_artifact: Artifact) -> None:
    with pytest.raises(NoKernel, match=r"^no kernel for layer1.0.conv2$"):
        build_with_fallbacks(
            digits_artifact.path.read_bytes(), Builder(lambda _: ("layer1.0.conv2",)), BOTH
        )


#: What TensorRT 11.2 says (NVIDIA/TensorRT#4838).
REFUSAL = (
    (
        "No low-precision conv kernel available for this strongly-typed Conv/ConvTranspose."
        " Consider keeping Conv/ConvTranspose in FP32 (op_block_list=['Conv']). Failing node: {}"
    ),
    (
        "IBuilder::buildSerializedNetworkToStream: Error Code 10: Internal Error (Could not find"
        " any implementation for node {}. In computeCosts at"
        " /_src/optimizer/common/tactic/optimizer.cpp:4211)"
    ),
)


# ---- the whole way, through the real parser and builder


class Refusing:
    """The real library, except that its builder refuses networks as TensorRT 11 does."""

    def __init__(self, trt: Any, refuses: Callable[[Any, Any], str | None]) -> None:
        self._trt, self._refuses = trt, refuses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trt, name)

    def Builder(self, logger: Any) -> Any:  # noqa: N802  # the library's name
        real, trt, refuses = self._trt.Builder(logger), self._trt, self._refuses

        class Half:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def build_serialized_network(self, network: Any, config: Any) -> Any:
                name = refuses(trt, network)
                if name is None:
                    return real.build_serialized_network(network, config)
                severity = trt.ILogger.Severity.ERROR
                for line in REFUSAL:
                    logger.log(severity, line.format(name))
                return None

        return Half()


def layers_of(trt: Any, network: Any) -> Iterator[tuple[str, int, int, Any]]:
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.CONVOLUTION:
            name, channels, half = (
                layer.name,
                layer.get_input(0).shape[1],
                layer.get_input(0).dtype == trt.float16,
            )
            layer.__class__ = trt.IConvolutionLayer
            yield name, layer.num_groups, channels // layer.num_groups, half


def first_narrow(trt: Any, network: Any) -> str | None:
    found = (
        name
        for name, groups, width, half in layers_of(trt, network)
        if half and groups > 1 and width < 32
    )
    return next(found, None)


def first_grouped(trt: Any, network: Any) -> str | None:
    return next(
        (name for name, groups, _, half in layers_of(trt, network) if half and groups > 1), None
    )


@pytest.fixture
def refuse(
    rtx: Library, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Any, Any], str | None]], None]:
    real = rtx.load()

    def plant(rule: Callable[[Any, Any], str | None]) -> None:
        monkeypatch.setattr(TensorRTRTX, "load", lambda _: Refusing(real, rule))

    return plant


def test_an_engine_of_merged_groups_is_built_proven_and_says_so(
    fp16_artifact: Artifact, digits: Weights, refuse: Any, tmp_path: Path
) -> None:
    refuse(first_narrow)
    export_engine(fp16_artifact, digits, tmp_path / "e", kind="trt-rtx", options=OPTIONS)
    record = read_artifact(tmp_path / "e").manifest.engine
    assert record is not None
    assert record.done == (f"merge-groups: to 32 channels a group in {', '.join(GROUPED)}",)
    assert undelivered(delivered_from_engine(record.layers, ""), digits.config, "float16") == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e"]


def test_an_engine_with_islands_says_so_wherever_it_is_described(
    fp16_artifact: Artifact, refuse: Any, tmp_path: Path
) -> None:
    refuse(first_grouped)
    output = str(tmp_path / "e")
    arguments = [
        "--format",
        "trt-rtx",
        "--onnx",
        str(fp16_artifact.directory),
        "--on-refusal",
        "fp32-islands",
    ]
    result = CliRunner().invoke(main, [*arguments, "--output", output])
    assert result.exit_code == 0, result.output
    record = read_artifact(tmp_path / "e").manifest.engine
    assert record is not None
    assert record.done == (f"fp32-islands: float32 in {', '.join(GROUPED)}",)
    assert f"fallback  {record.done[0]}\n" in result.stdout
    # What the library makes of an island is its own affair: TensorRT-RTX 1.7 undoes it, for the
    # data are fp16 already.
    cast = {f"{name}.to_fp32" for name in GROUPED}
    assert cast <= {node for layer in record.layers for node in layer.nodes}
    assert f"fallback   {record.done[0]}\n" in CliRunner().invoke(main, ["inspect", output]).stdout


def test_fail_means_fail(fp16_artifact: Artifact, refuse: Any, tmp_path: Path) -> None:
    refuse(first_grouped)
    arguments = [
        "--format",
        "trt-rtx",
        "--onnx",
        str(fp16_artifact.directory),
        "--on-refusal",
        "fail",
    ]
    result = CliRunner().invoke(main, [*arguments, "--output", str(tmp_path / "e")])
    assert result.exit_code == 4
    (line,) = result.stderr.splitlines()
    assert "Failing node: layer1.0.conv2" in line
    assert "no fallback was tried; allow another one with --on-refusal" in line
    assert list(tmp_path.iterdir()) == []


def wrong_merge(self: MergeGroups, proto: onnx.ModelProto) -> PassResult:
    """One filter of a merged convolution looks at the group beside its own."""
    result = merge(self, proto)
    merged, names = result.proto, result.changed
    conv = next(node for node in merged.graph.node if node.name == names[-1])
    weight = next(tensor for tensor in merged.graph.initializer if tensor.name == conv.input[1])
    values = np.array(numpy_helper.to_array(weight))
    values[0] = np.roll(values[0], 16, axis=0)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return result


merge = MergeGroups.apply


def test_a_merge_that_changes_the_function_is_caught_before_anything_is_written(
    fp16_artifact: Artifact,
    digits: Weights,
    refuse: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse(first_narrow)
    monkeypatch.setattr(MergeGroups, "apply", wrong_merge)
    with pytest.raises(GateFailed, match="the merged graph is not the same function"):
        export_engine(fp16_artifact, digits, tmp_path / "e", kind="trt-rtx", options=OPTIONS)
    monkeypatch.setattr(MergeGroups, "ensures", lambda *_: 0.0)
    with pytest.raises(GateFailed, match="does not compute what PyTorch computes"):
        export_engine(fp16_artifact, digits, tmp_path / "e", kind="trt-rtx", options=OPTIONS)
    assert list(tmp_path.iterdir()) == []
    export_engine(
        fp16_artifact, digits, tmp_path / "e", kind="trt-rtx", options=OPTIONS, check=False
    )


def test_stripped_weights_and_a_changed_graph_do_not_go_together(
    fp16_artifact: Artifact,
    digits: Weights,
    refuse: Any,
    tmp_path: Path,
    plant_driver: Callable[[Driver], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant_driver(Driver(None, 1, "13.0", (Gpu("NVIDIA L4", "8.9"),)))
    refuse(first_narrow)
    real = engine_from_onnx._configured

    def keep_weights(
        trt: Any, builder: Any, library: Any, options: EngineOptions, shapes: Any
    ) -> Any:
        return real(
            trt, builder, library, options.model_copy(update={"strip_weights": False}), shapes
        )

    monkeypatch.setattr(
        engine_from_onnx, "_configured", keep_weights
    )  # refitting needs a real driver
    asked = OPTIONS.model_copy(update={"strip_weights": True})
    with pytest.raises(
        UsageError,
        match="`strip_weights` needs a graph as exported, and it had to be changed: merge",
    ):
        export_engine(fp16_artifact, digits, tmp_path / "e", kind="trt-rtx", options=asked)
    assert list(tmp_path.iterdir()) == []


# ---- whom the log blames


@pytest.fixture(scope="module")
def parsed(rtx: Library, fp16_artifact: Artifact) -> Iterator[tuple[Any, Any]]:
    trt = rtx.load()
    with captured(trt) as (logger, _):
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        assert parser.parse_from_file(str(fp16_artifact.path))
    yield trt, network
    del network, parser, builder


@pytest.mark.parametrize(
    "line",
    [REFUSAL[1], "Error Code 10: Internal Error (Could not find any implementation for node {}.)"],
)
@pytest.mark.parametrize(
    ("node", "blamed"),
    [
        ("layer1.0.conv2", ("layer1.0.conv2",)),
        ("layer1.0.conv3 + node_relu_3", ("layer1.0.conv3", "node_relu_3")),
        ("PWN(node_relu_2, layer1.0.conv2)", ("layer1.0.conv2", "node_relu_2")),
        ("{ForeignNode[layer2.0.conv2]}", ("layer2.0.conv2",)),
        ("{ForeignNode[layer1.0.conv2...layer1.0.conv3]}", ("layer1.0.conv2", "layer1.0.conv3")),
        # Grouped convolutions between the first and the last are suspects, and of the others the
        # ends alone.
        (
            "{ForeignNode[conv1...layer2.0.conv3]}",
            ("conv1", "layer1.0.conv2", "layer2.0.conv2", "layer2.0.conv3"),
        ),
        (
            "{ForeignNode[layer1.0.conv1 + node_relu_1...node_relu_2]}",
            ("layer1.0.conv1", "node_relu_1", "layer1.0.conv2", "node_relu_2"),
        ),
        ("{ForeignNode[node_relu...node_relu_1]}", ("node_relu", "node_relu_1")),
        # An end that the library added itself leaves its side open.
        (
            "{ForeignNode[ONNXTRT_castHelper...layer2.0.conv1]}",
            ("layer1.0.conv2", "layer2.0.conv1"),
        ),
        (
            "{ForeignNode[layer2.0.conv3...(Unnamed Layer* 39) [Shuffle]]}",
            ("layer2.0.conv3", "layer3.0.conv2"),
        ),
        ("{ForeignNode[ONNXTRT_castHelper...ONNXTRT_castHelper_307]}", GROUPED),
        # Parts of longer names are other layers.
        ("layer1.0.conv2.weight", ()),
        ("backbone/layer1.0.conv2", ()),
        ("my.layer1.0.conv2", ()),
        ("layer1.0.conv2/Conv", ()),
        ("layer1.0.conv2_quant", ()),
    ],
)
def test_the_layers_in_a_refusal_are_found(
    line: str, node: str, blamed: tuple[str, ...], parsed: Any
) -> None:
    trt, network = parsed
    log = Log()
    log.errors.append(line.format(node))
    found = engine_from_onnx._refused(trt, log, network)
    assert sorted(found) == sorted(blamed)
    names = [network.get_layer(index).name for index in range(network.num_layers)]
    assert list(found) == sorted(found, key=names.index)


def test_advice_in_a_refusal_is_not_taken_for_names(parsed: Any) -> None:
    trt, network = parsed
    log = Log()
    log.errors += [
        "No low-precision conv kernel available for this strongly-typed Conv/ConvTranspose."
        " Consider keeping conv1 in FP32 (op_block_list=['fc']). Failing node: layer3.0.conv2"
    ]
    assert engine_from_onnx._refused(trt, log, network) == ("layer3.0.conv2",)


@pytest.mark.parametrize(
    "line",
    [
        "Error Code 2: OutOfMemory (requested 8 GiB while compiling layer1.0.conv2)",
        (
            "Error Code 4: API Usage Error (layer1.0.conv2: IConvolutionLayer `input` and `kernel`"
            " must be of same type.)"
        ),
    ],
)
def test_other_errors_blame_no_layer_for_want_of_a_kernel(line: str, parsed: Any) -> None:
    trt, network = parsed
    log = Log()
    log.errors.append(line)
    assert engine_from_onnx._refused(trt, log, network) == ()
