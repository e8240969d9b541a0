"""Weights into an engine that was built without: refusals, and a manifest that says what is in it
afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import onnx
import pytest
from click.testing import CliRunner, Result

from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import BatchRange, CheckRecord
from resnext.artifact.records import EngineOptions
from resnext.errors import (
    BadArtifact,
    BadWeights,
    EngineRefused,
    GateFailed,
    ResnextError,
    SessionFailed,
)
from resnext.machine.cuda_driver import Driver, Gpu
from resnext.readers.files import file_sha256
from resnext.runtimes.trt import log as trt_log
from resnext.runtimes.trt.identity import engine_name
from resnext.weights.checkpoint import save_weights
from resnext.weights.spec import Weights
from resnext_export import ExportRequest, proof
from resnext_export.cli.export import main
from resnext_export.convert import onnx_from_torch
from resnext_export.formats.tensorrt import refit_engine
from resnext_export.pipeline import rebuild
from resnext_export.tensorrt import refit as refitted_from_engine

Change = Callable[[Artifact, Callable[[dict[str, Any]], None]], Artifact]
OPTIONS = EngineOptions(profiles=(BatchRange.parse("1:8:64"),), strip_weights=True)
ADA = Driver(None, 1, "13.0", (Gpu("NVIDIA L4", "8.9"),))


# ---- the library, planted


class Error:
    """One error of a parser."""

    def __init__(self, node: str, text: str) -> None:
        self._node, self._text = node, text

    def node(self) -> int:
        return 3 if self._node else -1

    def node_name(self) -> str:
        return self._node

    def node_operator(self) -> str:
        return "Conv" if self._node else ""

    def desc(self) -> str:
        return self._text


class Library:
    """A library and its module in one: says yes to everything but ``refuses``."""

    title = "TensorRT"
    __name__ = "planted"
    SerializationFlag = SimpleNamespace(EXCLUDE_WEIGHTS="EXCLUDE_WEIGHTS")

    class ILogger:
        Severity = SimpleNamespace(ERROR="E", INTERNAL_ERROR="F", WARNING="W")

    def __init__(
        self,
        refuses: str = "",
        *,
        says: str = "",
        errors: tuple[Error, ...] = (),
        missing: tuple[str, ...] = (),
    ) -> None:
        self._refuses, self._says, self._errors, self._missing = refuses, says, errors, missing
        self.steps: list[Any] = []
        self._logger: Any = None

    def load(self) -> Library:
        return self

    def _does(self, step: str, *facts: Any) -> bool:
        self.steps.append((step, *facts))
        if step == self._refuses and self._says:
            self._logger.log("E", self._says)
        return step != self._refuses

    def runtime(self, _trt: Any, logger: Any, options: EngineOptions) -> Any:
        assert options == OPTIONS
        self._logger = logger

        def deserialize(data: bytes) -> Any:
            return engine if self._does("deserialize", data) else None

        def serialize(config: Any) -> bytes | None:
            return b"whole" if self._does("serialize", tuple(config.flags)) else None

        config = SimpleNamespace(flags=["EXCLUDE_WEIGHTS"])
        config.clear_flag = config.flags.remove
        engine = SimpleNamespace(
            refittable=self._refuses != "refittable",
            create_serialization_config=lambda: config,
            serialize_with_config=serialize,
        )
        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    def Refitter(self, _engine: Any, _logger: Any) -> Any:  # noqa: N802  # the library's name
        return SimpleNamespace(
            refit_cuda_engine=lambda: self._does("refit"),
            get_missing_weights=lambda: list(self._missing),
        )

    def OnnxParserRefitter(self, _refitter: Any, _logger: Any) -> Any:  # noqa: N802  # likewise
        return SimpleNamespace(
            refit_from_bytes=lambda data: self._does("parse", data),
            num_errors=len(self._errors),
            get_error=lambda index: self._errors[index],
        )


@pytest.fixture(autouse=True)
def _no_logger_of_an_earlier_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_log, "_LOGGERS", {})


def refit_with(library: Library) -> bytes:
    return refitted_from_engine.refitted_from_engine(b"thin", b"model", library, OPTIONS)  # type: ignore[arg-type]


def test_the_engine_is_written_with_its_weights() -> None:
    library = Library()
    assert refit_with(library) == b"whole"
    assert library.steps == [
        ("deserialize", b"thin"),
        ("parse", b"model"),
        ("refit",),
        ("serialize", ()),
    ]


@pytest.mark.parametrize(
    ("library", "error", "said", "nodes"),
    [
        (
            Library("deserialize", says="Error Code 1: Serialization (wrong version.)"),
            SessionFailed,
            "TensorRT cannot load the engine: wrong version",
            (),
        ),
        (
            Library("refittable"),
            EngineRefused,
            "the engine takes no weights; refit the one built without weights",
            (),
        ),
        (
            Library(
                "parse",
                errors=(Error("conv1", "shapes differ"), Error("fc", "missing"), Error("", "more")),
            ),
            EngineRefused,
            "TensorRT refuses the weights: node 'conv1': shapes differ",
            ("conv1", "fc"),
        ),
        (
            Library("parse", errors=(Error("", "ParseFromCodedStream failed"),)),
            EngineRefused,
            "TensorRT refuses the weights: this is not an ONNX file, or it is cut short",
            (),
        ),
        (
            Library("parse", says="no such weights"),
            EngineRefused,
            "TensorRT refuses the weights: no such weights",
            (),
        ),
        (
            Library("refit", missing=("conv1.weight", "fc.bias")),
            EngineRefused,
            "TensorRT cannot refit: 2 weights are missing, first conv1.weight",
            (),
        ),
        (
            Library("refit", says="out of memory"),
            EngineRefused,
            "TensorRT cannot refit: out of memory",
            (),
        ),
        (Library("refit"), EngineRefused, "TensorRT cannot refit: the library gave no reason", ()),
        (
            Library("serialize", says="no room"),
            EngineRefused,
            "TensorRT cannot write the refitted engine: no room",
            (),
        ),
    ],
)
def test_a_refusal_gives_the_librarys_reason(
    library: Library, error: type[ResnextError], said: str, nodes: tuple[str, ...]
) -> None:
    with pytest.raises(error) as caught:
        refit_with(library)
    assert str(caught.value) == said
    assert getattr(caught.value, "nodes", ()) == nodes


# ---- the artifact


class Planted:
    """Inputs and results of the library."""

    data: ClassVar[bytes] = b"an engine with weights"

    def __init__(self) -> None:
        self.given: list[tuple[bytes, onnx.ModelProto, EngineOptions]] = []
        self.proven: list[str] = []

    def refit(
        self, data: bytes, onnx_data: bytes, _library: object, options: EngineOptions
    ) -> bytes:
        self.given.append((data, onnx.load_from_string(onnx_data), options))
        return self.data

    def prove(self, artifact: Artifact, expected: proof.Expected, backend: str) -> CheckRecord:
        assert artifact.path.read_bytes() == self.data
        self.proven.append(backend)
        return CheckRecord(
            batches=expected.batches, backend=backend, max_error=0.001, tolerance=0.05
        )


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Planted:
    found = Planted()
    monkeypatch.setattr(refitted_from_engine, "refitted_from_engine", found.refit)
    monkeypatch.setattr(proof, "prove", found.prove)
    return found


@pytest.fixture
def exported(digits_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """No export, for what does not hang on the graph."""
    proto = onnx.load(str(digits_artifact.path))
    monkeypatch.setattr(onnx_from_torch, "onnx_from_torch", lambda *_, **__: proto)


@pytest.fixture
def thin(fp16_engine: Artifact, changed: Change) -> Artifact:
    return changed(fp16_engine, lambda m: m["engine"]["options"].update(strip_weights=True))


@pytest.fixture
def newer(digits: Weights, tmp_path: Path) -> Path:
    """Other weights of the same network, with the same preprocessing and class names."""
    state = {
        name: tensor * 1.01 if name == "fc.weight" else tensor
        for name, tensor in digits.state_dict.items()
    }
    other = Weights(digits.config, state, "newer", digits.preprocessing, digits.class_names)
    save_weights(other, tmp_path / "newer.safetensors")
    return tmp_path / "newer.safetensors"


def test_a_refitted_engine_says_what_it_holds_and_was_proven(
    thin: Artifact, digits: Weights, planted: Planted, tmp_path: Path
) -> None:
    refit_engine(thin, None, tmp_path / "whole")
    manifest = read_artifact(tmp_path / "whole").manifest
    assert (
        manifest.file_sha256
        == file_sha256(tmp_path / "whole" / "model.engine")
        != thin.manifest.file_sha256
    )
    assert manifest.parent_sha256 == thin.manifest.file_sha256
    assert manifest.weights.sha256 == digits.sha256
    assert manifest.engine is not None
    assert manifest.engine.refitted
    assert manifest.engine.options == thin.manifest.engine.options  # type: ignore[union-attr]  # an engine has one
    assert engine_name(manifest, refittable=True) == engine_name(thin.manifest, refittable=True)
    ((data, proto, options),) = planted.given
    assert data == thin.path.read_bytes()
    assert options.strip_weights
    assert "layer3.0.conv2" in {node.name for node in proto.graph.node}
    assert onnx.TensorProto.FLOAT16 in {
        tensor.data_type for tensor in proto.graph.initializer
    }  # as the engine
    assert planted.proven == ["trt-rtx"]
    assert manifest.check is not None


@pytest.mark.usefixtures("exported")
def test_other_weights_of_the_same_network_may_be_put_in(
    thin: Artifact, planted: Planted, newer: Path, tmp_path: Path
) -> None:
    manifest = refit_engine(thin, str(newer), tmp_path / "whole", check=False).manifest
    assert manifest.weights.sha256 != thin.manifest.weights.sha256
    assert manifest.check is None
    assert planted.proven == []


@pytest.mark.usefixtures("planted", "exported")
def test_a_refitted_engine_is_rebuilt_with_its_weights_inside(
    fp16_engine: Artifact, changed: Change, digits: Weights, tmp_path: Path
) -> None:
    def strip(manifest: dict[str, Any]) -> None:
        manifest["engine"]["options"]["strip_weights"] = True
        manifest["request"]["options"]["strip_weights"] = True

    whole = refit_engine(changed(fp16_engine, strip), None, tmp_path / "whole", check=False)
    assert fp16_engine.manifest.request is not None
    assert whole.manifest.request == {**fp16_engine.manifest.request, "weights": "digits"}
    again = rebuild(whole.directory, tmp_path / "again", check=False).manifest
    assert again.weights.sha256 == digits.sha256
    assert again.engine is not None
    assert not again.engine.options.strip_weights
    assert not again.engine.refitted


@pytest.mark.usefixtures("planted", "exported")
@pytest.mark.parametrize("from_onnx", [True, False])
def test_other_weights_are_rebuilt_unless_an_onnx_file_has_the_old_ones(
    from_onnx: bool, thin: Artifact, newer: Path, tmp_path: Path
) -> None:
    if not from_onnx:
        manifest = thin.directory / "manifest.json"
        raw = json.loads(manifest.read_text())
        del raw["request"]["onnx"]
        manifest.write_text(json.dumps(raw))
    whole = refit_engine(read_artifact(thin.directory), str(newer), tmp_path / "whole", check=False)
    if from_onnx:
        assert whole.manifest.request is None
        with pytest.raises(BadArtifact, match="refit the engine without weights again"):
            rebuild(whole.directory)
    else:
        assert whole.manifest.request is not None
        request = ExportRequest(**whole.manifest.request)
        assert (request.weights, request.model) == (str(newer), "resnext11_8x4d_digits")


@pytest.mark.parametrize(
    "spec", ["fashion-mnist", "seeded:1"]
)  # another network; other class names
def test_weights_that_the_engine_was_not_built_for_are_refused(
    spec: str, thin: Artifact, planted: Planted, tmp_path: Path
) -> None:
    with pytest.raises(BadWeights):
        refit_engine(thin, spec, tmp_path / "whole")
    assert planted.given == []
    assert not (tmp_path / "whole").exists()


@pytest.mark.usefixtures("exported")
def test_a_refitted_engine_that_computes_something_else_is_not_written(
    thin: Artifact, planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prove(*_: object) -> CheckRecord:
        raise GateFailed("planted")

    monkeypatch.setattr(proof, "prove", prove)
    with pytest.raises(GateFailed, match="planted"):
        refit_engine(thin, None, tmp_path / "whole")
    assert planted.given
    assert [path.name for path in tmp_path.iterdir()] == ["changed"]


# ---- the command


def refit(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["refit", *map(str, arguments)], prog_name="resnext-export")


def error(result: Result) -> str:
    assert "Traceback" not in result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.usefixtures("planted", "exported")
def test_the_command_says_what_it_put_in(
    thin: Artifact, newer: Path, tmp_path: Path, plant_driver: Callable[[Driver], None]
) -> None:
    plant_driver(ADA)
    result = refit(thin.directory, "--weights", newer, "--output", tmp_path / "whole")
    assert result.exit_code == 0, result.output
    manifest = read_artifact(tmp_path / "whole").manifest
    assert f"weights   {newer}, sha256 {manifest.weights.sha256}\n" in result.stdout
    assert "parity    ok: max error 1.0e-03 on trt-rtx\n" in result.stdout
    again = refit(thin.directory, "--output", tmp_path / "whole", "--no-check")
    assert again.exit_code == 2
    assert "--force" in error(again)
    forced = refit(thin.directory, "--output", tmp_path / "whole", "--no-check", "--force")
    assert "parity    NOT CHECKED (--no-check)\n" in forced.stdout


def test_without_a_gpu_it_is_exit_3(thin: Artifact, tmp_path: Path) -> None:
    result = refit(thin.directory, "--output", tmp_path / "whole")
    assert result.exit_code == 3
    assert "runs on an NVIDIA GPU only: the NVIDIA driver is not installed" in error(result)
    assert not (tmp_path / "whole").exists()


def test_an_artifact_that_has_its_weights_is_exit_2(
    engine: Artifact, digits_artifact: Artifact, tmp_path: Path
) -> None:
    for artifact in (engine, digits_artifact):
        result = refit(artifact.directory, "--output", tmp_path / "whole")
        assert result.exit_code == 2
        assert (
            "is not an engine without weights; build one with --format trt --strip-weights"
            in error(result)
        )


def test_no_output_or_no_artifact_is_one_line(engine: Artifact, tmp_path: Path) -> None:
    assert refit(engine.directory).exit_code == 2
    missing = refit(tmp_path / "none", "--output", tmp_path / "whole")
    assert missing.exit_code == 4
    error(missing)
