"""Batch integrity: each fault is planted into a session or a graph, and named; sound ones pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from check_speed import CHECK_IMAGES
from exported import derive_onnx, export_onnx, relabeled
from fakes.package import FakeLoader, fake_package
from resnext import batch_integrity, open_session
from resnext.artifact.files import Artifact, read_artifact, seal
from resnext.artifact.manifest import Manifest
from resnext.artifact.specs import BatchRange
from resnext.cli.batch_integrity import table
from resnext.cli.parity import main
from resnext.errors import BadArtifact, BadInput, GateFailed, SessionFailed, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.precision import NUMERICS
from resnext.readers.files import file_sha256
from resnext.runtimes.ort.session import OrtSession
from resnext.runtimes.session import Arrays, Bound
from resnext.testing import FakeBound, FakeSession
from resnext.verify.batches.integrity import (
    SIZES,
    integrity_beside_parity,
    session_integrity,
    timed_batch_integrity,
    visited,
)
from resnext.verify.batches.laws import LAWS, Integrity
from resnext.verify.check import batched, whole
from resnext.weights.spec import Weights, load_model, load_weights
from resnext_export import ExportRequest
from resnext_export.proof import expect, prove

Logits = NDArray[Any]
Function = Callable[[NDArray[Any]], Logits]

EARLIER = Path(__file__).parents[1] / "data" / "earlier_artifacts"
IMAGES = np.random.default_rng(0).standard_normal((13, 6)).astype(np.float32)
_WEIGHTS = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)


def network(images: NDArray[Any]) -> Logits:
    """A sound network: the sum of each row's features, weighted."""
    return np.asarray((images[:, :, None] * _WEIGHTS).sum(axis=1), np.float32)


def broken(result: Integrity) -> set[str]:
    return {law.law for law in result.laws if law.failure}


def examine(function: Function, *, numerics: str = "fp32", **settings: Any) -> Integrity:
    settings = {"ranges": (BatchRange.parse("1:8:64"),), **settings}
    session = FakeSession(function, in_shape=(6,), classes=5, batch_ranges=settings["ranges"] or ())
    return session_integrity(session, IMAGES, numerics=numerics, **settings)


# Faults in a session.


def kernel_by_batch_size(logits: Logits) -> Logits:
    """A kernel for more than eight rows that is off by 0.01 %."""
    return logits * np.float32(1.0001) if len(logits) > 8 else logits


def leak(share: float) -> Callable[[Logits], Logits]:
    """Some of the row above is added to each row."""

    def leaking(logits: Logits) -> Logits:
        return np.asarray(logits + np.roll(logits, 1, axis=0) * share, np.float32)

    return leaking


def last_rows_swapped(logits: Logits) -> Logits:
    """The last two rows change places, from eight rows on."""
    order = np.arange(len(logits))
    if len(order) > 7:
        order[-2:] = order[-2:][::-1]
    return logits[order]


def first_row_copied_over_the_last(logits: Logits) -> Logits:
    """From eight rows on."""
    return np.concatenate([logits[:-1], logits[:1]]) if len(logits) > 7 else logits


def second_row_takes_the_first(logits: Logits) -> Logits:
    """From seventeen rows on."""
    if len(logits) > 16:
        logits[1] = logits[0]
    return logits


def rows_reversed(logits: Logits) -> Logits:
    """From eight rows on."""
    return logits[::-1] if len(logits) > 7 else logits


def batch_mean_subtracted(logits: Logits) -> Logits:
    """From nine rows on."""
    return logits - logits.mean(axis=0) if len(logits) > 8 else logits


def reshape_for_seven_rows(logits: Logits) -> Logits:
    """Fails for more."""
    return logits if len(logits) <= 7 else logits.reshape(7, 5)


def wrong_at_the_upper_end(logits: Logits) -> Logits:
    """At 64, the end of the range."""
    return logits * np.float32(1.01) if len(logits) == 64 else logits


def nan_in_the_last_row(logits: Logits) -> Logits:
    """From three rows on."""
    if len(logits) > 2:
        logits[-1, 0] = np.nan
    return logits


def scaled_by_place(logits: Logits) -> Logits:
    """Each row is off by a little more than the one before."""
    place = np.arange(len(logits), dtype=np.float32)[:, None]
    return np.asarray(logits * (1 + 1e-4 * place), np.float32)


def empty_row_leaks(logits: Logits) -> Logits:
    """A row of zeros changes all."""
    return logits + np.float32(1e-4) * (~logits.any(axis=1)).any()


def noisy() -> Callable[[Logits], Logits]:
    """Noise of 1e-5, different in each run."""
    random = np.random.default_rng(2)

    def with_noise(logits: Logits) -> Logits:
        rms = np.sqrt(np.mean(logits**2))
        return np.asarray(logits + 1e-5 * rms * random.standard_normal(logits.shape), np.float32)

    return with_noise


def stale_tail() -> Callable[[Logits], Logits]:
    """A buffer of which only the first four rows are written if the batch before was larger."""
    before = [np.zeros((0, 5), np.float32)]

    def with_buffer(logits: Logits) -> Logits:
        result = logits.copy()
        if len(before[0]) > len(logits):
            result[4:] = before[0][4 : len(logits)]
            result[0] = before[0][0] if len(logits) == 1 else result[0]
        before[0] = logits
        return result

    return with_buffer


FAULTS: dict[str, tuple[Callable[[], Callable[[Logits], Logits]], str, str]] = {
    # fault, precision, law that names it
    "kernel": (lambda: kernel_by_batch_size, "fp32", "size"),
    "leak": (lambda: leak(3e-5), "fp32", "neighbor"),
    "leak in bf16": (lambda: leak(1e-2), "bf16", "neighbor"),
    "leak in int8": (lambda: leak(1e-2), "int8", "neighbor"),
    "stale": (stale_tail, "fp32", "stale"),
    "swapped": (lambda: last_rows_swapped, "fp32", "size"),
    "swapped in bf16": (lambda: last_rows_swapped, "bf16", "permuted"),
    "copied": (lambda: first_row_copied_over_the_last, "int8", "size"),
    "second": (lambda: second_row_takes_the_first, "bf16", "size"),
    "reversed": (lambda: rows_reversed, "fp16", "permuted"),
    "mean": (lambda: batch_mean_subtracted, "fp32", "neighbor"),
    "reshape": (lambda: reshape_for_seven_rows, "fp32", "range"),
    "end": (lambda: wrong_at_the_upper_end, "fp32", "size"),
    "nan": (lambda: nan_in_the_last_row, "fp32", "finite"),
    "noise": (noisy, "fp32", "repeat"),
    "place": (lambda: scaled_by_place, "fp32", "identical"),
    "empty row": (lambda: empty_row_leaks, "bf16", "padding"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_session_is_named(name: str) -> None:
    make, numerics, law = FAULTS[name]
    fault = make()
    result = examine(lambda images: fault(network(images)), numerics=numerics)
    assert not result.passed
    assert law in broken(result), result.failures
    assert f"batch-{law}" in {finding.code for finding in result.findings}
    assert all("\n" not in failure for failure in result.failures)


#: What only the full check finds.
NOT_QUICK = ("empty row",)


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in NOT_QUICK])
def test_the_quick_check_finds_it_too(name: str) -> None:
    make, numerics, _ = FAULTS[name]
    fault = make()
    result = examine(lambda images: fault(network(images)), numerics=numerics, quick=True)
    assert not result.passed


def test_every_law_has_a_planted_fault() -> None:
    # "mixed" has its tests in test_mixed_requests.py, and the other two have theirs below.
    assert {law for _, _, law in FAULTS.values()} | {"bound", "mixed", "timed"} == set(LAWS)


def test_a_sound_session_passes_every_law() -> None:
    result = examine(network)
    assert result.passed, result.failures
    assert {law.law for law in result.laws} == set(LAWS) - {"mixed", "timed"}
    for law in result.laws:
        assert (law.worst is None) == (law.limit is None)
        assert law.worst is None or law.limit is None or law.worst <= law.limit
    (sizes,) = (law.batches for law in result.laws if law.law == "size")
    assert sizes == (*range(1, 34), 48, 64)
    (sizes,) = (law.batches for law in result.laws if law.law == "neighbor")
    assert sizes == (2, 3, 7, 8, 9, 16, 17, 33, 64)


@pytest.mark.parametrize("size", [4, 12, 31, 48])
def test_a_fault_of_a_single_batch_size_is_seen(size: int) -> None:
    result = examine(lambda images: network(images[::-1] if len(images) == size else images))
    assert broken(result) == {"size"}
    assert f"batch {size}, row 0 has the logits of another image" in result.failures[0]


def test_the_failure_says_law_batch_row_size_and_limit() -> None:
    result = examine(lambda images: kernel_by_batch_size(network(images)))
    (failure,) = (line for line in result.failures if line.startswith("size: "))
    assert "batch 9, row " in failure
    assert "of the logits' RMS, allowed" in failure
    assert "also at batch 10-33,48,64" in failure


def test_a_wrong_row_is_recognized_as_another_images() -> None:
    result = examine(lambda images: first_row_copied_over_the_last(network(images)))
    assert any("row 7 has the logits of another image" in line for line in result.failures)


@pytest.mark.parametrize("numerics", NUMERICS)
def test_drift_below_the_limit_is_reported_and_passes(numerics: str) -> None:
    rounding = examine(network, numerics=numerics).rounding
    assert rounding is not None
    drift = 1 + rounding / 16

    def drifting(images: NDArray[Any]) -> Logits:
        logits = network(images).astype(np.float64)
        return logits * drift if len(images) > 8 else logits

    result = examine(drifting, numerics=numerics)
    (size,) = (law for law in result.laws if law.law == "size")
    assert result.passed, result.failures
    assert size.worst is not None
    assert size.limit is not None
    assert size.drifts
    assert 0 < size.worst <= size.limit
    assert size.batch is not None
    assert size.batch > 8


@pytest.mark.parametrize("numerics", NUMERICS)
def test_the_limit_is_tied_to_the_gate_of_the_precision(numerics: str) -> None:
    gate = NUMERICS[numerics].gate.max_error
    laws = examine(network, numerics=numerics).laws
    limits = {law.law: law.limit for law in laws if law.limit is not None}
    assert gate / 20 <= limits["size"] <= gate / 2
    assert limits["neighbor"] < 1e-6  # the same kernels in the same place: in any precision


def test_logits_of_zero_prove_nothing() -> None:
    result = examine(lambda images: np.zeros((len(images), 5), np.float32))
    assert result.failures == (
        "finite: batch 1 gives zeros only; the law is: logits are finite, and not all zero",
    )


def test_a_session_that_fails_at_once_fails_one_law() -> None:
    def failing(_images: NDArray[Any]) -> Logits:
        raise SessionFailed("no memory")

    result = examine(failing)
    assert broken(result) == {"range"}
    assert "SessionFailed: no memory" in result.failures[0]


PROFILES = (BatchRange.parse("2:4:8"), BatchRange.parse("32:32:33"))


@pytest.mark.parametrize("wrong", [0, 2, 5, 8, 32, 33])
def test_every_edge_of_every_profile_is_visited(wrong: int) -> None:
    def edge(images: NDArray[Any]) -> Logits:
        logits = network(images)
        return logits[::-1] if len(images) == wrong else logits

    result = examine(edge, ranges=PROFILES)
    assert result.passed == (wrong == 0), result.failures
    (law,) = (law for law in result.laws if law.law == "range")
    assert set(law.batches) == {*range(1, 10), 31, 32, 33, 34}
    assert law.refused == (1, 9, 31, 34)
    if wrong:
        assert any(f"batch {wrong}" in failure for failure in result.failures)


class Unlimited(FakeSession):
    """Knows its range, and runs whatever it gets, as an ONNX file with a dynamic batch does."""

    def takes(self, batch: int) -> bool:
        """Any."""
        return batch > 0


class Overrun(Unlimited):
    """Past its range, the runtime fails."""

    def apply(self, images: NDArray[Any]) -> Logits:
        """Logits of 64 images at most."""
        if len(images) > 64:
            raise SessionFailed("buffer too small")
        return super().apply(images)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(
    ("kind", "past"),
    [(Unlimited, "is not refused"), (Overrun, "fails instead of being refused: SessionFailed: ")],
)
def test_a_batch_past_the_range_must_be_refused_even_if_its_rows_are_right(
    kind: type[FakeSession], past: str, quick: bool
) -> None:
    ranges = (BatchRange.parse("1:8:64"),)
    session = kind(network, in_shape=(6,), classes=5, batch_ranges=ranges)
    result = session_integrity(session, IMAGES, ranges=ranges, numerics="fp32", quick=quick)
    (failure,) = result.failures
    assert failure.startswith(f"range: batch 65 is past the range, and {past}")
    (law,) = (law for law in result.laws if law.law == "range")
    assert (law.failed, law.refused) == ((65,), ())


def test_a_live_session_has_no_range_to_pass() -> None:
    result = examine(network, ranges=None)
    assert result.passed, result.failures
    (law,) = (law for law in result.laws if law.law == "range")
    assert law.batches == (*range(1, 34), 48, 64, 65, 96, 100, 128)
    assert law.refused == ()


def test_sizes_are_clipped_to_the_range_and_have_its_ends() -> None:
    def of(*ranges: str, quick: bool = False) -> tuple[int, ...]:
        return visited([BatchRange.parse(text) for text in ranges], quick=quick)

    assert of("1:8") == SIZES
    assert of("5") == (5,)
    assert of("4:8:20") == (4, 7, 8, 9, 16, 17, 20)
    assert of("1:8:64", quick=True) == (1, 2, 8, 17, 64)
    assert of("1:1:1", "8:8:8") == (1, 8)


class SharedBuffer(FakeSession):
    """Bound inputs of one batch size share one output buffer."""

    def _bind(self, inputs: Arrays) -> Bound:
        bound = super()._bind(inputs)
        assert isinstance(bound, FakeBound)
        shared = self.__dict__.setdefault("shared", {})
        size = len(inputs["input"])
        launch = bound._launch

        def launch_into_shared() -> None:
            launch()
            shared[size] = bound._result

        bound._launch = launch_into_shared  # type: ignore[method-assign]
        bound._outputs = lambda: {"logits": shared[size].copy()}  # type: ignore[method-assign]
        return bound


def test_bound_inputs_that_disturb_each_other_are_named() -> None:
    result = session_integrity(
        SharedBuffer(network, in_shape=(6,), classes=5),
        IMAGES,
        ranges=(BatchRange.parse("1:8"),),
        numerics="fp32",
    )
    assert broken(result) == {"bound"}


# The batch of a benchmark.


def timed(function: Function, output: Logits, images: NDArray[Any]) -> Integrity:
    session = FakeSession(function, in_shape=(6,), classes=5)
    return timed_batch_integrity(session, images, [output], numerics="fp32")


@pytest.mark.parametrize("size", [1, 2, 3, 32])
def test_a_sound_timed_batch_passes(size: int) -> None:
    images = np.random.default_rng(3).standard_normal((size, 6)).astype(np.float32)
    assert timed(network, network(images), images).passed


def test_every_row_of_a_timed_batch_counts() -> None:
    images = np.random.default_rng(3).standard_normal((32, 6)).astype(np.float32)

    def one_row(images: NDArray[Any]) -> Logits:
        logits = network(images)
        logits[13] = logits[14]
        return logits

    assert broken(timed(one_row, one_row(images), images)) == {"permuted", "neighbor"}
    assert broken(timed(network, one_row(images), images)) == {"timed"}


# The check of an export, which shares its batches with parity.


def beside_parity(
    manifest: Manifest,
    function: Function,
    *,
    numerics: str = "fp32",
    sizes: tuple[int, ...] = (1, 7),
    huge: float = 1e4,
) -> tuple[Integrity, Logits | None]:
    session = FakeSession(function, in_shape=(6,), classes=5)
    images = IMAGES[:7]
    others = np.concatenate([IMAGES[7:], IMAGES[:1] * np.float32(huge)])
    compared = {size: batched(session, images[whole(7, size)], size) for size in sizes}
    return integrity_beside_parity(
        session, manifest.model_copy(update={"precision": numerics}), images, compared, others
    )


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in NOT_QUICK])
def test_the_check_beside_parity_finds_it_too(name: str, graphs: dict[str, Artifact]) -> None:
    make, numerics, _ = FAULTS[name]
    fault = make()
    manifest = graphs["fp32"].manifest
    if name == "end":
        manifest = manifest.model_copy(update={"batch": BatchRange.parse("1:8:64")})
    result, logits = beside_parity(manifest, lambda x: fault(network(x)), numerics=numerics)
    assert not result.passed
    assert logits is None


@pytest.mark.parametrize("numerics", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("sizes", [{2}, {17}])
def test_a_leak_below_rounding_is_seen_in_the_smallest_and_the_largest_batch(
    numerics: str, sizes: set[int], graphs: dict[str, Artifact]
) -> None:
    def leaking(images: NDArray[Any]) -> Logits:
        logits = network(images)
        return leak(1e-6)(logits) if len(images) in sizes else logits

    quick = examine(leaking, numerics=numerics, quick=True, ranges=(BatchRange.parse("1:8"),))
    assert broken(quick) == {"neighbor"}
    result, _ = beside_parity(graphs["fp32"].manifest, leaking, numerics=numerics, huge=1)
    assert broken(result) == {"neighbor"}


def test_the_batches_of_parity_are_held_against_each_other(graphs: dict[str, Artifact]) -> None:
    def other_kernel(images: NDArray[Any]) -> Logits:
        return network(images) * np.float32(1.0001 if len(images) == 7 else 1)

    result, _ = beside_parity(graphs["fp32"].manifest, other_kernel)
    assert broken(result) == {"size"}
    (failure,) = result.failures
    assert "batch 7, row" in failure


def test_other_inputs_come_back_in_their_order(graphs: dict[str, Artifact]) -> None:
    result, logits = beside_parity(graphs["fp32"].manifest, network)
    assert result.passed, result.failures
    assert logits is not None
    assert np.array_equal(logits, network(np.concatenate([IMAGES[7:], IMAGES[:1] * 1e4])))


def test_only_other_inputs_may_overflow(graphs: dict[str, Artifact]) -> None:
    def overflowing(images: NDArray[Any]) -> Logits:
        logits = network(images)
        return np.where(np.abs(logits) > 1e3, np.inf, logits).astype(np.float32)

    result, logits = beside_parity(graphs["fp32"].manifest, overflowing)
    assert result.passed, result.failures
    assert logits is not None
    assert np.isfinite(logits).all(axis=1).tolist() == [True] * 6 + [False]

    def leaking(images: NDArray[Any]) -> Logits:
        with np.errstate(invalid="ignore"):
            return leak(1e-2)(overflowing(images))

    assert "finite" in broken(beside_parity(graphs["fp32"].manifest, leaking)[0])


@pytest.mark.parametrize(("numerics", "nervous", "beyond"), [("fp32", 40, 1.5), ("bf16", 0, 11)])
def test_rounding_is_measured_only_if_it_decides(
    numerics: str, nervous: float, beyond: float, graphs: dict[str, Artifact]
) -> None:
    """``nervous`` logits move with the last bits of an image; all in units of the least limit."""
    least = NUMERICS[numerics].gate.max_error / 20
    unit = least * np.sqrt(np.mean(network(IMAGES[:7]) ** 2))

    def examined(drift: float, nervous: float) -> Integrity:
        def drifting(images: NDArray[Any]) -> Logits:
            bits = np.sin(images.astype(np.float64) * 1e5).sum(axis=1, keepdims=True)
            late = drift if len(images) > 8 else 0
            return np.asarray(network(images) + unit * (nervous * bits + late), np.float64)

        return beside_parity(graphs["fp32"].manifest, drifting, numerics=numerics)[0]

    small = examined(0.9, nervous)
    assert small.passed, small.failures
    assert small.rounding is None
    large = examined(beyond, 0)
    assert broken(large) == {"size"}
    assert large.rounding is not None
    explained = examined(1.5, nervous)
    assert explained.passed, explained.failures
    assert explained.rounding is not None


# Faults in a real graph.


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def graphs(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """The digits network in three precisions, and a small network in fp16."""
    folder = tmp_path_factory.mktemp("graphs")
    parent = export_onnx(weights, folder / "fp32", check=False)
    bf16 = ExportRequest(precision="bf16")
    int8 = ExportRequest(precision="int8", calibration="digits")
    return {
        "fp32": parent,
        "fp16": read_artifact(EARLIER / "onnx-fp16"),
        "bf16": derive_onnx(parent, weights, folder / "bf16", bf16, check=False),
        "int8": derive_onnx(parent, weights, folder / "int8", int8, check=False),
    }


#: ``rows`` is the number of rows, ``index`` their numbers, 0 to N - 1, ``sound`` the logits.
_COMMON = """
    shape = Shape <start = 0, end = 1> (sound)
    scalar = Constant <value_ints = [0]> ()
    rows = Squeeze (shape, scalar)
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    last = Sub (rows, one)
    index = Range (zero, rows, one)
    seven = Constant <value_int = 7> ()
    eight = Constant <value_int = 8> ()
    sixteen = Constant <value_int = 16> ()
    many = Greater (rows, seven)
    previous = Sub (index, one)
    other = Gather <axis = 0> (sound, previous)
"""
GRAPH_FAULTS: dict[str, tuple[str, str]] = {
    "leak of 3e-5": (
        "neighbor",
        "share = Constant <value_float = 3e-5> () leaked = Mul (other, share)"
        " logits = Add (sound, leaked)",
    ),
    "leak of 5e-7": (
        "neighbor",
        "share = Constant <value_float = 5e-7> () leaked = Mul (other, share)"
        " logits = Add (sound, leaked)",
    ),
    "leak of 1 %": (
        "neighbor",
        "share = Constant <value_float = 0.01> () leaked = Mul (other, share)"
        " logits = Add (sound, leaked)",
    ),
    "first over last": (
        "size",
        "is_last = Equal (index, last) both = And (is_last, many)"
        " source = Where (both, zero, index) logits = Gather <axis = 0> (sound, source)",
    ),
    "second takes first": (
        "size",
        "more = Greater (rows, sixteen) is_second = Equal (index, one)"
        " both = And (is_second, more) source = Where (both, zero, index)"
        " logits = Gather <axis = 0> (sound, source)",
    ),
    "rows reversed": (
        "permuted",
        "back = Sub (last, index) source = Where (many, back, index)"
        " logits = Gather <axis = 0> (sound, source)",
    ),
    "batch mean subtracted": (
        "neighbor",
        "more = Greater (rows, eight) average = ReduceMean <keepdims = 1> (sound, scalar)"
        " less = Sub (sound, average) logits = Where (more, less, sound)",
    ),
    "right for seven rows": (
        "size",
        "six = Constant <value_int = 6> () source = Min (index, six)"
        " logits = Gather <axis = 0> (sound, source)",
    ),
    "batch statistic": (
        "neighbor",
        "average = ReduceMean <keepdims = 1> (sound, scalar) centered = Sub (sound, average)"
        " square = Mul (centered, centered) variance = ReduceMean <keepdims = 1> (square, scalar)"
        " epsilon = Constant <value_float = 1.0> () positive = Add (variance, epsilon)"
        " deviation = Sqrt (positive) logits = Div (sound, deviation)",
    ),
}
NOISE = "noise = RandomNormalLike <scale = {}> (sound) logits = Add (sound, noise)"


def planted(artifact: Artifact, folder: Path, nodes: str) -> Artifact:
    """A copy of ``artifact`` whose graph goes on with ``nodes`` from ``sound`` to ``logits``."""
    folder.mkdir()
    proto = onnx.load(artifact.path)
    (output,) = proto.graph.output
    for node in proto.graph.node:
        node.output[:] = ["sound" if name == output.name else name for name in node.output]
    text = f"g (float[N, 10] sound) => (float[N, 10] logits) {{ {_COMMON} {nodes} }}"
    tail = onnx.parser.parse_graph(text.replace("logits", output.name))
    proto.graph.node.extend(tail.node)
    onnx.checker.check_model(proto)
    path = folder / artifact.manifest.file
    onnx.save(proto, path)
    changes = {"file_sha256": file_sha256(path), "file_size_bytes": path.stat().st_size}
    seal(folder, artifact.manifest.model_copy(update=changes))
    return read_artifact(folder)


@pytest.mark.parametrize(
    ("fault", "precision"),
    [
        *((fault, "fp32") for fault in GRAPH_FAULTS),
        ("leak of 1 %", "bf16"),
        ("leak of 1 %", "int8"),
        ("second takes first", "bf16"),
        ("rows reversed", "int8"),
    ],
)
def test_a_fault_in_a_graph_is_named(
    fault: str, precision: str, graphs: dict[str, Artifact], tmp_path: Path
) -> None:
    law, nodes = GRAPH_FAULTS[fault]
    artifact = planted(graphs[precision], tmp_path / "fault", nodes)
    result = batch_integrity(artifact)
    assert law in broken(result), result.failures
    assert not batch_integrity(artifact, quick=True).passed


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("first over last", "rows of a batch are not independent"),
        ("rows reversed", "rows of a batch are not independent"),
        ("leak of 5e-7", "rows of a batch are not independent"),
        # A single row is its own neighbor, so that its logits are off, too.
        ("leak of 3e-5", "does not compute what PyTorch computes, batch 1"),
    ],
)
def test_the_check_of_an_export_refuses_it(
    fault: str, says: str, graphs: dict[str, Artifact], weights: Weights, tmp_path: Path
) -> None:
    artifact = planted(graphs["fp32"], tmp_path / "fault", GRAPH_FAULTS[fault][1])
    with pytest.raises(GateFailed, match=says):
        prove(artifact, expect(weights, artifact.manifest.batch, "fp32"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("runtime", ["ort-cpu", "onnx-reference"])
def test_quantization_hides_no_nan(runtime: str, value: float, graphs: dict[str, Artifact]) -> None:
    """QuantizeLinear would make a number of it, and the logits would look valid."""
    poisoned = np.zeros((2, 1, 8, 8), np.float32)
    poisoned[1, 0, 3, 3] = value
    with open_session(graphs["int8"], runtime) as session:
        for call in (session.run, session.bind):
            with pytest.raises(BadInput, match="holds NaN or infinity, which quantization would"):
                call({"input": poisoned})


def test_images_that_are_too_few_to_show_a_place_are_not_the_only_ones(
    graphs: dict[str, Artifact], weights: Weights, tmp_path: Path
) -> None:
    """As of a calibration on a single picture."""
    nodes = GRAPH_FAULTS["rows reversed"][1]
    artifact = planted(graphs["fp32"], tmp_path / "fault", nodes)
    single = seeded_pixels(weights.config, 1)
    expected = expect(weights, artifact.manifest.batch, "fp32", pixels=single)
    with pytest.raises(GateFailed, match="rows of a batch are not independent"):
        prove(artifact, expected)


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [
        # parity; one batch repeated; two sizes with other rows, too; the first batch again; those
        # adversarial inputs that were not among the other rows
        ("1:8", (*[1] * 7, 7, 1, 1, 2, 2, 8, 17, 17, 1)),
        pytest.param(  # 8 is past its end, and refused
            "1:1:7", (*[1] * 7, 7, 1, 1, 2, 2, 7, 1, 7), marks=pytest.mark.exhaustive
        ),
        ("1", (*[1] * 7, 1, 1, 1, *[1] * 10)),
        ("3", (*[3] * 3, 3, 3, 3, 3, *[3] * 3)),
    ],
)
def test_the_check_of_an_export_runs_no_batch_twice(
    batch: str,
    sizes: tuple[int, ...],
    weights: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit of ``benchmarks/check_speed.py`` follows from the first row."""
    assert batch != "1:8" or sum(sizes) == CHECK_IMAGES
    ran: list[int] = []
    run = OrtSession.run

    def counted(self: OrtSession, inputs: Arrays) -> dict[str, NDArray[Any]]:
        outputs = run(self, inputs)  # raises past the range
        ran.append(len(inputs["input"]))
        return outputs

    monkeypatch.setattr(OrtSession, "run", counted)
    export_onnx(weights, tmp_path / "artifact", batch=BatchRange.parse(batch))
    assert tuple(ran) == sizes


def test_a_branch_on_a_batch_size_that_is_not_run_is_refused(
    graphs: dict[str, Artifact], tmp_path: Path
) -> None:
    """Every law holds at the sizes that are run, and the graph is not the network's."""
    nodes = (
        "odd = Constant <value_int = 77> () is_odd = Equal (rows, odd)"
        " opposite = Neg (sound) logits = Where (is_odd, opposite, sound)"
    )
    artifact = planted(graphs["fp32"], tmp_path / "fault", nodes)
    with pytest.raises(BadArtifact, match="and no export has that"):
        batch_integrity(artifact)


def test_noise_of_a_random_operator_is_named(graphs: dict[str, Artifact], tmp_path: Path) -> None:
    with open_session(graphs["fp32"]) as session:
        pixels = seeded_pixels(graphs["fp32"].manifest.network, 8)
        logits = session(graphs["fp32"].manifest.prepared.normalize(pixels))
    scale = 1e-5 * float(np.sqrt(np.mean(logits**2)))
    artifact = planted(graphs["fp32"], tmp_path / "noise", NOISE.format(scale))
    assert "repeat" in broken(batch_integrity(artifact))
    assert not batch_integrity(artifact, quick=True).passed


# Sound networks.


@pytest.mark.parametrize(
    ("precision", "runtime"),
    [
        ("fp32", "ort-cpu"),
        ("fp32", "openvino"),
        ("fp32", "onnx-reference"),
        ("fp16", "ort-cpu"),
        ("fp16", "onnx-reference"),
        ("bf16", "onnx-reference"),
        ("int8", "ort-cpu"),
        ("int8", "openvino"),
        ("int8", "onnx-reference"),
    ],
)
def test_a_sound_artifact_passes(precision: str, runtime: str, graphs: dict[str, Artifact]) -> None:
    result = batch_integrity(graphs[precision], runtime=runtime)
    assert result.passed, result.failures
    assert result.backend == runtime
    assert result.artifact_sha256 == graphs[precision].manifest.file_sha256
    assert Integrity.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize(
    ("backend", "precision"), [("torch", "fp32"), ("torch", "bf16"), ("torch-folded", "fp16")]
)
def test_a_sound_live_network_passes(backend: str, precision: Any, weights: Weights) -> None:
    images = weights.preprocessing.normalize(seeded_pixels(weights.config, 13))
    with open_session(weights, backend, precision=precision, memory_format="nchw") as session:
        result = session_integrity(session, images, ranges=None, numerics=precision)
    assert result.passed, result.failures


def test_pixels_and_a_fixed_batch_pass(weights: Weights, tmp_path: Path) -> None:
    batch = BatchRange.parse("3")
    artifact = export_onnx(weights, tmp_path / "fixed", batch=batch, bake_preprocessing=True)
    result = batch_integrity(artifact)
    assert result.passed, result.failures
    assert {law.batches for law in result.laws if law.law == "range"} == {(2, 3, 4)}
    assert {law.refused for law in result.laws if law.law == "range"} == {(2, 4)}


@pytest.mark.parametrize("runtime", ["ort-cpu", "openvino", "onnx-reference"])
def test_past_its_range_an_artifact_is_refused_on_every_runtime(
    runtime: str, weights: Weights, tmp_path: Path
) -> None:
    batch = BatchRange.parse("2:2:4")
    artifact = export_onnx(weights, tmp_path / "range", batch=batch, check=False)
    result = batch_integrity(artifact, runtime=runtime)
    assert result.passed, result.failures
    assert {law.refused for law in result.laws if law.law == "range"} == {(1, 5)}
    (line,) = (line for line in table(result) if line.startswith("range "))
    assert line.split(maxsplit=1)[1].startswith("2-4; past the range: 1,5 refused ")


def test_a_package_passes_and_its_edge_is_visited(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(weights)
    wrong = [0]

    def edge(images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(images)
        return logits.flip(0) if len(images) == wrong[0] else logits

    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", lambda *_: FakeLoader(edge))
    artifact = fake_package(tmp_path / "package", weights)
    assert batch_integrity(artifact).passed
    wrong[0] = 65
    assert broken(batch_integrity(artifact)) >= {"size"}


# The call.


def test_one_batch_size_can_be_examined_alone(graphs: dict[str, Artifact]) -> None:
    result = batch_integrity(graphs["fp32"].directory, batch=5)
    (sizes,) = (law.batches for law in result.laws if law.law == "range")
    assert result.passed
    assert sizes == (1, 5)


@pytest.mark.parametrize(
    ("call", "message"), [({"batch": 0}, "takes batch"), ({"seed": -1}, "`seed`")]
)
def test_a_call_that_is_off_is_refused(
    call: dict[str, int], message: str, graphs: dict[str, Artifact]
) -> None:
    with pytest.raises(UsageError, match=message):
        batch_integrity(graphs["fp32"], **call)  # type: ignore[arg-type]


# The command.


def command(artifact: Artifact, *arguments: str) -> Result:
    line = ["--artifact", str(artifact.directory), "--batch-integrity", *arguments]
    return CliRunner().invoke(main, line)


def test_the_command_needs_no_weights_and_prints_each_law(
    graphs: dict[str, Artifact], tmp_path: Path
) -> None:
    weights = graphs["fp32"].manifest.weights.model_copy(update={"source": "gone.pth"})
    artifact = relabeled(graphs["fp32"], tmp_path / "no-weights", weights=weights)
    report = tmp_path / "report.json"
    result = command(artifact, "--backend", "ort-cpu", "--json", str(report))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("PASS  batch integrity of ")
    table = {line.split()[0]: line.split() for line in result.stdout.splitlines()[2:]}
    assert set(LAWS) - {"mixed", "timed"} <= set(table)
    assert table["neighbor"][1:] == ["2,3,7-9,16,17,33,65", "0.0e+00", "4.8e-07", "PASS"]
    assert Integrity.model_validate_json(report.read_text()).passed


def test_the_command_fails_with_1_and_names_the_law(
    graphs: dict[str, Artifact], tmp_path: Path
) -> None:
    artifact = planted(graphs["fp32"], tmp_path / "fault", GRAPH_FAULTS["rows reversed"][1])
    result = command(artifact, "--batch", "8", "--json", "-")
    assert result.exit_code == 1
    assert "row 0 has the logits of another image" in result.stderr
    assert not Integrity.model_validate_json(result.stdout).passed


def test_the_command_refuses_options_of_the_other_comparison(graphs: dict[str, Artifact]) -> None:
    result = command(graphs["fp32"], "--weights", "digits")
    assert result.exit_code == 2
    assert "--weights has no effect" in result.stderr
