"""Packages keep the Session contract, and one for another machine, PyTorch or device is refused before it is loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnext.artifact import Artifact, file_sha256, read_artifact, seal
from resnext.backends import SessionOptions
from resnext.backends.device_memory import DeviceMemory, Replay
from resnext.backends.pt2_session import (
    HostMemory,
    PackageRecord,
    Pt2Session,
    obstacles,
    open_session,
    read_package,
    this_host,
)
from resnext.backends.torch_session import reference_logits
from resnext.delivered import delivered_share, undelivered
from resnext.errors import BadArtifact, BadInput, MissingRequirement, SessionFailed, UsageError
from resnext.facts import layers
from resnext.inputs import seeded_pixels
from resnext.manifest import BatchRange, Manifest, WeightsRecord
from resnext.parity import compare
from resnext.session import TensorSpec
from resnext.weights import Weights, load_weights

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]  # compiling takes long

CPU = SessionOptions(device="cpu")
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="packages are made by a C++ compiler")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def images(weights: Weights) -> Any:
    return weights.preprocessing.normalise(seeded_pixels(weights.config, 9))


def noted(weights: Weights) -> dict[str, str]:
    """What an exporter puts into a package's metadata."""
    return {
        "resnext.preprocessing": weights.preprocessing.model_dump_json(),
        "resnext.preprocessing_baked": "false",
        "resnext.class_names": json.dumps(list(weights.class_names)),
        "resnext.weights_sha256": weights.sha256,
    }


def sealed(path: Path, weights: Weights, record: PackageRecord) -> Artifact:
    """The artifact of the package at ``path``."""
    manifest = Manifest(
        kind="onnx",  # a session does not ask: `resnext.backends` has
        file=path.name,
        file_sha256=file_sha256(path),
        file_size_bytes=path.stat().st_size,
        model=None,
        config=weights.config,
        weights=WeightsRecord(source=weights.source, sha256=weights.sha256),
        precision=record.precision,
        inputs=record.inputs,
        outputs=record.outputs,
        batch=record.batch,
        preprocessing=weights.preprocessing,
        class_names=weights.class_names,
        opset=20,
        versions={},
        created="2026-01-01T00:00:00+00:00",
    )
    seal(path.parent, manifest)
    return read_artifact(path.parent)


def record_here(weights: Weights, **changes: Any) -> PackageRecord:
    """Record of a package that would load here."""
    host, config = this_host(), weights.config
    facts: dict[str, Any] = {
        "torch": host.torch,
        "cuda": host.cuda,
        "device": "cpu",
        "platform": host.platform,
        "cpu_capability": host.cpu_capability,
        "cpu_flags": tuple(sorted(host.cpu_flags)),
        "precision": "fp32",
        "batch": BatchRange(min=1, opt=8, max=None),
        "inputs": (TensorSpec(name="input", dtype="float32", shape=(None, config.in_channels, *config.input_size)),),
        "outputs": (TensorSpec(name="logits", dtype="float32", shape=(None, config.num_classes)),),
        "frozen": False,
        "layers": tuple(
            {"module": layer.name, "op": "Gemm" if layer.name == "fc" else "Conv", "dtype": "float32"}
            for layer in layers(config)
        ),
        "kernels": {"convolution": 13, "addmm_out": 1},
    }
    return PackageRecord.model_validate({**facts, **changes})


def zipped(path: Path, weights: Weights, record: PackageRecord | str, library: bytes = b"not a library") -> Path:
    """A package as `pt2_from_torch` lays it out, around ``library``."""
    metadata = {"AOTI_DEVICE_KEY": "cpu", **noted(weights)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data/aotinductor/model/resnext.wrapper_metadata.json", json.dumps(metadata))
        archive.writestr("m/data/aotinductor/model/resnext.wrapper.so", library)
        text = record if isinstance(record, str) else record.model_dump_json()
        archive.writestr("m/extra/resnext.json", text)
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/archive_version", "0")
        archive.writestr("m/.data/version", "6\n")
        archive.writestr("m/byteorder", "little")
    return path


class Loader:
    """Stands for AOTInductor's loader: gives the sums of the images' pixels, ten times."""

    def __init__(self, *_: Any) -> None:
        self.seen: list[torch.Tensor] = []

    def run(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        self.seen += tensors
        return [tensors[0].flatten(1).sum(1, keepdim=True).repeat(1, 10)]


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> list[Loader]:
    made: list[Loader] = []

    def make(*arguments: Any) -> Loader:
        made.append(Loader(*arguments))
        return made[-1]

    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", make)
    return made


# What a package hangs on.


def test_a_package_of_this_machine_has_nothing_against_it(weights: Weights) -> None:
    assert obstacles(record_here(weights), this_host()) == ()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"torch": "2.9.1+cpu"}, r"compiled by PyTorch 2\.9\.1\+cpu, installed is"),
        ({"platform": "linux-riscv64"}, "compiled on linux-riscv64, this is"),
        ({"cpu_flags": ("avx9000",)}, "may use avx9000, which this processor lacks"),
        ({"cpu_flags": (), "cpu_capability": "AVX9000"}, "compiled for AVX9000, this processor has"),
        ({"device": "cuda", "compute_capability": "9.0"}, "PyTorch can use none here"),
    ],
)
def test_a_package_of_another_machine_is_refused_unloaded(
    changes: dict[str, Any], named: str, weights: Weights, tmp_path: Path, loader: list[Loader]
) -> None:
    if "avx9000" in changes.get("cpu_flags", ()) and not this_host().cpu_flags:
        pytest.skip("this system does not tell its processor's features")
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    artifact = sealed(
        zipped(tmp_path / "model.pt2", weights, record := record_here(weights, **changes)), weights, record
    )
    with pytest.raises(MissingRequirement, match=named) as caught:
        open_session(artifact, SessionOptions(), "pt2")
    assert "export it again on this machine" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not loader


def test_processor_features_of_another_machine_are_compared_one_by_one(weights: Weights) -> None:
    record = record_here(weights, cpu_flags=("avx2", "avx512f"))
    host = replace(this_host(), cpu_flags=frozenset({"avx2", "avx512f", "amx_tile"}))
    assert obstacles(record, host) == ()  # more than it needs
    (told,) = obstacles(record, replace(host, cpu_flags=frozenset({"avx2"})))
    assert told == "its code may use avx512f, which this processor lacks"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"torch": "2.13.0+cpu"}, []),  # a build of the same source
        ({"compute_capability": "8.9"}, ["compiled for compute capability 9.0 (H200), this GPU has 8.9"]),
        ({"cuda": "12.8"}, ["compiled for CUDA 13.0, this PyTorch is for CUDA 12.8"]),
        ({"cuda": "13.1"}, []),
        ({"compute_capability": None}, ["PyTorch can use none here"]),
        ({"torch": "2.14.0", "compute_capability": "10.0"}, ["PyTorch 2.13.0+cu130", "compute capability 9.0"]),
    ],
)
def test_a_cuda_package_asks_for_its_gpu_and_cuda(changes: dict[str, Any], told: list[str], weights: Weights) -> None:
    made = {"torch": "2.13.0+cu130", "cuda": "13.0", "compute_capability": "9.0"}
    record = record_here(weights, device="cuda", gpu="H200", **made)
    found = obstacles(record, replace(this_host(), **{**made, **changes}))
    assert len(found) == len(told)
    assert all(words in reason for words, reason in zip(told, found, strict=True))


def test_another_device_than_asked_for_is_a_usage_error(weights: Weights, tmp_path: Path) -> None:
    record = record_here(weights)
    artifact = sealed(zipped(tmp_path / "model.pt2", weights, record), weights, record)
    with pytest.raises(UsageError, match="compiled for cpu; drop --device cuda"):
        open_session(artifact, SessionOptions(device="cuda"), "pt2")


# What a package says of itself.


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"preprocessing": {"mean": (0.9,)}}, "preprocessing"),
        ({"preprocessing_baked": True}, "preprocessing_baked"),
        ({"class_names": ()}, "class_names"),
        ({"weights": {"sha256": "0" * 64}}, "weights_sha256"),
        ({"precision": "fp16"}, "precision"),
        ({"batch": BatchRange(min=1, opt=1, max=2)}, "batch"),
        ({"inputs": (TensorSpec(name="image", dtype="float32", shape=(None, 1, 8, 8)),)}, "inputs"),
        ({"outputs": (TensorSpec(name="logits", dtype="float16", shape=(None, 10)),)}, "outputs"),
    ],
)
def test_an_altered_manifest_is_refused(
    changes: dict[str, Any], named: str, weights: Weights, tmp_path: Path, loader: list[Loader]
) -> None:
    record = record_here(weights)
    artifact = sealed(zipped(tmp_path / "model.pt2", weights, record), weights, record)
    manifest = artifact.manifest
    altered = {
        key: getattr(manifest, key).model_copy(update=value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    with pytest.raises(BadArtifact, match=rf"does not agree with the file on {named};"):
        open_session(replace(artifact, manifest=manifest.model_copy(update=altered)), CPU, "pt2")
    assert not loader
    open_session(artifact, CPU, "pt2").close()  # unaltered, it opens


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data[: len(data) // 2], "is no readable .pt2 package"),
        (lambda _: b"", "is no readable .pt2 package"),
        (lambda data: data.replace(b"linux", b"LINUX"), "is no readable .pt2 package"),  # zip's own checksum
        (lambda data: data.replace(b"extra", b"other"), "is no package that resnext-export wrote"),
        (lambda data: data.replace(b"aotinductor", b"aotinducted"), "is no package that resnext-export wrote"),
    ],
)
def test_a_damaged_package_is_one_clear_line(
    damage: Callable[[bytes], bytes], told: str, weights: Weights, tmp_path: Path
) -> None:
    path = zipped(tmp_path / "model.pt2", weights, record_here(weights, platform="linux-x86_64"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadArtifact, match=told) as caught:
        read_package(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "[]", '{"torch": "2.13.0", "future": 1}'])
def test_a_record_of_another_form_is_one_clear_line(text: str, weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="a record that this version cannot read"):
        read_package(zipped(tmp_path / "model.pt2", weights, text))


def test_a_library_that_is_none_is_one_clear_line(weights: Weights, tmp_path: Path) -> None:
    record = record_here(weights)
    artifact = sealed(zipped(tmp_path / "model.pt2", weights, record), weights, record)
    with pytest.raises(BadArtifact, match=r"PyTorch cannot load .*model\.pt2: ") as caught:
        open_session(artifact, CPU, "pt2")
    assert len(str(caught.value).splitlines()) == 1


# The session, around a loader that stands for a compiled network.


class Device(HostMemory):
    """The host in the place of a GPU: a graph is the work itself, done again."""

    stream, device = 4711, "cuda:0 H200"

    def __init__(self, refuses: bool = False) -> None:
        self.did: list[str] = []
        self.refuses = refuses

    def current(self) -> AbstractContextManager[Any]:
        self.did.append("stream")
        return nullcontext()

    def capture(self, work: Callable[[], None]) -> Replay:
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self.did.append("capture")
        work()

        def replay() -> None:
            self.did.append("replay")
            work()

        return replay


def on_cuda(weights: Weights, folder: Path, memory: DeviceMemory, **options: Any) -> Pt2Session:
    record = record_here(weights, device="cuda", compute_capability="9.0", gpu="H200")
    artifact = sealed(zipped(folder / "model.pt2", weights, record), weights, record)
    return Pt2Session(artifact, SessionOptions(**options), "pt2", record, memory)


def test_on_cuda_a_graph_is_captured_after_warm_runs_and_replayed(
    weights: Weights, images: Any, tmp_path: Path, loader: list[Loader]
) -> None:
    with on_cuda(weights, tmp_path, memory := Device()) as session:
        assert str(session.enqueue_boundary) == "device"
        assert session.cuda_stream == 4711
        session.bind({"input": images})
        assert memory.did.index("capture") == 3  # three warm runs on the session's stream
        assert session.enqueue_boundary == "graph"
        memory.did.clear()
        session.enqueue()
        assert memory.did[0] == "replay"
        np.testing.assert_allclose(session.fetch()["logits"][:, 0], images.sum((1, 2, 3)), rtol=1e-4)
        delivered = session.delivered()
        assert delivered.notes["cuda graph"] == "on"
        assert delivered.device == "cuda:0 H200"
    assert len(loader) == 1


def test_without_a_graph_the_boundary_is_the_device(
    weights: Weights, images: Any, tmp_path: Path, loader: list[Loader]
) -> None:
    with on_cuda(weights, tmp_path, memory := Device(), cuda_graph=False) as session:
        session.bind({"input": images})
        assert "capture" not in memory.did
        assert session.enqueue_boundary == "device"
        assert session.delivered().notes["cuda graph"] == "off"
    assert len(loader) == 1


def test_a_capture_that_fails_is_an_error_and_leaves_nothing_bound(
    weights: Weights, images: Any, tmp_path: Path, loader: list[Loader]
) -> None:
    with on_cuda(weights, tmp_path, memory := Device()) as session:
        session.bind({"input": images})
        memory.refuses = True
        with pytest.raises(SessionFailed, match=r"pt2 failed: operation not permitted when stream is capturing$"):
            session.bind({"input": images})
        with pytest.raises(SessionFailed, match="nothing is bound"):
            session.fetch()
        with pytest.raises(SessionFailed, match="nothing is bound"):
            session.enqueue()
    assert len(loader) == 1


@pytest.mark.parametrize("ends", ["2:4:6", "3"])
def test_batches_outside_the_range_are_refused(
    ends: str, weights: Weights, images: Any, tmp_path: Path, loader: list[Loader]
) -> None:
    batch = BatchRange.parse(ends)
    first = batch.min if batch.static else None
    changes = {
        "batch": batch,
        "inputs": (TensorSpec(name="input", dtype="float32", shape=(first, 1, 8, 8)),),
        "outputs": (TensorSpec(name="logits", dtype="float32", shape=(first, 10)),),
    }
    record = record_here(weights, **changes)
    artifact = sealed(zipped(tmp_path / "model.pt2", weights, record), weights, record)
    with open_session(artifact, CPU, "pt2") as session:
        for size in (1, 7):
            for enter in (session.run, session.bind):
                with pytest.raises(BadInput, match=rf"batches of 2\.\.6, got {size}|shape {size}x1x8x8, want 3x1x8x8"):
                    enter({"input": images[:size]})
        session.run({"input": images[:3]})
    assert len(loader[0].seen) == 1


def test_compiled_code_gets_rows_in_order_whatever_the_array_s_strides(
    weights: Weights, images: Any, tmp_path: Path, loader: list[Loader]
) -> None:
    record = record_here(weights)
    artifact = sealed(zipped(tmp_path / "model.pt2", weights, record), weights, record)
    odd = [
        np.asfortranarray(images),
        images[::-1],
        images.transpose(0, 1, 3, 2),
        np.broadcast_to(images[:1], (9, 1, 8, 8)),
    ]
    with open_session(artifact, CPU, "pt2") as session:
        for array in odd:
            session.run({"input": array})
            seen = loader[0].seen[-1]
            np.testing.assert_array_equal(seen.numpy(), array)
            assert seen.stride() == (64, 64, 8, 1)


def test_nothing_runs_before_bind_or_after_close(weights: Weights, tmp_path: Path, loader: list[Loader]) -> None:
    record = record_here(weights)
    artifact = sealed(zipped(tmp_path / "model.pt2", weights, record), weights, record)
    session = open_session(artifact, CPU, "pt2")
    for early in (session.fetch, session.enqueue):
        with pytest.raises(SessionFailed, match="nothing is bound"):
            early()
    session.close()
    session.close()
    with pytest.raises(SessionFailed, match="closed"):
        session.run({"input": np.zeros((1, 1, 8, 8), np.float32)})
    assert not loader[0].seen


def test_delivered_names_every_module_with_what_the_compiler_was_given(
    weights: Weights, tmp_path: Path, loader: list[Loader]
) -> None:
    half = [{"module": x.name, "op": "Conv", "dtype": "float32"} for x in layers(weights.config)]
    half[2]["dtype"] = "float16"
    for given, share in ((record_here(weights), 1.0), (record_here(weights, layers=tuple(half[1:])), 0.9)):
        path = zipped(tmp_path / f"{share}" / "model.pt2", weights, given)
        with open_session(sealed(path, weights, given), CPU, "pt2") as session:
            delivered = session.delivered()
        assert delivered.notes["layers from"] == "the graph that the compiler was given"
        assert delivered.notes["kernels"] == "1 addmm_out, 13 convolution"
        missed = undelivered(delivered, weights.config, "float32")
        assert (delivered_share(delivered, weights.config, "float32") == 1.0) == (share == 1.0)
    assert missed == (("conv1", "unseen"), (half[2]["module"], "float16"))
    assert len(loader) == 2


# A real package.


@pytest.fixture(scope="module")
def artifact(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    from resnext_export.pt2_from_torch import pt2_from_torch

    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    record = pt2_from_torch(weights, BatchRange(min=1, opt=8, max=None), path, metadata=noted(weights))
    return sealed(path, weights, record)


@pytest.mark.slow
@needs_compiler
def test_run_and_bound_run_agree_with_float64(weights: Weights, artifact: Artifact, images: Any) -> None:
    reference = reference_logits(weights, images)
    with open_session(artifact, CPU, "pt2") as session:
        assert (session.enqueue_boundary, session.cuda_stream) == ("host", None)
        for rows in (slice(0, 9), slice(0, 8), slice(1, 8), slice(3, 4)):  # more than one size from one session
            outcome = compare(reference[rows], session.run({"input": images[rows]})["logits"])
            assert outcome.passed, outcome.failures
            assert outcome.max_error is not None
            assert outcome.max_error < 5e-6
            session.bind({"input": images[rows]})
            session.enqueue()
            session.synchronize()
            assert compare(reference[rows], session.fetch()["logits"]).passed
        assert delivered_share(session.delivered(), weights.config, "float32") == 1.0


@pytest.mark.slow
@needs_compiler
def test_results_belong_to_the_caller_and_bound_inputs_to_the_session(artifact: Artifact, images: Any) -> None:
    with open_session(artifact, CPU, "pt2") as session:
        first = session.run({"input": images[:2]})["logits"]
        kept = first.copy()
        session.run({"input": images[2:4]})
        np.testing.assert_array_equal(first, kept)
        mine = images[:2].copy()
        session.bind({"input": mine})
        mine[:] = 0
        for _ in range(3):
            session.enqueue()
        fetched = session.fetch()["logits"]
        np.testing.assert_allclose(fetched, kept, rtol=1e-6)
        fetched[:] = 0
        assert session.fetch()["logits"].any()


@pytest.mark.slow
@needs_compiler
def test_two_sessions_of_one_package_do_not_disturb_each_other(artifact: Artifact, images: Any) -> None:
    with open_session(artifact, CPU, "pt2") as one:
        alone = one.run({"input": images})["logits"]
        one.bind({"input": images[:1]})
        with open_session(artifact, CPU, "pt2") as two:
            two.bind({"input": images[1:3]})
            one.enqueue()
            two.enqueue()
            np.testing.assert_allclose(one.fetch()["logits"], alone[:1], atol=1e-5)
            np.testing.assert_allclose(two.fetch()["logits"], alone[1:3], atol=1e-5)
        two.close()
        np.testing.assert_allclose(one.run({"input": images})["logits"], alone, atol=1e-5)
    one.close()


@pytest.mark.slow
@needs_compiler
def test_the_number_of_threads_is_the_session_s(artifact: Artifact, images: Any) -> None:
    before = torch.get_num_threads()
    try:
        with open_session(artifact, SessionOptions(threads=1), "pt2") as session:
            assert session.delivered().notes["threads"] == "1"
            session.run({"input": images})
    finally:
        torch.set_num_threads(before)


_BARE = """
import sys, types

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("resnext.model", "resnext_export", "torch._inductor.compile_fx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
seeded = types.ModuleType("resnext.seeded")  # makes weights by building the model
seeded.seeded_state_dict = None
sys.modules["resnext.seeded"] = seeded

from pathlib import Path
import numpy as np
from resnext.artifact import read_artifact
from resnext.backends import SessionOptions
from resnext.backends.pt2_session import open_session

with open_session(read_artifact(Path(sys.argv[1])), SessionOptions(), "pt2") as session:
    logits = session.run({"input": np.load(sys.argv[2])})["logits"]
assert "resnext.model" not in sys.modules
np.save(sys.argv[3], logits)
"""


@pytest.mark.slow
@needs_compiler
def test_it_loads_without_the_model_s_source_or_a_compiler_and_leaves_nothing(
    weights: Weights, artifact: Artifact, images: Any, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "cwd").mkdir()
    paths = [str(artifact.directory), str(tmp_path / "images.npy"), str(tmp_path / "logits.npy")]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PATH": ""}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    command = [sys.executable, "-W", "error", "-c", _BARE, *paths]
    done = subprocess.run(command, env=environment, cwd=tmp_path / "cwd", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    assert compare(reference_logits(weights, images), np.load(tmp_path / "logits.npy")).passed
    assert not list((tmp_path / "tmp").iterdir())
    assert not list((tmp_path / "cwd").iterdir())


@pytest.mark.slow
@needs_compiler
def test_altered_weights_are_caught_by_the_digest_and_else_by_parity(
    weights: Weights, artifact: Artifact, images: Any, tmp_path: Path
) -> None:
    row = weights.state_dict["fc.weight"].numpy()[3]
    data = artifact.path.read_bytes()
    assert data.count(row.tobytes()) == 1
    path = tmp_path / artifact.path.name
    path.write_bytes(data.replace(row.tobytes(), row[::-1].tobytes()))
    shutil.copy(artifact.directory / "manifest.json", tmp_path)
    with pytest.raises(BadArtifact, match="does not have the sha256 of its manifest"):
        read_artifact(tmp_path)
    resealed = sealed(path, weights, read_package(path).record)  # PyTorch itself does not look at zip's checksums
    with open_session(resealed, CPU, "pt2") as session:
        logits = session.run({"input": images})["logits"]
    outcome = compare(reference_logits(weights, images), logits)
    assert not outcome.passed
    assert outcome.max_error is not None
    assert outcome.max_error > 1e-2


@pytest.mark.slow
@needs_compiler
def test_a_truncated_package_is_refused_with_and_without_its_digest(
    weights: Weights, artifact: Artifact, tmp_path: Path
) -> None:
    record = read_package(artifact.path).record
    path = tmp_path / artifact.path.name
    path.write_bytes(artifact.path.read_bytes()[:-1000])
    shutil.copy(artifact.directory / "manifest.json", tmp_path)
    with pytest.raises(BadArtifact, match="truncated or altered"):
        read_artifact(tmp_path)
    with pytest.raises(BadArtifact, match=r"is no readable \.pt2 package"):
        open_session(sealed(path, weights, record), CPU, "pt2")
