"""The session of TensorRT and TensorRT-RTX on a fake of the library. What only a GPU can show is in
tests/gpu.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fakes.tensorrt import DataType, FakeTensorRT, host_logits, plan_of
from resnext.artifact.files import Artifact, read_artifact, seal
from resnext.artifact.manifest import Manifest, WeightsRecord
from resnext.artifact.records import EngineOptions, EngineRecord
from resnext.artifact.specs import BatchRange, TensorSpec, numpy_dtype
from resnext.artifact.trust import remember_built
from resnext.errors import BadArtifact, BadInput, MissingRequirement, SessionFailed, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.machine import cuda_driver
from resnext.machine.cuda_driver import Driver, Gpu, probe_driver
from resnext.machine.machine import this_platform
from resnext.network.layers import layers
from resnext.runtimes import registry
from resnext.runtimes.buffers import CudaMemory
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.trt import door as trt_door
from resnext.runtimes.trt.door import open_session
from resnext.runtimes.trt.identity import engine_name
from resnext.runtimes.trt.library import LIBRARIES, EngineKind, TensorRT, TensorRTRTX
from resnext.runtimes.trt.profiler import Reports, layer_times
from resnext.runtimes.trt.session import DTYPES, TrtSession
from resnext.storage import cache_folder, read_cached, write_cached
from resnext.verify.batches.integrity import artifact_integrity
from resnext.verify.batches.laws import Integrity
from resnext.verify.delivered import delivered_share
from resnext.weights.spec import Weights, load_weights

PLAIN = SessionOptions(cuda_graph=False)
#: Profiles that overlap, and leave gaps at 9 to 31 and from 65 on.
PROFILES = ("1:1:8", "2:6:8", "32:32:64")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def images(weights: Weights) -> Any:
    return weights.preprocessing.normalize(seeded_pixels(weights.config, 66))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(
        TensorRTRTX, "load", lambda _self: FakeTensorRT
    )  # its enumerations, for contexts
    return tmp_path / "cache"


@dataclass
class Rig:
    """An engine artifact on disk, and a fake library to open it with."""

    artifact: Artifact
    fake: FakeTensorRT

    @property
    def journal(self) -> list[str]:
        return self.fake.control.journal

    def count(self, what: str) -> int:
        return sum(line.split()[0] == what for line in self.journal if "dropped" not in line)

    def open(self, options: SessionOptions | None = None) -> TrtSession:
        kind: EngineKind = self.fake.kind
        options = options or SessionOptions()
        return TrtSession(
            self.artifact, options, kind, LIBRARIES[kind], self.fake, self.fake.memory
        )

    def edited(self, **changes: Any) -> Rig:
        """The same bytes beside a manifest that somebody altered."""
        altered = Manifest.model_validate({**self.artifact.manifest.model_dump(), **changes})
        return Rig(replace(self.artifact, manifest=altered), FakeTensorRT(self.fake.kind))

    def planted(self, **changes: Any) -> Rig:
        """Another engine, of which the manifest only knows the digest."""
        return self.holding(plan_of(self.artifact.manifest, **changes))

    def holding(self, data: bytes) -> Rig:
        """Other bytes, of which the manifest only knows the digest."""
        self.artifact.path.write_bytes(data)
        facts = {"file_sha256": hashlib.sha256(data).hexdigest(), "file_size_bytes": len(data)}
        manifest = self.artifact.manifest.model_copy(update=facts)
        return Rig(replace(self.artifact, manifest=manifest), self.fake)


Make = Callable[..., Rig]


@pytest.fixture
def make(weights: Weights, tmp_path: Path) -> Make:
    """Makes an engine artifact of a kind, with profiles and further options, and a fake with some
    behavior.
    """

    def build(
        kind: EngineKind = "trt",
        profiles: tuple[str, ...] = PROFILES,
        precision: str = "fp32",
        options: dict[str, Any] | None = None,
        open_batch: bool = False,
        dtype: str = "float32",
        **behavior: Any,
    ) -> Rig:
        asked = EngineOptions(profiles=tuple(map(BatchRange.parse, profiles)), **(options or {}))
        batch = asked.batch.min if asked.batch.static and len(profiles) == 1 else None
        record = EngineRecord(
            library=LIBRARIES[kind].package,
            version="11.4.0.106" if kind == "trt" else "1.7.1.116",
            cuda=13,
            platform=this_platform(),
            gpu="NVIDIA H200",
            compute_capability="9.0",
            cuda_driver="13.0",
            options=asked,
            build_s=1.0,
            layers=(),
            layers_from="nothing",
        )
        facts: dict[str, Any] = {
            "kind": kind,
            "file": "model.engine",
            "file_sha256": "0" * 64,
            "file_size_bytes": 1,
            "model": None,
            "config": weights.config,
            "weights": WeightsRecord(source="digits", sha256=weights.sha256),
            "precision": precision,
            "batch": asked.batch,
            "preprocessing": weights.preprocessing,
            "inputs": (TensorSpec(name="input", dtype=dtype, shape=(batch, 1, 8, 8)),),
            "outputs": (TensorSpec(name="logits", dtype=dtype, shape=(batch, 10)),),
            "class_names": weights.class_names,
            "opset": 20,
            "versions": {},
            "created": "2026-11-23T00:00:00+00:00",
            "engine": record,
        }
        data = plan_of(Manifest(**facts), open_batch=open_batch)
        digest = hashlib.sha256(data).hexdigest()
        manifest = Manifest(**{**facts, "file_sha256": digest, "file_size_bytes": len(data)})
        folder = tmp_path / f"engine-{kind}-{digest[:8]}"
        folder.mkdir(exist_ok=True)
        (folder / manifest.file).write_bytes(data)
        seal(folder, manifest)
        return Rig(read_artifact(folder), FakeTensorRT(kind, **behavior))

    return build


def right(images: Any) -> Any:
    return host_logits(images, 10)


# ---- running


@pytest.mark.parametrize("kind", ["trt", "trt-rtx"])
@pytest.mark.parametrize("graph", [True, False])
def test_host_runs_and_bound_runs_are_right_and_leave_each_other_alone(
    make: Make, kind: EngineKind, graph: bool, images: Any
) -> None:
    with make(kind).open(SessionOptions(cuda_graph=graph)) as session:
        np.testing.assert_array_equal(
            session.run({"input": images[:3]})["logits"], right(images[:3])
        )
        bound = session.bind({"input": images[:8]})
        np.testing.assert_array_equal(bound.fetch()["logits"], right(images[:8]))
        kept = session.run({"input": images[8:16]})["logits"]  # of the bound size, other images
        session.run({"input": images[16:24]})
        np.testing.assert_array_equal(kept, right(images[8:16]))
        bound.enqueue()
        bound.synchronize()
        np.testing.assert_array_equal(bound.fetch()["logits"], right(images[:8]))
        assert bound.boundary == ("graph" if graph else "device")
        assert bound.cuda_stream == 1


def test_inputs_may_be_changed_as_soon_as_a_call_returns(make: Make, images: Any) -> None:
    with make().open() as session:
        mine = images[:4].copy()
        bound = session.bind({"input": mine})
        mine[:] = 7
        bound.enqueue()
        result = bound.fetch()["logits"]
        np.testing.assert_array_equal(result, right(images[:4]))
        session.bind({"input": images[4:8]})
        np.testing.assert_array_equal(result, right(images[:4]))


@pytest.mark.parametrize(
    ("batch", "profile"), [(1, 0), (2, 0), (3, 0), (4, 1), (6, 1), (8, 1), (32, 2), (64, 2)]
)
def test_the_profile_tuned_nearest_to_the_batch_is_taken(
    make: Make, images: Any, batch: int, profile: int
) -> None:
    rig = make()
    with rig.open() as session:
        session.run({"input": images[:batch]})
    assert [line for line in rig.journal if line.startswith("profile")] == (
        [f"profile {profile}"] if profile else []
    )


@pytest.mark.parametrize("batch", [9, 31, 65])
@pytest.mark.parametrize("call", ["run", "bind"])
def test_a_batch_that_no_profile_covers_is_refused_with_every_range(
    make: Make, images: Any, batch: int, call: str
) -> None:
    rig = make()
    with rig.open() as session, pytest.raises(BadInput) as refused:
        getattr(session, call)({"input": images[:batch]})
    assert str(refused.value).startswith(
        f"trt: batch {batch} is not among the artifact's, 1..8, 2..8, 32..64; run it in batches"
    )
    assert rig.count("context") == 0


def test_a_missing_profile_would_be_noticed_by_the_library(
    make: Make, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make()
    with rig.open() as session:
        monkeypatch.setattr(session, "_profile", lambda _batch: 0)  # the fault
        with pytest.raises(SessionFailed, match=r"does not satisfy any optimization profiles$"):
            session.run({"input": images[:32]})


def test_buffers_are_exactly_as_large_as_the_batch(
    make: Make, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make()
    with rig.open() as session:
        session.run({"input": images[:5]})
        assert [line for line in rig.journal if line.startswith("buffer")] == [
            "buffer (5, 1, 8, 8)",
            "buffer (5, 10)",
        ]
        plain = rig.fake.memory.empty
        monkeypatch.setattr(
            rig.fake.memory, "empty", lambda shape, dtype: plain((64, *shape[1:]), dtype)
        )
        with pytest.raises((AssertionError, SessionFailed)):
            session.run({"input": images[:6]})


@pytest.mark.parametrize("open_batch", [True, False])
def test_an_engine_of_one_batch_size_takes_no_other(
    make: Make, images: Any, open_batch: bool
) -> None:
    rig = make(profiles=("3",), open_batch=open_batch)
    with rig.open() as session:
        assert session.inputs[0].shape == (3, 1, 8, 8)
        np.testing.assert_array_equal(
            session.run({"input": images[:3]})["logits"], right(images[:3])
        )
        with pytest.raises(BadInput, match="trt: batch 4 is not among the artifact's, 3; run it"):
            session.run({"input": images[:4]})


def test_an_engine_of_one_batch_size_is_held_against_its_own_shape(make: Make) -> None:
    rig = make(profiles=("3",))  # whose profile has no shapes to ask for
    record = rig.artifact.manifest.model_dump()["engine"]
    with pytest.raises(BadArtifact, match="on optimization profiles;"):
        rig.edited(engine=edited_profiles(record, "4")).open()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("graph", [True, False])
def test_inputs_and_outputs_may_be_of_the_networks_own_type(
    make: Make, dtype: str, graph: bool, images: Any
) -> None:
    kind = numpy_dtype(dtype)
    with make(dtype=dtype).open(SessionOptions(cuda_graph=graph)) as session:
        given = session.inputs[0].cast(images[:4])
        assert given.dtype == kind
        bound = session.bind({"input": given})
        bound.enqueue()
        for logits in (bound.fetch()["logits"], session.run({"input": given})["logits"]):
            assert logits.dtype == kind
            np.testing.assert_array_equal(logits, right(given).astype(kind))
        with pytest.raises(BadInput, match="has dtype"):
            session.run({"input": images[:4].astype(np.float64)})


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_an_engines_element_types_are_read(make: Make, dtype: str) -> None:
    with make(dtype=dtype).open() as session:
        assert {spec.dtype for spec in (*session.inputs, *session.outputs)} == {dtype}


@pytest.mark.parametrize("kind", sorted(set(DataType.__members__) - set(DTYPES)))
@pytest.mark.parametrize("role", ["inputs", "outputs"])
def test_an_element_type_that_no_session_takes_is_named(make: Make, kind: str, role: str) -> None:
    with pytest.raises(
        BadArtifact, match=f"is of type {kind}, which no session takes; build it with"
    ) as refused:
        make().planted(**{role: [spec(role, dtype=kind)]}).open()
    assert len(str(refused.value).splitlines()) == 1


def test_the_fake_refuses_what_the_library_refuses(make: Make) -> None:
    with make().open() as session:
        context = session._engine.create_execution_context()
        assert context.set_input_shape("input", (4, 1, 8, 8))
        for name, shape in (
            ("input", (4, 1, 8, 9)),
            ("logits", (4, 1, 8, 8)),
            ("input", (9, 1, 8, 8)),
        ):
            assert not context.set_input_shape(name, shape)
        assert not context.set_tensor_address("x", 0)
        with pytest.raises(RuntimeError, match="Error in set optimization profile async"):
            context.set_optimization_profile_async(3, 1)
        for name, profile in (("logits", 3), ("input", -1)):
            with pytest.raises(RuntimeError, match="Could not get profile shape for tensor"):
                session._engine.get_tensor_profile_shape(name, profile)


def test_inputs_are_checked_before_anything_is_made(make: Make, images: Any) -> None:
    rig = make()
    with rig.open() as session:
        for inputs in (
            {"x": images[:1]},
            {"input": images[:1].astype(np.float64)},
            {"input": images[:1, :, :4]},
        ):
            for call in (session.run, session.bind):
                with pytest.raises(BadInput):
                    call(inputs)
    assert rig.count("context") == 0


# ---- binding and graphs


def test_going_back_to_a_bound_batch_costs_no_context_and_no_capture(
    make: Make, images: Any
) -> None:
    rig = make()
    with rig.open() as session:
        session.bind({"input": images[:2]})
        session.bind({"input": images[2:6]})
        made = (rig.count("context"), rig.count("capture"), rig.count("buffer"))
        assert made == (2, 2, 4)
        bound = session.bind({"input": images[6:8]})
        np.testing.assert_array_equal(bound.fetch()["logits"], right(images[6:8]))
        bound = session.bind({"input": images[8:12]})
        np.testing.assert_array_equal(bound.fetch()["logits"], right(images[8:12]))
        assert (rig.count("context"), rig.count("capture"), rig.count("buffer")) == made


def test_host_runs_and_all_bound_inputs_of_a_batch_share_its_context_and_buffers(
    make: Make, images: Any
) -> None:
    rig = make()
    with rig.open() as session:
        session.run({"input": images[:4]})
        first = session.bind({"input": images[4:8]})
        second = session.bind({"input": images[8:12]})
        made = rig.count("context"), rig.count("capture"), rig.count("buffer")
        assert made == (1, 1, 2)
        for _ in range(2):  # by turns, with a host run between
            for bound, rows in ((first, slice(4, 8)), (second, slice(8, 12))):
                np.testing.assert_array_equal(
                    session.run({"input": images[:4]})["logits"], right(images[:4])
                )
                np.testing.assert_array_equal(bound.fetch()["logits"], right(images[rows]))
                bound.enqueue()
                np.testing.assert_array_equal(bound.fetch()["logits"], right(images[rows]))
        second.close()
        first.enqueue()
        np.testing.assert_array_equal(first.fetch()["logits"], right(images[4:8]))
        assert (rig.count("context"), rig.count("capture"), rig.count("buffer")) == made


def test_only_the_first_of_many_timed_runs_loads_the_input_again(
    make: Make, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, loads = make(), []
    load = rig.fake.memory.load

    def counted(target: Any, array: Any) -> None:
        loads.append(array)
        load(target, array)

    monkeypatch.setattr(rig.fake.memory, "load", counted)
    with rig.open() as session:
        bound = session.bind({"input": images[:4]})
        session.run({"input": images[4:8]})
        loads.clear()
        for _ in range(5):
            bound.enqueue()
        assert len(loads) == 1


def test_a_bound_run_replays_the_graph_and_launches_nothing(make: Make, images: Any) -> None:
    rig = make()
    with rig.open() as session:
        bound = session.bind({"input": images[:4]})
        assert session.delivered().notes["cuda graph"] == "on"
        launches, replays = rig.count("launch"), rig.count("replay")
        for _ in range(5):
            bound.enqueue()
        bound.synchronize()
        assert (rig.count("launch"), rig.count("replay")) == (launches, replays + 5)
        session.run({"input": images[:4]})
        assert (rig.count("launch"), rig.count("replay")) == (launches + 1, replays + 5)


@pytest.mark.parametrize("kind", ["trt", "trt-rtx"])
def test_layers_are_timed_in_a_context_apart_from_what_is_bound(
    make: Make, kind: EngineKind, images: Any, weights: Weights
) -> None:
    rig = make(kind)
    names = [layer.name for layer in layers(weights.config)]
    # Milliseconds of the four runs; the first does not count.
    planted = iter([*[90.0] * len(names), *[1.0] * len(names), *[5.0] * len(names)])
    last = iter(range(1, len(names) + 1))
    rig.fake.control.layer_ms = lambda _: next(planted, None) or next(last)
    with rig.open() as session:
        bound = session.bind({"input": images[:4]})
        launches, contexts = rig.count("launch"), rig.count("context")
        times = session.layer_times({"input": images[:4]}, 3, bound.enqueue)
        assert rig.count("context") == contexts + 1
        assert rig.count("launch") == launches + 4
        np.testing.assert_array_equal(bound.fetch()["logits"], right(images[:4]))
    assert [time.layer.name for time in times] == names
    assert [time.layer.modules for time in times] == [(name,) for name in names]
    medians = [sorted((1.0, 5.0, position))[1] for position in range(1, len(names) + 1)]
    assert [time.ns for time in times] == [ms * 1e6 for ms in medians]
    assert {time.layer.dtype for time in times} == {"float32"}


def test_a_profiler_that_reports_nothing_or_other_layers_is_an_error() -> None:
    unequal: list[list[Reports]] = [[[]], [[("a", 1.0)], [("b", 1.0)]], [[("a", 1.0)], []]]
    for runs in unequal:
        with pytest.raises(SessionFailed, match="other layers in one run"):
            layer_times(runs, (), "cuda:0")
    (time,) = layer_times([[("a", 1.0)]], (), "cuda:0")
    assert (time.layer.op, time.layer.modules, time.ns) == ("unknown", (), 1e6)


def test_a_replay_computes_anew(make: Make, images: Any) -> None:
    rig = make()
    with rig.open() as session:
        bound = session.bind({"input": images[:4]})
        rig.fake.control.function = lambda batch, classes: -host_logits(batch, classes)
        np.testing.assert_array_equal(bound.fetch()["logits"], right(images[:4]))
        bound.enqueue()
        np.testing.assert_array_equal(bound.fetch()["logits"], -right(images[:4]))


@pytest.mark.parametrize(
    ("kind", "options", "refuse", "why"),
    [
        ("trt", PLAIN, {}, "off: not requested"),
        (
            "trt",
            SessionOptions(),
            {"capture": "operation not permitted\nmore"},
            "off: capture failed (operation not p",
        ),
        ("trt", SessionOptions(), {"capture": ""}, "off: capture failed (RuntimeError)"),
        (
            "trt-rtx",
            SessionOptions(),
            {"is_stream_capturable": ""},
            "off: the library says that this engine cannot",
        ),
    ],
)
def test_without_a_graph_each_run_is_launched_and_it_is_said_why(
    make: Make,
    images: Any,
    kind: EngineKind,
    options: SessionOptions,
    refuse: dict[str, str],
    why: str,
) -> None:
    rig = make(kind, refuse=refuse)
    with rig.open(options) as session:
        assert session.delivered().notes["cuda graph"] == "nothing bound"
        bound = session.bind({"input": images[:4]})
        assert bound.boundary == "device"
        note = session.delivered().notes["cuda graph"]
        assert note.startswith(why)
        assert len(note.splitlines()) == 1
        launches = rig.count("launch")
        bound.enqueue()
        assert (rig.count("launch"), rig.count("replay")) == (launches + 1, 0)
        np.testing.assert_array_equal(bound.fetch()["logits"], right(images[:4]))
    assert rig.count("capture") == ("capture" in refuse)


def test_a_launch_that_fails_while_it_is_captured_leaves_a_plain_session(
    make: Make, images: Any
) -> None:
    rig = make()
    with rig.open() as session:
        execute = rig.fake.memory.capture

        def capture(work: Callable[[], None]) -> Any:
            rig.fake.control.refuse["execute_async_v3"] = (
                "Error Code 1: Cuda Runtime (operation not permitted)"
            )
            try:
                return execute(work)
            finally:
                del rig.fake.control.refuse["execute_async_v3"]

        rig.fake.memory.capture = capture  # type: ignore[method-assign]  # the fault
        bound = session.bind({"input": images[:4]})
        assert "operation not permitted" in session.delivered().notes["cuda graph"]
        np.testing.assert_array_equal(bound.fetch()["logits"], right(images[:4]))


def test_a_bind_that_failed_is_an_error_and_leaves_what_was_bound_alone(
    make: Make, images: Any
) -> None:
    rig = make()
    with rig.open() as session:
        before = session.bind({"input": images[:4]})
        rig.fake.control.refuse["execute_async_v3"] = ""
        for again in (images[4:8], images[:2]):  # a known batch, and a new one
            with pytest.raises(SessionFailed, match="failed to launch"):
                session.bind({"input": again})
        rig.fake.control.refuse.clear()
        # The buffers of four images hold the others' by now.
        np.testing.assert_array_equal(before.fetch()["logits"], right(images[:4]))
        bound = session.bind({"input": images[:2]})
        np.testing.assert_array_equal(bound.fetch()["logits"], right(images[:2]))


def test_close_lets_go_in_order_and_may_come_twice(make: Make, images: Any) -> None:
    rig = make("trt-rtx")
    session = rig.open()
    session.run({"input": images[:2]})
    bound = session.bind({"input": images[:2]})
    session.close()
    dropped = [line for line in rig.journal if line.endswith("dropped")]
    assert dropped == [
        "graph dropped",
        "context dropped",
        "engine dropped",
        "runtime dropped",
    ]
    session.close()
    with pytest.raises(SessionFailed, match="closed"):
        bound.enqueue()


# ---- errors

SAID = (
    "I{0}: Error Code 3: API Usage Error (Parameter check failed, condition: {0} is met. "
    "In {0} at /_src/runtime/api/executionContext.cpp:2101)"
)


@pytest.mark.parametrize(
    ("method", "step"),
    [
        ("deserialize_cuda_engine", "open"),
        ("create_execution_context", "run"),
        ("create_execution_context", "bind"),
        ("set_optimization_profile_async", "run"),
        ("set_input_shape", "run"),
        ("set_input_shape", "bind"),
        ("set_tensor_address", "bind"),
        ("execute_async_v3", "run"),
        ("execute_async_v3", "bind"),
    ],
)
@pytest.mark.parametrize("kind", ["trt", "trt-rtx"])
def test_what_the_library_refuses_is_one_line_with_its_reason(
    make: Make, images: Any, kind: EngineKind, method: str, step: str
) -> None:
    rig = make(kind, refuse={method: SAID.format(method)})
    with pytest.raises(SessionFailed) as failed:
        rig.open() if step == "open" else getattr(rig.open(), step)({"input": images[:6]})
    text = str(failed.value)
    assert text.startswith(LIBRARIES[kind].title)
    assert f"Parameter check failed, condition: {method} is met" in text
    assert len(text.splitlines()) == 1
    for position in ("/_src/", ".cpp", "Error Code", "In "):
        assert position not in text


def test_a_library_that_says_nothing_is_said_so(make: Make) -> None:
    no_driver = "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35)"
    with pytest.raises(SessionFailed, match="the library gave no reason"):
        make(refuse={"deserialize_cuda_engine": no_driver}).open()
    rig = make(refuse={}).holding(b"\x00junk")
    with pytest.raises(SessionFailed, match="Magic tag does not match"):
        rig.open()


def test_a_timed_launch_that_fails_is_an_error_too(make: Make, images: Any) -> None:
    rig = make()
    with rig.open(PLAIN) as session:
        bound = session.bind({"input": images[:4]})
        rig.fake.control.refuse["execute_async_v3"] = SAID.format(
            "x"
        )  # nobody listens on the timed path
        with pytest.raises(SessionFailed, match="failed to launch: is the GPU out of memory"):
            bound.enqueue()


@pytest.mark.parametrize("step", ["run", "bind"])
def test_an_output_of_another_shape_is_refused(make: Make, images: Any, step: str) -> None:
    with (
        make(extra_classes=1).open() as session,
        pytest.raises(SessionFailed, match=r"'logits' has shape \(6, 11\) at batch 6"),
    ):
        getattr(session, step)({"input": images[:6]})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_wherever_outputs_are_seen(
    make: Make, images: Any, bad: float
) -> None:
    def spoilt(batch: Any, classes: int) -> Any:
        logits = host_logits(batch, classes)
        logits[-1, -1] = bad
        return logits

    rig = make(precision="fp16")
    with rig.open() as session:
        bound = session.bind({"input": images[:4]})
        rig.fake.control.function = spoilt
        bound.enqueue()
        calls: list[Callable[[], Any]] = [
            bound.fetch,
            lambda: session.run({"input": images[:4]}),
            lambda: session.bind({"input": images[:4]}),
            lambda: session.bind({"input": images[:2]}),
        ]
        for call in calls:
            with pytest.raises(
                SessionFailed, match=r"'logits' holds NaN or infinity \(fp16 overflow\?\)"
            ):
                call()


def test_what_pytorch_raises_is_one_line(make: Make, images: Any) -> None:
    rig = make()
    with rig.open() as session:
        rig.fake.control.refuse["empty"] = (
            "CUDA out of memory. Tried to allocate 2 GiB.\nSee documentation"
        )
        for call in (session.run, session.bind):
            with pytest.raises(
                MissingRequirement, match=r"^trt: out of memory; use a smaller `batch`$"
            ):
                call({"input": images[:4]})
        rig.fake.control.refuse.clear()
        bound = session.bind({"input": images[:4]})
        bound.enqueue()
        rig.fake.control.refuse["synchronize"] = (
            "CUDA error: an illegal memory access was encountered\nPassing 1"
        )
        calls: list[Callable[[], Any]] = [
            bound.synchronize,
            bound.fetch,
            lambda: session.run({"input": images[:4]}),
            lambda: session.bind({"input": images[:4]}),
        ]
        for call_again in calls:
            with pytest.raises(
                SessionFailed,
                match=r"^trt failed: CUDA error: an illegal memory access was encountered$",
            ):
                call_again()


# ---- the manifest is compared with the engine


def spec(role: str, **changes: Any) -> dict[str, Any]:
    plain = {"inputs": ("input", (None, 1, 8, 8)), "outputs": ("logits", (None, 10))}[role]
    return {"name": plain[0], "dtype": "float32", "shape": plain[1], **changes}


@pytest.mark.parametrize(
    ("field", "edit", "told"),
    [
        ("preprocessing", lambda old: {**old, "mean": (0.25,)}, "preprocessing"),
        ("class_names", lambda old: (old[1], old[0], *old[2:]), "class names"),
        ("weights", lambda old: {**old, "sha256": "f" * 64}, "weights"),
        ("precision", lambda _old: "fp16", "precision"),
        ("preprocessing_baked", lambda _old: True, "preprocessing"),
        ("inputs", lambda _old: (spec("inputs", shape=(None, 1, 9, 9)),), "on inputs;"),
        ("inputs", lambda _old: (spec("inputs", name="x"),), "on inputs;"),
        ("inputs", lambda _old: (spec("inputs", dtype="uint8"),), "on inputs;"),
        ("outputs", lambda _old: (spec("outputs", dtype="float16"),), "on outputs;"),
        (
            "engine",
            lambda old: edited_profiles(old, "1:1:8", "2:6:8", "32:32:128"),
            "on optimization profiles;",
        ),
        ("engine", lambda old: edited_profiles(old, "1:1:8", "2:6:8"), "on optimization profiles;"),
        (
            "engine",
            lambda old: edited_profiles(old, "2:6:8", "1:1:8", "32:32:64"),
            "on optimization profiles;",
        ),
        ("engine", lambda old: {**old, "options": {**old["options"], "tf32": True}}, "TF32"),
    ],
)
def test_an_edited_manifest_is_refused_and_what_differs_is_named(
    make: Make, field: str, edit: Callable[[Any], Any], told: str
) -> None:
    rig = make()
    rig.edited().open().close()
    old = rig.artifact.manifest.model_dump()[field]
    with pytest.raises(BadArtifact, match="does not agree with the engine on") as refused:
        rig.edited(**{field: edit(old)}).open()
    assert told in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def edited_profiles(record: dict[str, Any], *profiles: str) -> dict[str, Any]:
    ranges = [BatchRange.parse(profile).model_dump() for profile in profiles]
    return {**record, "options": {**record["options"], "profiles": ranges}}


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        ({"name": "resnext-facts-0"}, "model, weights"),
        ({"name": ""}, "model, weights"),
        ({"profiles": [(1, 1, 8)]}, "optimization profiles"),
        ({"outputs": [spec("outputs", shape=(None, 1000))]}, "outputs"),
    ],
)
def test_an_engine_of_another_network_is_refused(
    make: Make, planted: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadArtifact, match=f"on {told}"):
        make().planted(**planted).open()


def test_a_refittable_engine_may_have_any_weights_and_nothing_else(make: Make) -> None:
    rig = make(options={"strip_weights": True})
    rig.edited(weights={"source": "x.pth", "sha256": "f" * 64}).open().close()
    with pytest.raises(BadArtifact, match="class names"):
        rig.edited(class_names=()).open()


def test_code_inside_a_version_compatible_engine_is_allowed_for_no_other(make: Make) -> None:
    rig = make(options={"compatibility": "version"})
    rig.open().close()
    record = rig.artifact.manifest.model_dump()["engine"]
    plain = rig.edited(engine={**record, "options": {**record["options"], "compatibility": "none"}})
    with pytest.raises(SessionFailed, match="engine_host_code_allowed is not set"):
        plain.open()


# ---- what it reports


@pytest.mark.parametrize("form", [10, 11])
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("fp16", "float16")])
def test_delivered_is_the_inspectors_word_in_both_forms(
    make: Make, images: Any, form: int, precision: str, dtype: str
) -> None:
    rig = make(precision=precision, inspector=form)
    with rig.open() as session:
        session.bind({"input": images[:1]})
        found = session.delivered()
    config = rig.artifact.manifest.config
    assert delivered_share(found, config, dtype) == 1
    assert delivered_share(found, config, "int8") == 0
    assert found.device == "cuda:0 NVIDIA Fake"
    assert found.notes["profiles"] == "1..8, 2..8, 32..64"
    assert found.notes["library"].startswith("TensorRT")


# ---- kernels that TensorRT-RTX compiles


def kernel_files() -> list[Path]:
    return sorted((cache_folder() / "trt-rtx-kernels").glob("*"))


@pytest.mark.parametrize("call", ["run", "bind"])
def test_kernels_are_compiled_once_for_all_processes(make: Make, images: Any, call: str) -> None:
    first = make("trt-rtx")
    with first.open() as session:
        for batch in (4, 2):
            getattr(session, call)({"input": images[:batch]})
        assert session.delivered().notes["kernel cache"] == "compiled now"
    assert [line for line in first.journal if line.startswith("compile")] == [
        "compile 4",
        "compile 2",
    ]
    (file,) = kernel_files()
    assert json.loads(read_cached(file) or b"")["batches"] == [2, 4]
    assert first.artifact.manifest.file_sha256[:24] in file.name
    again = make("trt-rtx")
    with again.open() as session:
        for batch in (2, 4):
            getattr(session, call)({"input": images[:batch]})
        assert session.delivered().notes["kernel cache"] == "reused"
    assert not [line for line in again.journal if line.startswith("compile")]


@pytest.mark.parametrize("damage", ["junk", "another device's", "refused"])
def test_kernels_that_do_not_fit_are_compiled_again_and_replaced(
    make: Make, images: Any, damage: str
) -> None:
    with make("trt-rtx").open() as session:
        session.bind({"input": images[:4]})
    (file,) = kernel_files()
    good = read_cached(file)
    assert good is not None
    damaged = {
        "junk": b"junk",
        "another device's": b'{"device": "other", "batches": [4]}',
        "refused": good,
    }[damage]
    write_cached(file, damaged)
    rig = make("trt-rtx", refuse={"deserialize": ""} if damage == "refused" else {})
    with rig.open() as session:
        bound = session.bind({"input": images[:4]})
        np.testing.assert_array_equal(bound.fetch()["logits"], right(images[:4]))
    assert rig.count("compile") == 1
    assert read_cached(file) == good


def test_a_cache_that_was_rejected_is_never_called_reused(make: Make, images: Any) -> None:
    turns: list[tuple[dict[str, str], str]] = [
        ({}, "compiled now"),
        ({}, "reused"),
        ({"deserialize": ""}, "compiled now, since those kept do not fit"),
    ]
    for refuse, told in turns:
        with make("trt-rtx", refuse=refuse).open() as session:
            session.bind({"input": images[:4]})
            assert session.delivered().notes["kernel cache"].startswith(told)


@pytest.mark.parametrize("knows", [True, False])
def test_scratch_memory_is_as_large_as_the_shape_needs(
    make: Make, images: Any, knows: bool
) -> None:
    rig = make("trt-rtx", refuse={} if knows else {"update_device_memory_size_for_shapes": ""})
    with rig.open() as session:
        session.bind({"input": images[:4]})
    scratch = [line for line in rig.journal if line.startswith("buffer")][2]
    assert scratch == (
        "buffer (256,)" if knows else "buffer (4096,)"
    )  # else enough for the largest batch, 64
    assert rig.count("replay") == 1


def test_a_context_without_its_scratch_memory_is_noticed(
    make: Make, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        TensorRTRTX, "scratch_bytes", lambda _self, _engine, _context: 0
    )  # the fault
    with (
        make("trt-rtx").open() as session,
        pytest.raises(SessionFailed, match="device memory was not given"),
    ):
        session.run({"input": images[:4]})


@pytest.mark.parametrize("kind", ["trt", "trt-rtx"])
def test_a_graph_that_captured_nothing_does_not_pass_for_the_plain_run_before_it(
    make: Make, images: Any, kind: EngineKind
) -> None:
    rig = make(kind)
    rig.fake.memory.capture = lambda work: lambda: None  # type: ignore[method-assign]  # noqa: ARG005  # the fault
    with rig.open() as session, pytest.raises(SessionFailed, match="NaN or infinity"):
        session.bind({"input": images[:4]})


def test_kernels_are_compiled_before_they_are_captured(make: Make, images: Any) -> None:
    rig = make("trt-rtx")
    with rig.open() as session:
        session.bind({"input": images[:4]})
    assert "kernels EAGER" in rig.journal
    assert rig.journal.index("compile 4") < rig.journal.index("capture")


def test_tensorrt_keeps_no_kernels(make: Make, images: Any, cache: Path) -> None:
    with make("trt").open() as session:
        session.run({"input": images[:4]})
        session.bind({"input": images[:4]})
        assert "kernel cache" not in session.delivered().notes
    assert not cache.exists()


def test_a_kernel_cache_that_cannot_be_kept_costs_only_time(
    make: Make, images: Any, cache: Path
) -> None:
    cache.write_text("a file where the folder should be")
    with make("trt-rtx").open() as session:
        bound = session.bind({"input": images[:4]})
        np.testing.assert_array_equal(bound.fetch()["logits"], right(images[:4]))
        assert session.delivered().notes["kernel cache"].startswith("compiled now, not kept: ")


# ---- opening

H200 = Driver(None, 1, "13.0", (Gpu("NVIDIA H200", "9.0"),))
RTX4090 = Driver(None, 1, "13.0", (Gpu("NVIDIA GeForce RTX 4090", "8.9"),))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Rig, Driver, str], None]:
    """Makes a machine with this driver, on which the rig's library is installed in a version."""

    def pretend(rig: Rig, driver: Driver, version: str) -> None:
        library = {"trt": TensorRT, "trt-rtx": TensorRTRTX}[rig.fake.kind]
        monkeypatch.setattr(cuda_driver, "probe_driver", lambda: driver)
        monkeypatch.setattr(library, "version", property(lambda _self: version))
        monkeypatch.setattr(library, "load", lambda _self: rig.fake)
        monkeypatch.setattr(trt_door, "CudaMemory", lambda: rig.fake.memory)

    return pretend


Machine = Callable[[Rig, Driver, str], None]


@pytest.mark.parametrize("name", ["trt", "trt-rtx"])
def test_a_machine_that_fits_opens_the_engine(
    make: Make, machine: Machine, images: Any, name: EngineKind
) -> None:
    rig = make(name)
    machine(rig, *((H200, "11.4.0.106") if name == "trt" else (RTX4090, "1.7.1.116")))
    with registry.open_session(rig.artifact, name) as session:
        np.testing.assert_array_equal(
            session.run({"input": images[:2]})["logits"], right(images[:2])
        )
        assert session.backend == name
    with registry.open_session(rig.artifact, "trt") as session:  # trt runs engines of either
        assert session.backend == "trt"


@pytest.mark.parametrize(
    ("kind", "options", "driver", "version", "told"),
    [
        (
            "trt",
            {},
            RTX4090,
            "11.4.0.106",
            "built for compute capability 9.0, NVIDIA GeForce RTX 4090 has 8.9",
        ),
        ("trt", {}, H200, "11.5.0.1", "built by TensorRT 11.4.0.106, installed is 11.5.0.1"),
        (
            "trt",
            {},
            replace(H200, cuda_version="12.8"),
            "11.4.0.106",
            "serves CUDA 12.8, the library needs CUDA 13",
        ),
        ("trt", {"strip_weights": True}, H200, "11.4.0.106", "its weights were stripped"),
        ("trt-rtx", {"targets": ("sm_120",)}, RTX4090, "1.7.1.116", "built for sm_120"),
        ("trt-rtx", {}, H200, "1.7.1.116", "NVIDIA H200 has 9.0"),
        (
            "trt-rtx",
            {},
            RTX4090,
            "1.6.0.1",
            "built by TensorRT-RTX 1.7.1.116, installed is 1.6.0.1",
        ),
    ],
)
def test_another_gpu_version_or_driver_is_refused_before_the_engine_is_read(
    make: Make,
    machine: Machine,
    kind: EngineKind,
    options: dict[str, Any],
    driver: Driver,
    version: str,
    told: str,
) -> None:
    rig = make(kind, options=options)
    machine(rig, driver, version)
    with pytest.raises(MissingRequirement) as refused:
        open_session(rig.artifact, SessionOptions(), kind)
    assert told in str(refused.value)
    assert refused.value.hint
    assert rig.journal == []


def test_an_artifact_of_another_kind_is_a_usage_error(make: Make) -> None:
    engine = make("trt").artifact
    facts = {**engine.manifest.model_dump(), "kind": "onnx", "engine": None}
    onnx = replace(engine, manifest=Manifest.model_validate(facts))
    for name, subject in (("trt", onnx), ("trt-rtx", onnx), ("trt-rtx", engine)):
        with pytest.raises(UsageError, match=f"of kind {subject.manifest.kind}"):
            open_session(subject, SessionOptions(), name)
        with pytest.raises(UsageError, match=f"of kind {subject.manifest.kind}"):
            registry.open_session(subject, name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this PyTorch has CUDA")
def test_a_pytorch_without_cuda_is_named(
    make: Make, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make()
    machine(rig, H200, "11.4.0.106")
    monkeypatch.setattr(trt_door, "CudaMemory", CudaMemory)
    with pytest.raises(MissingRequirement, match="install a CUDA build of torch"):
        open_session(rig.artifact, SessionOptions(), "trt")


# ---- without a driver: the library itself would crash the process


def parity(path: Path, backend: str) -> SimpleNamespace:
    command = [
        sys.executable,
        "-m",
        "resnext.cli.parity",
        "--artifact",
        str(path),
        "--backend",
        backend,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    return SimpleNamespace(code=done.returncode, lines=done.stderr.splitlines())


no_driver = pytest.mark.skipif(
    probe_driver().problem is None, reason="this machine has a CUDA device"
)


@no_driver
@pytest.mark.parametrize("kind", [pytest.param("trt", marks=pytest.mark.exhaustive), "trt-rtx"])
def test_without_a_driver_a_command_ends_with_3_and_one_line(make: Make, kind: EngineKind) -> None:
    artifact = make(kind).artifact
    remember_built(artifact.manifest.file_sha256)
    done = parity(artifact.directory, kind)
    assert done.code == 3, done.lines
    assert len(done.lines) == 1
    assert f"{LIBRARIES[kind].title} runs on an NVIDIA GPU only" in done.lines[0]
    assert "--backend torch" in done.lines[0]


#: Engines that the real TensorRT-RTX builds, by their profiles.
REAL = (("1:4:8",), ("3",), ("1", "4:4:8"))


@pytest.fixture(scope="module")
def real(
    weights: Weights, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, ...], Artifact]:
    pytest.importorskip("tensorrt_rtx")
    from exported import export_engine, export_onnx

    parent = export_onnx(weights, tmp_path_factory.mktemp("parent") / "onnx", check=False)

    def build(profiles: tuple[str, ...]) -> Artifact:
        options = EngineOptions(profiles=tuple(map(BatchRange.parse, profiles)))
        folder = tmp_path_factory.mktemp("real") / "engine"
        return export_engine(parent, weights, folder, kind="trt-rtx", options=options, check=False)

    return {profiles: build(profiles) for profiles in REAL}


@pytest.mark.exhaustive
@no_driver
def test_without_a_driver_a_real_engine_ends_with_3_too(
    real: dict[tuple[str, ...], Artifact],
) -> None:
    artifact = real[REAL[0]]
    remember_built(artifact.manifest.file_sha256)  # in this test's own cache
    done = parity(artifact.directory, "trt")
    assert done.code == 3, done.lines
    assert len(done.lines) == 1


@pytest.mark.slow
@pytest.mark.parametrize("profiles", REAL)
def test_the_manifest_of_a_real_engine_holds_what_the_session_looks_for(
    real: dict[tuple[str, ...], Artifact], profiles: tuple[str, ...], images: Any, tmp_path: Path
) -> None:
    built = real[profiles]
    manifest = built.manifest
    assert engine_name(manifest, refittable=False).encode() in built.path.read_bytes()
    folder = tmp_path / "stand-in"
    folder.mkdir()
    plan = plan_of(manifest)
    (folder / manifest.file).write_bytes(plan)
    facts = {"file_sha256": hashlib.sha256(plan).hexdigest(), "file_size_bytes": len(plan)}
    manifest = manifest.model_copy(update=facts)
    rig = Rig(Artifact(folder, manifest), FakeTensorRT("trt-rtx"))
    batch = BatchRange.parse(profiles[-1]).opt
    with rig.open() as session:
        np.testing.assert_array_equal(
            session.run({"input": images[:batch]})["logits"], right(images[:batch])
        )


# Batch integrity over profiles.


def integrity_of(rig: Rig) -> Integrity:
    with rig.open() as session:
        return artifact_integrity(session, rig.artifact.manifest)


def test_a_sound_engine_is_examined_at_every_edge_of_its_profiles(make: Make) -> None:
    result = integrity_of(make())
    assert result.passed, result.failures
    (visited,) = (law.batches for law in result.laws if law.law == "range")
    assert visited == (*range(1, 10), 31, 32, 33, 48, 64, 65)  # 9, 31 and 65 are refused


@pytest.mark.parametrize("edge", [8, 32, 64])
def test_a_wrong_edge_of_a_profile_is_named(edge: int, make: Make) -> None:
    def wrong(images: Any, classes: int) -> Any:
        logits = host_logits(images, classes)
        return logits[::-1] if len(images) == edge else logits

    failures = integrity_of(make(function=wrong)).failures
    assert any(line.startswith(f"size: batch {edge}, row ") for line in failures)
