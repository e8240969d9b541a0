"""Calibration: what ONNX Runtime's calibrators find is noted exactly, kept safely, and never from
bad numbers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exported import export_onnx
from resnext.artifact.files import Artifact
from resnext.errors import BadArtifact, BadInput, MissingRequirement, ResnextError, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.storage import write_cached
from resnext.weights.spec import Weights
from resnext_export.calibration.collect import calibrate
from resnext_export.calibration.images import Source
from resnext_export.calibration.ranges import Method, Ranges, read_ranges
from resnext_export.calibration.reuse import calibrate_or_reuse
from resnext_export.calibration.watch import WatchedSession
from resnext_export.passes.graph import refuse_quantized

METHODS: tuple[Method, ...] = get_args(Method)
SHA = "a" * 64


@pytest.fixture(scope="module")
def images(digits: Weights) -> NDArray[np.float32]:
    return digits.preprocessing.normalize(seeded_pixels(digits.config, 70))


@pytest.fixture(scope="module")
def found(digits_artifact: Artifact, images: NDArray[np.float32]) -> dict[Method, Ranges]:
    return {method: ranges_of(digits_artifact.path, [images], method) for method in METHODS}


def ranges_of(path: Path, images: Any, method: Method = "minmax") -> Ranges:
    return calibrate(path, images, method, source="test images", source_sha256=SHA)


def always_zero(ranges: Ranges) -> list[str]:
    """Dead layers, or a sign that the images were not real."""
    return [name for name, ends in ranges.ranges.items() if not any(ends)]


def small(
    folder: Path, nodes: list[onnx.NodeProto], *, batch: int | str = "batch", **constants: Any
) -> Path:
    """A graph from ``input`` (batch x 4) to ``output``."""
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 4])
        for name in ("input", "output")
    ]
    held = [
        numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "small", sides[:1], sides[1:], held)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(proto, full_check=True)
    path = folder / "small.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def negated(folder: Path) -> Path:
    return small(folder, [helper.make_node("Neg", ["input"], ["output"], "negate")])


def rows(*values: float) -> NDArray[np.float32]:
    """One image for each value; all else is 1."""
    image = np.ones((len(values), 4), np.float32)
    image[:, 2] = values
    return image


def one_line(exc: pytest.ExceptionInfo[ResnextError]) -> str:
    text = str(exc.value)
    assert text
    assert "\n" not in text
    return text


def test_minmax_is_what_every_tensor_really_holds(
    digits_artifact: Artifact, images: NDArray[np.float32], found: dict[Method, Ranges]
) -> None:
    ranges = found["minmax"]
    proto = onnx.load(digits_artifact.path)
    names = [name for node in proto.graph.node for name in node.output if name != "logits"]
    proto.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    held = dict(
        zip(
            (output.name for output in session.get_outputs()),
            session.run(None, {"input": images}),
            strict=True,
        )
    )
    held["input"] = images
    assert ranges.ranges.keys() == held.keys()
    for name, values in held.items():
        np.testing.assert_allclose(
            ranges.ranges[name], (values.min(), values.max()), rtol=1e-4, atol=1e-5
        )
    assert (ranges.images, ranges.method, ranges.source, ranges.source_sha256) == (
        70,
        "minmax",
        "test images",
        SHA,
    )
    assert ranges.onnx_sha256 == digits_artifact.manifest.file_sha256
    assert ranges.weights_sha256 == digits_artifact.manifest.weights.sha256
    assert not always_zero(ranges)


def test_a_histogram_cuts_within_what_is_there(found: dict[Method, Ranges]) -> None:
    whole, ends = found["minmax"].ranges, found["percentile"].ranges
    assert ends.keys() == whole.keys()
    assert all(
        whole[name][0] <= low <= high <= whole[name][1] for name, (low, high) in ends.items()
    )
    assert ends != whole


@pytest.mark.parametrize(("outlier", "wanted"), [(1.0, 1.0), (9.0, 1.0), (-9.0, 1.0)])
def test_percentile_cuts_rare_outliers_near_the_bulk_and_an_even_spread_not_at_all(
    outlier: float, wanted: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One value in 4,000, of which 0.05 % count as rare at each end."""
    monkeypatch.setattr("resnext_export.calibration.collect.PERCENTILE", 99.9)
    values = np.linspace(-1, 1, 4000, dtype=np.float32)
    np.random.default_rng(0).shuffle(values)
    values[0] = outlier
    low, high = ranges_of(negated(tmp_path), [values.reshape(-1, 4)], "percentile").ranges["input"]
    assert (low, high) == pytest.approx((-wanted, wanted), abs=0.01)
    whole = ranges_of(negated(tmp_path), [values.reshape(-1, 4)]).ranges["input"]
    assert max(map(abs, whole)) == pytest.approx(abs(outlier), abs=0.01)


def test_percentile_leaves_an_outlier_out_and_minmax_does_not(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (50_000, 4)).astype(np.float32)
    values[30_001, 1] = 12.0
    path = negated(tmp_path)
    assert ranges_of(path, [values]).ranges["output"][0] == -12
    low, high = ranges_of(path, [values], "percentile").ranges["output"]
    assert -1.01 < low < -0.99
    assert 0.99 < high < 1.01


@pytest.mark.parametrize("method", METHODS)
def test_the_batches_that_images_come_in_do_not_matter(
    method: Method,
    digits_artifact: Artifact,
    images: NDArray[np.float32],
    found: dict[Method, Ranges],
) -> None:
    pieces = [images[:1], images[1:1], images[1:40], images[40:]]
    assert ranges_of(digits_artifact.path, iter(pieces), method) == found[method]


def test_images_are_drawn_while_they_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, seen = 0, []

    def batches() -> Iterator[NDArray[np.float32]]:
        nonlocal drawn
        for _ in range(200):
            drawn += 1
            yield rows(1.0)

    real = WatchedSession.run

    def run(self: Any, names: None, inputs: Any) -> Any:
        seen.append(drawn)
        return real(self, names, inputs)

    monkeypatch.setattr(WatchedSession, "run", run)
    assert ranges_of(negated(tmp_path), batches()).images == 200
    assert seen == [64, 128, 192, 200]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_printed_or_left_beside_the_model(
    method: Method, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = negated(tmp_path)
    tmp_path.chmod(0o555)
    try:
        ranges_of(path, [rows(1, 2, 3)], method)
    finally:
        tmp_path.chmod(0o755)
    assert [file.name for file in tmp_path.iterdir()] == ["small.onnx"]
    assert capfd.readouterr().out == ""


def test_a_tensor_that_is_always_zero_is_reported(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["input", "zero"], ["dead"], "kill"),
        helper.make_node("Exp", ["dead"], ["output"]),
    ]
    path = small(tmp_path, nodes, zero=0.0)
    for method in METHODS:
        ranges = ranges_of(path, [rows(1, 2)], method)
        assert always_zero(ranges) == ["dead"]


def test_half_precision_graphs_are_calibrated_too(
    digits: Weights, found: dict[Method, Ranges], tmp_path: Path
) -> None:
    images = digits.preprocessing.normalize(seeded_pixels(digits.config, 70))
    half = export_onnx(digits, tmp_path / "half", precision="fp16", check=False)
    for method in ("minmax", "percentile"):
        ranges = ranges_of(half.path, [images], method)
        for name in ("relu", "relu_3", "getitem_15"):
            np.testing.assert_allclose(
                ranges.ranges[name], found[method].ranges[name], rtol=0.02, atol=0.02
            )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_with_nan_or_infinity_is_refused(
    method: Method, value: float, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"'input' \(the input\) is NaN .* images 64 to 69;") as exc:
        ranges_of(negated(tmp_path), [rows(*[1.0] * 66, value, *[1.0] * 3)], method)
    one_line(exc)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("operator", ["Sqrt", "Reciprocal"])
def test_an_activation_that_is_nan_or_infinite_is_refused_and_named(
    method: Method, operator: str, tmp_path: Path
) -> None:
    bad = {"Sqrt": -1.0, "Reciprocal": 0.0}[operator]
    nodes = [
        helper.make_node(operator, ["input"], ["inner"], "culprit"),
        helper.make_node("Relu", ["inner"], ["output"]),
    ]
    path = small(tmp_path, nodes)
    with pytest.raises(
        BadInput, match=rf"'inner' \(output of {operator} 'culprit'\) is NaN or infinite"
    ) as exc:
        ranges_of(path, [rows(1, 1, 1, bad)], method)
    one_line(exc)


def test_without_the_watch_nan_would_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small(tmp_path, [helper.make_node("Sqrt", ["input"], ["output"], "culprit")])
    monkeypatch.setattr(np, "isfinite", lambda _: np.True_)
    assert ranges_of(path, [rows(1, 1, 4, -1)]).ranges["output"] == (1.0, 2.0)


def test_large_but_finite_values_are_not_called_infinite(tmp_path: Path) -> None:
    assert ranges_of(negated(tmp_path), [rows(6e4, 6e4, 6e4)]).ranges["output"] == (-6e4, -1)
    half = onnx.load(negated(tmp_path))
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    (tmp_path / "half.onnx").write_bytes(half.SerializeToString())
    assert (
        ranges_of(tmp_path / "half.onnx", [rows(6e4, 6e4, 6e4).astype(np.float16)]).ranges[
            "output"
        ][0]
        < -5.9e4
    )


@pytest.mark.parametrize("nothing", [[], [rows()], iter(())])
def test_no_images_are_refused(nothing: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no images to calibrate .* test images is empty") as exc:
        ranges_of(negated(tmp_path), nothing)
    one_line(exc)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (
            np.ones((2, 5), np.float32),
            r"takes float32 images of shape N x 4; got float32 of shape \(2, 5\)",
        ),
        (np.ones((2, 4, 1), np.float32), r"got float32 of shape \(2, 4, 1\)"),
        (np.ones((2, 4)), r"got float64 of shape"),
        (np.ones((2, 4), np.uint8), r"got uint8 of shape"),
    ],
)
def test_images_of_another_shape_or_type_are_refused(
    batch: NDArray[Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=said) as exc:
        ranges_of(negated(tmp_path), [rows(1), batch])
    one_line(exc)


def test_a_fixed_batch_is_kept_to(static_artifact: Artifact, images: NDArray[np.float32]) -> None:
    assert ranges_of(static_artifact.path, [images[:5], images[5:9]]).images == 9
    with pytest.raises(
        BadInput, match=r"takes batches of 3, and 1 images are left over; give a multiple"
    ):
        ranges_of(static_artifact.path, [images[:10]])


def test_values_that_outgrow_the_first_images_are_refused_by_histograms_alone(
    tmp_path: Path,
) -> None:
    path = negated(tmp_path)
    batches = [rows(*[1.0] * 64), rows(1e6)]
    assert ranges_of(path, batches).ranges["output"] == (-1e6, -1)
    with pytest.raises(
        BadInput, match=r"'input'.* grows to 1e\+06 at image 64 .* shuffle the images"
    ) as exc:
        ranges_of(path, batches, "percentile")
    one_line(exc)
    # Nothing has been seen yet where the first images gave zeros alone.
    late = ranges_of(path, [rows(*[0.0] * 64) * 0, rows(5.0)], "percentile")
    assert late.ranges["output"][0] < -1


@pytest.mark.parametrize("operator", ["QuantizeLinear", "DequantizeLinear", "QLinearConv"])
def test_a_graph_that_is_quantized_already_is_refused(operator: str, tmp_path: Path) -> None:
    proto = onnx.load(negated(tmp_path))
    refuse_quantized(proto, "it")
    proto.graph.node[0].op_type = operator
    with pytest.raises(BadInput, match=rf"it is quantized already \({operator} 'negate'\)") as exc:
        refuse_quantized(proto, "it")
    one_line(exc)


def test_calibration_refuses_a_quantized_file(tmp_path: Path) -> None:
    path = small(
        tmp_path,
        [
            helper.make_node("QuantizeLinear", ["input", "scale"], ["between"], "round"),
            helper.make_node("DequantizeLinear", ["between", "scale"], ["output"]),
        ],
        scale=0.1,
    )
    with pytest.raises(
        BadInput, match=r"small\.onnx is quantized already \(QuantizeLinear 'round'\)"
    ):
        ranges_of(path, [rows(1)])


@pytest.mark.parametrize("content", [b"", b"not ONNX at all", None, "cut"])
def test_a_file_that_is_not_onnx_is_refused(content: bytes | str | None, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    if content == "cut":
        path.write_bytes(negated(tmp_path).read_bytes()[:-20])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(BadInput, match=r"broken\.onnx") as exc:
        ranges_of(path, [rows(1)])
    one_line(exc)


def test_a_graph_with_two_inputs_is_refused(tmp_path: Path) -> None:
    proto = onnx.load(negated(tmp_path))
    proto.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1]))
    path = tmp_path / "two.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(BadInput, match="2 inputs"):
        ranges_of(path, [rows(1)])


def test_a_graph_that_fails_while_it_runs_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["input", "index"], ["inner"]),
        helper.make_node("Neg", ["inner"], ["output"]),
    ]
    proto = onnx.load(small(tmp_path, [helper.make_node("Neg", ["input"], ["output"])]))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([99]), "index"))
    path = tmp_path / "failing.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(BadInput, match="ONNX Runtime fails on image 0") as exc:
        ranges_of(path, [rows(1)])
    one_line(exc)


def test_a_full_temporary_folder_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = negated(tmp_path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MissingRequirement, match="No space left on device; set TMPDIR") as exc:
        ranges_of(path, [rows(1)])
    one_line(exc)


def test_a_digest_that_is_none_is_refused_or_left_out(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="`source_sha256` must be 64 hexadecimal digits, got 'latest'"
    ):
        calibrate(negated(tmp_path), [rows(1)], source="rows", source_sha256="latest")
    proto = onnx.load(negated(tmp_path))
    helper.set_model_props(proto, {"resnext.weights_sha256": "unknown"})
    (tmp_path / "small.onnx").write_bytes(proto.SerializeToString())
    assert ranges_of(tmp_path / "small.onnx", [rows(1)]).weights_sha256 is None


def test_an_unknown_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="unknown calibration method 'entropy'; known: minmax, percentile"
    ):
        ranges_of(negated(tmp_path), [rows(1)], "entropy")  # type: ignore[arg-type]


# The file.


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_read_back_to_the_last_bit(
    method: Method, found: dict[Method, Ranges], tmp_path: Path
) -> None:
    path = tmp_path / "folder" / "ranges.json"
    found[method].write(path)
    assert read_ranges(path) == found[method]
    assert [file.name for file in path.parent.iterdir()] == ["ranges.json"]


def damaged(change: Callable[[dict[str, Any]], None], ranges: Ranges, path: Path) -> Path:
    raw = json.loads(ranges.model_dump_json())
    change(raw)
    write_cached(path, json.dumps(raw).encode())
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw.update(format_version=2), "has format_version 2, this version reads 1"),
        (lambda raw: raw.pop("format_version"), "has format_version None"),
        (lambda raw: raw.update(extra=1), "extra: Extra inputs"),
        (lambda raw: raw.update(images=0), "images: "),
        (lambda raw: raw.update(images="70"), "images: "),
        (lambda raw: raw.update(method="mean"), "method: "),
        (lambda raw: raw.update(onnx_sha256="x"), "onnx_sha256: "),
        (lambda raw: raw.update(ranges={}), "ranges: "),
        (
            lambda raw: raw["ranges"].update(relu=[1.0, 0.0]),
            "'relu' has its low end above its high end",
        ),
        (lambda raw: raw["ranges"].update(relu=["0", "1"]), "ranges.relu"),
        (lambda raw: raw["ranges"].update(relu=[0.0, float("inf")]), "Infinity"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_refused(
    change: Callable[[dict[str, Any]], None], said: str, found: dict[Method, Ranges], tmp_path: Path
) -> None:
    with pytest.raises(BadArtifact, match=said) as exc:
        read_ranges(damaged(change, found["minmax"], tmp_path / "ranges.json"))
    one_line(exc)


@pytest.mark.parametrize("content", [None, b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_calibration_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    if content is not None:
        write_cached(path, content)
    with pytest.raises(BadArtifact, match=r"ranges\.json") as exc:
        read_ranges(path)
    one_line(exc)


def test_a_write_that_fails_leaves_the_old_file(
    found: dict[Method, Ranges], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ranges.json"
    found["minmax"].write(path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MissingRequirement, match="No space left on device"):
        found["percentile"].write(path)
    assert read_ranges(path) == found["minmax"]
    assert [file.name for file in tmp_path.iterdir()] == ["ranges.json"]


# The cache.


def source_of(name: str = "rows", count: int = 3) -> Source:
    return Source.of(name, rows(*range(count)))


def unread(source: Source) -> Source:
    def batches() -> Any:
        raise AssertionError("the images were opened again")

    return Source(source.name, source.sha256, source.images, batches)


def test_the_second_call_reuses_what_the_first_found(tmp_path: Path) -> None:
    path, cache = negated(tmp_path), tmp_path / "cache"
    first = calibrate_or_reuse(path, source_of(), "minmax", cache)
    assert calibrate_or_reuse(path, unread(source_of()), "minmax", cache) == first
    assert first.ranges["input"] == (0, 2)


def test_another_method_file_source_or_version_is_calibrated_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = negated(tmp_path), tmp_path / "cache"
    calibrate_or_reuse(path, source_of(), "minmax", cache)
    assert calibrate_or_reuse(path, source_of(), "percentile", cache).method == "percentile"
    assert calibrate_or_reuse(path, source_of(count=5), "minmax", cache).images == 5
    other = small(tmp_path, [helper.make_node("Abs", ["input"], ["output"])])
    assert calibrate_or_reuse(other, source_of(), "minmax", cache).ranges["output"] == (0, 2)
    monkeypatch.setattr("onnxruntime.__version__", "0.0")
    assert calibrate_or_reuse(other, source_of(), "minmax", cache).onnxruntime == "0.0"


def test_a_digit_of_a_range_that_changed_on_disk_is_never_used(tmp_path: Path) -> None:
    path, cache = negated(tmp_path), tmp_path / "cache"
    first = calibrate_or_reuse(path, source_of(), "minmax", cache)
    (entry,) = cache.rglob("*.json")
    stored = entry.read_bytes()
    assert stored.count(b"2.0") == 2
    entry.write_bytes(stored.replace(b"2.0", b"3.0"))
    assert calibrate_or_reuse(path, source_of(), "minmax", cache) == first


@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_a_damaged_entry_is_made_again(damage: bytes | None, tmp_path: Path) -> None:
    path, cache = negated(tmp_path), tmp_path / "cache"
    first = calibrate_or_reuse(path, source_of(), "minmax", cache)
    (entry,) = cache.rglob("*.json")
    if damage is None:
        entry.unlink()
    else:
        entry.write_bytes(damage)
    assert calibrate_or_reuse(path, source_of(), "minmax", cache) == first
    assert read_ranges(entry) == first


def test_a_source_that_holds_more_than_it_says_is_refused_and_not_kept(tmp_path: Path) -> None:
    source = source_of()
    wrong = Source(source.name, source.sha256, 4, source.batches)
    with pytest.raises(BadInput, match="rows yielded 3 images instead of 4"):
        calibrate_or_reuse(negated(tmp_path), wrong, "minmax", tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("*.json")) == []


def test_two_processes_at_a_time_calibrate_once(tmp_path: Path) -> None:
    script = (
        "import sys, time, numpy as np; from pathlib import Path\nfrom"
        " resnext_export.calibration.images import Source\nfrom"
        " resnext_export.calibration.reuse import calibrate_or_reuse\nopened = []\ndef"
        " batches():\n    opened.append(1); time.sleep(1); return [np.ones((3, 4),"
        " np.float32)]\ncalibrate_or_reuse(Path(sys.argv[1]), Source('ones', 'a' * 64, 3, batches),"
        " 'minmax', Path(sys.argv[2]))\nprint(len(opened))\n"
    )
    command = [sys.executable, "-c", script, str(negated(tmp_path)), str(tmp_path / "cache")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(child.communicate(timeout=120)[0].strip() for child in children)
    assert said == ["0", "1"]


def test_a_cache_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MissingRequirement, match="RESNEXT_CACHE_DIR") as exc:
        calibrate_or_reuse(negated(tmp_path), source_of(), "minmax", tmp_path / "file" / "cache")
    one_line(exc)


def test_digests_tell_sources_apart() -> None:
    images = rows(1, 2, 3)
    assert Source.of("a", images).sha256 == Source.of("b", images.copy()).sha256
    for other in (images[::-1], images.reshape(3, 2, 2), images.astype(np.float64), images[:2]):
        assert Source.of("a", other).sha256 != Source.of("a", images).sha256


@pytest.mark.parametrize("baked", [False, True])
def test_an_image_source_is_read_as_the_graph_takes_it(
    baked: bool, digits: Weights, tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    from resnext.images.sources import image_source

    chosen = image_source("digits", digits.preprocessing, split="calibration", limit=40)
    source = Source.of_images(chosen, baked=baked)
    artifact = export_onnx(digits, tmp_path / "artifact", bake_preprocessing=baked, check=False)
    ranges = calibrate_or_reuse(artifact.path, source, "minmax", tmp_path / "cache")
    assert (ranges.images, ranges.source, ranges.source_sha256) == (40, chosen.name, chosen.digest)
    images = digits.preprocessing.normalize(chosen.pixels(0, 40))
    first = next(
        node.input[0] for node in onnx.load(artifact.path).graph.node if node.op_type == "Conv"
    )
    np.testing.assert_allclose(ranges.ranges[first], (images.min(), images.max()), rtol=1e-5)
