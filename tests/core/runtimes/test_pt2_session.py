"""Packages keep the Session contract: around a stand-in for compiled code, and (exhaustive) around
the real thing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fakes.package import FakeLoader, facts_of, fake_package, record_here, sealed
from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import BatchRange
from resnext.errors import BadArtifact, BadInput, SessionFailed
from resnext.images.synthetic import seeded_pixels
from resnext.network.layers import layers
from resnext.runtimes.buffers import DeviceMemory, HostMemory, Replay
from resnext.runtimes.pt2.door import open_session
from resnext.runtimes.pt2.package import read_package
from resnext.runtimes.pt2.session import Pt2Session
from resnext.runtimes.registry import SessionOptions
from resnext.verify.delivered import delivered_share, undelivered
from resnext.verify.eager import reference_logits
from resnext.verify.parity import compare
from resnext.weights.spec import Weights, load_weights

CPU = SessionOptions(device="cpu")
needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None, reason="packages are made by a C++ compiler"
)


def compiles(test: Any) -> Any:
    """Mark a test that needs a compiled package, which takes long."""
    return pytest.mark.exhaustive(pytest.mark.slow(needs_compiler(test)))


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def images(weights: Weights) -> Any:
    return weights.preprocessing.normalize(seeded_pixels(weights.config, 9))


def sums(images: torch.Tensor) -> torch.Tensor:
    """The sums of the images' pixels, ten times."""
    return images.flatten(1).sum(1, keepdim=True).repeat(1, 10)


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> list[FakeLoader]:
    made: list[FakeLoader] = []

    def make(*_: object) -> FakeLoader:
        made.append(FakeLoader(sums))
        return made[-1]

    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", make)
    return made


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, of Python and of libraries."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_package_that_does_not_load_leaves_nothing_behind(
    weights: Weights, tmp_path: Path, temporary: Path
) -> None:
    """The library in it is a header alone, which PyTorch unpacks before it fails."""
    artifact = fake_package(tmp_path / "package", weights)
    with pytest.raises(BadArtifact, match=r"PyTorch cannot load .* dlopen"):
        open_session(artifact, CPU, "pt2")
    assert list(temporary.iterdir()) == []


def test_what_a_package_unpacks_lives_as_long_as_its_session(
    weights: Weights, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpacks(*_: object) -> FakeLoader:
        (Path(os.environ["TMPDIR"]) / "kernel").touch()
        return FakeLoader(sums)

    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", unpacks)
    with open_session(fake_package(tmp_path / "package", weights), CPU, "pt2"):
        assert os.environ["TMPDIR"] == str(temporary)
        assert [path.name for path in temporary.rglob("kernel")] == ["kernel"]
    assert list(temporary.iterdir()) == []


# The session, around a loader that stands for a compiled network.


class Device(HostMemory):
    """The host in the place of a GPU: a graph is the work itself, done again."""

    stream, device, on_cuda = 4711, "cuda:0 H200", True

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
    artifact = fake_package(folder, weights, record)
    return Pt2Session(artifact, artifact.path, SessionOptions(**options), "pt2", record, memory)


def test_on_cuda_a_graph_is_captured_after_warm_runs_and_replayed(
    weights: Weights, images: Any, tmp_path: Path, loader: list[FakeLoader]
) -> None:
    with on_cuda(weights, tmp_path, memory := Device()) as session:
        bound = session.bind({"input": images})
        assert bound.cuda_stream == 4711
        assert memory.did == ["stream", "capture", "replay"]
        assert (
            len(loader[0].seen) == 5
        )  # three warm runs, the captured one, and the fake graph's replay
        assert bound.boundary == "graph"
        memory.did.clear()
        bound.enqueue()
        assert memory.did[0] == "replay"
        np.testing.assert_allclose(bound.fetch()["logits"][:, 0], images.sum((1, 2, 3)), rtol=1e-4)
        delivered = session.delivered()
        assert delivered.notes["cuda graph"] == "on"
        assert delivered.device == "cuda:0 H200"
    assert len(loader) == 1


def test_without_a_graph_the_boundary_is_the_device(
    weights: Weights, images: Any, tmp_path: Path, loader: list[FakeLoader]
) -> None:
    with on_cuda(weights, tmp_path, memory := Device(), cuda_graph=False) as session:
        bound = session.bind({"input": images})
        assert "capture" not in memory.did
        assert bound.boundary == "device"
        assert session.delivered().notes["cuda graph"] == "off"
    assert len(loader) == 1


def test_a_capture_that_fails_is_an_error_and_leaves_what_was_bound_alone(
    weights: Weights, images: Any, tmp_path: Path, loader: list[FakeLoader]
) -> None:
    with on_cuda(weights, tmp_path, memory := Device()) as session:
        before = session.bind({"input": images})
        memory.refuses = True
        with pytest.raises(
            SessionFailed, match=r"pt2 failed: operation not permitted when stream is capturing$"
        ):
            session.bind({"input": images[:2]})
        before.enqueue()
        np.testing.assert_allclose(before.fetch()["logits"][:, 0], images.sum((1, 2, 3)), rtol=1e-4)
    assert len(loader) == 1


@pytest.mark.parametrize("ends", ["2:4:6", "3"])
def test_batches_outside_the_range_are_refused(
    ends: str, weights: Weights, images: Any, tmp_path: Path, loader: list[FakeLoader]
) -> None:
    batch = BatchRange.parse(ends)
    artifact = fake_package(tmp_path, weights, record_here(weights, batch=batch))
    with open_session(artifact, CPU, "pt2") as session:
        for size in (1, 7):
            for enter in (session.run, session.bind):
                with pytest.raises(
                    BadInput,
                    match=rf"batch {size} is not among the artifact's, (2\.\.6|3); run it in",
                ):
                    enter({"input": images[:size]})
        session.run({"input": images[:3]})
    assert len(loader[0].seen) == 1


def test_compiled_code_gets_rows_in_order_whatever_the_array_s_strides(
    weights: Weights, images: Any, tmp_path: Path, loader: list[FakeLoader]
) -> None:
    artifact = fake_package(tmp_path, weights)
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


def test_nothing_runs_before_bind_or_after_close(
    weights: Weights, tmp_path: Path, loader: list[FakeLoader]
) -> None:
    artifact = fake_package(tmp_path, weights)
    session = open_session(artifact, CPU, "pt2")
    assert not loader[0].seen
    one = {"input": np.zeros((1, 1, 8, 8), np.float32)}
    bound = session.bind(one)
    seen = len(loader[0].seen)
    session.close()
    session.close()
    for late in (bound.fetch, bound.enqueue, bound.synchronize):
        with pytest.raises(SessionFailed, match="closed"):
            late()
    for call in (session.run, session.bind):
        with pytest.raises(SessionFailed, match="closed"):
            call(one)
    assert len(loader[0].seen) == seen


def test_delivered_names_every_module_with_what_the_compiler_was_given(
    weights: Weights, tmp_path: Path, loader: list[FakeLoader]
) -> None:
    half = [{"module": x.name, "op": "Conv", "dtype": "float32"} for x in layers(weights.config)]
    half[2]["dtype"] = "float16"
    for given, share in (
        (record_here(weights), 1.0),
        (record_here(weights, layers=tuple(half[1:])), 0.9),
    ):
        with open_session(
            fake_package(tmp_path / f"{share}", weights, given), CPU, "pt2"
        ) as session:
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
    from resnext_export.convert.pt2_from_torch import pt2_from_torch

    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    record = pt2_from_torch(
        weights, BatchRange(min=1, opt=8, max=None), path, metadata=facts_of(weights)
    )
    return sealed(path, weights, record)


@compiles
def test_run_and_bound_run_agree_with_float64(
    weights: Weights, artifact: Artifact, images: Any
) -> None:
    reference = reference_logits(weights, images)
    with open_session(artifact, CPU, "pt2") as session:
        for rows in (
            slice(0, 9),
            slice(0, 8),
            slice(1, 8),
            slice(3, 4),
        ):  # more than one size from one session
            outcome = compare(reference[rows], session.run({"input": images[rows]})["logits"])
            assert outcome.passed, outcome.failures
            assert outcome.max_error is not None
            assert outcome.max_error < 5e-6
            bound = session.bind({"input": images[rows]})
            assert (bound.boundary, bound.cuda_stream) == ("host", None)
            bound.enqueue()
            bound.synchronize()
            assert compare(reference[rows], bound.fetch()["logits"]).passed
        assert delivered_share(session.delivered(), weights.config, "float32") == 1.0


@compiles
def test_results_belong_to_the_caller_and_bound_inputs_to_the_session(
    artifact: Artifact, images: Any
) -> None:
    with open_session(artifact, CPU, "pt2") as session:
        first = session.run({"input": images[:2]})["logits"]
        kept = first.copy()
        session.run({"input": images[2:4]})
        np.testing.assert_array_equal(first, kept)
        mine = images[:2].copy()
        bound = session.bind({"input": mine})
        mine[:] = 0
        for _ in range(3):
            bound.enqueue()
        fetched = bound.fetch()["logits"]
        np.testing.assert_allclose(fetched, kept, rtol=1e-6)
        fetched[:] = 0
        assert bound.fetch()["logits"].any()


@compiles
def test_two_sessions_of_one_package_do_not_disturb_each_other(
    artifact: Artifact, images: Any
) -> None:
    with open_session(artifact, CPU, "pt2") as one:
        alone = one.run({"input": images})["logits"]
        one_bound = one.bind({"input": images[:1]})
        with open_session(artifact, CPU, "pt2") as two:
            two_bound = two.bind({"input": images[1:3]})
            one_bound.enqueue()
            two_bound.enqueue()
            np.testing.assert_allclose(one_bound.fetch()["logits"], alone[:1], atol=1e-5)
            np.testing.assert_allclose(two_bound.fetch()["logits"], alone[1:3], atol=1e-5)
        two.close()
        np.testing.assert_allclose(one.run({"input": images})["logits"], alone, atol=1e-5)
    one.close()


@compiles
def test_the_number_of_threads_is_the_session_s(artifact: Artifact, images: Any) -> None:
    before = torch.get_num_threads()
    try:
        with open_session(artifact, SessionOptions(threads=1), "pt2") as session:
            assert session.delivered().notes["threads"] == "1"
            session.run({"input": images})
    finally:
        torch.set_num_threads(before)


@compiles
def test_altered_weights_are_caught_by_the_digest_and_else_by_parity(
    weights: Weights, artifact: Artifact, images: Any, tmp_path: Path
) -> None:
    row = weights.state_dict["fc.weight"].numpy()[3]
    data = artifact.path.read_bytes()
    assert data.count(row.tobytes()) == 1
    path = tmp_path / artifact.path.name
    altered = data.replace(row.tobytes(), row[::-1].tobytes())
    path.write_bytes(altered)
    shutil.copy(artifact.directory / "manifest.json", tmp_path)
    with pytest.raises(BadArtifact, match="does not have the sha256 of its manifest"):
        read_artifact(tmp_path)
    record = read_package(artifact.path).record
    with pytest.raises(BadArtifact, match="does not have its checksum: damaged"):
        open_session(sealed(path, weights, record), CPU, "pt2")
    with zipfile.ZipFile(path, "w") as whole, zipfile.ZipFile(artifact.path) as archive:
        for entry in archive.infolist():
            content = archive.read(entry)
            whole.writestr(entry.filename, content.replace(row.tobytes(), row[::-1].tobytes()))
    resealed = sealed(path, weights, record)
    with open_session(resealed, CPU, "pt2") as session:
        logits = session.run({"input": images})["logits"]
    outcome = compare(reference_logits(weights, images), logits)
    assert not outcome.passed
    assert outcome.max_error is not None
    assert outcome.max_error > 1e-2


@compiles
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


# ---- the fake must not be kinder than the library


def test_the_fake_reads_memory_as_compiled_code_does() -> None:
    fake = FakeLoader(lambda tensor: tensor * torch.arange(4.0))
    transposed = torch.arange(8.0).reshape(4, 2).t()  # compiled code sees 0 to 7, row by row
    assert fake.run([transposed])[0].tolist() == [[0, 1, 4, 9], [0, 5, 12, 21]]
    with pytest.raises(RuntimeError, match="expected inputs vector size to be 1, but got 0"):
        fake.run([])


@compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_code_reads_memory_so(tmp_path: Path) -> None:
    class Scale(torch.nn.Module):
        def forward(self, tensor: torch.Tensor) -> torch.Tensor:
            return tensor * torch.arange(4.0)

    program = torch.export.export(Scale(), (torch.zeros(2, 4),))
    path = torch._inductor.aoti_compile_and_package(
        program, package_path=str(tmp_path / "scale.pt2")
    )
    loader = torch._C._aoti.AOTIModelPackageLoader(path, "model", True, 1, -1)
    assert loader.run([torch.arange(8.0).reshape(4, 2).t()])[0].tolist() == [
        [0, 1, 4, 9],
        [0, 5, 12, 21],
    ]
    with pytest.raises(RuntimeError, match="expected inputs vector size to be 1, but got 0"):
        loader.run([])
