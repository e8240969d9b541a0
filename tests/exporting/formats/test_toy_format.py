"""The seam: a format that a test registers, and a runtime for it, get their flags, help, manifest,
check, rebuild and messages without another file knowing of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import onnx
import pytest
from annotated_types import Interval
from click.testing import CliRunner, Result

from resnext import open_session
from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import CheckRecord
from resnext.cli.parity import main as parity
from resnext.errors import BadArtifact, GateFailed, UnknownName, UsageError
from resnext.runtimes import registry
from resnext.runtimes.ort.cpu import CpuProvider
from resnext.runtimes.ort.session import OrtSession
from resnext.runtimes.registry import Runtime, SessionOptions, table
from resnext.verify.check import check
from resnext.version import __version__
from resnext.weights.spec import Weights
from resnext_export import FORMATS, ExportRequest, export, proof
from resnext_export.cli.export import main
from resnext_export.formats.base import Builder, builder_for
from resnext_export.options import FormatOptions, Option, options_of
from resnext_export.publish import Built, library_versions
from resnext_export.registry import Format


@dataclass(frozen=True)
class ToyOptions(FormatOptions):
    section: ClassVar[str] = "Toy"
    title: ClassVar[str] = "stamped files: "

    stamp: Annotated[str | None, Option("Text to put into the file.", metavar="TEXT")] = None
    copies: Annotated[int, Interval(ge=1, le=3), Option("Number of stamps.")] = 1


class ToyBuilder(Builder):
    """An ONNX artifact with a stamp in its metadata."""

    def build(
        self,
        source: Weights | Artifact,
        weights: Weights | Artifact,
        request: ExportRequest,
        folder: Path,
        **_: Any,
    ) -> Built:
        assert isinstance(source, Artifact)
        assert isinstance(request.options, ToyOptions)
        proto = onnx.load(source.path)
        stamps = [str(request.options.stamp)] * request.options.copies
        proto.metadata_props.add(key="stamp", value=" ".join(stamps))
        if request.options.stamp == "spoiled":
            bias = next(t for t in proto.graph.initializer if t.name == "fc.bias")
            bias.raw_data = bytes(len(bias.raw_data))
        (folder / "toy.onnx").write_bytes(proto.SerializeToString())

        def proven(artifact: Artifact) -> CheckRecord:
            manifest = artifact.manifest
            expected = proof.expect(weights, manifest.batch, manifest.numerics)
            return proof.prove(artifact, expected, "toy")

        return Built("toy.onnx", {"kind": "toy"}, library_versions(), proven)


TOY = Format(
    "toy", "a stamped ONNX file", "onnx", f"{__name__}:ToyBuilder", ToyOptions, scheme="ort"
)


def open_toy(subject: Artifact, options: SessionOptions, name: str) -> OrtSession:
    """What the door of the runtime's folder does."""
    return OrtSession(CpuProvider(subject, options, name))


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    door = SimpleNamespace(open_session=open_toy)
    monkeypatch.setitem(sys.modules, "resnext.runtimes.toy.door", door)
    row = Runtime("toy", "runs stamped files", "toy", "onnxruntime", ("toy",), ("cpu",))
    monkeypatch.setattr(registry, "RUNTIMES", table(*registry.RUNTIMES.values(), row))
    FORMATS.register(TOY)
    yield
    FORMATS.unregister("toy")


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args, prog_name="resnext-export")


def stamp_of(folder: Path) -> str:
    properties = onnx.load(read_artifact(folder).path).metadata_props
    return str(next(entry.value for entry in properties if entry.key == "stamp"))


def test_it_has_flags_and_a_help_section() -> None:
    lines = run("--help").stdout.splitlines()
    section = lines.index("Toy (--format toy):")
    assert lines[section + 1].split()[0] == "--stamp"
    assert lines[section + 2].split()[0] == "--copies"
    assert "toy: a stamped ONNX file" in " ".join(" ".join(lines).split())


def test_it_is_exported_checked_and_rebuilt_from_the_command_line() -> None:
    asked = ("--weights", "digits", "--stamp", "mine", "--copies", "2", "--precision", "fp16")
    result = run("--format", "toy", *asked)
    assert result.exit_code == 0, result.output
    folder = Path("digits-fp16-toy")
    manifest = read_artifact(folder).manifest
    assert manifest.kind == "toy"
    assert manifest.precision == "fp16"
    assert manifest.parent_sha256 is not None
    assert manifest.check is not None
    assert manifest.check.backend == "toy"
    assert ", on toy" in result.output
    assert stamp_of(folder) == "mine mine"
    result = run("rebuild", str(folder), "--output", "again")
    assert result.exit_code == 0, result.output
    assert read_artifact(Path("again")).manifest.file_sha256 == manifest.file_sha256


def test_it_is_exported_from_python() -> None:
    artifact = export("digits", "out", format="toy", stamp="mine")
    assert artifact.manifest.request == {
        "format": "toy",
        "weights": "digits",
        "options": {"stamp": "mine"},
    }
    assert stamp_of(artifact.directory) == "mine"


def test_it_is_checked_and_opened_as_its_own_kind() -> None:
    artifact = export("digits", "out", format="toy", stamp="mine", check=False)
    assert artifact.manifest.check is None
    assert check(artifact).passed
    with open_session("out") as session:
        assert session.backend == "toy"
    with pytest.raises(UsageError, match="runs artifacts of kind onnx, and out is of kind toy"):
        open_session("out", "ort-cpu")


@pytest.mark.parametrize("fields", [{"format": "onnx", "precision": "fp16"}, {"format": "trt-rtx"}])
def test_nothing_else_is_made_from_it(fields: dict[str, Any]) -> None:
    export("digits", "out", format="toy", check=False)
    with pytest.raises(UsageError, match="made from an ONNX artifact; out is of kind toy"):
        export("out", "more", **fields)


def test_without_the_format_its_manifest_says_who_wrote_it() -> None:
    folder = export("digits", "out", format="toy", check=False).directory
    edited = folder / "manifest.json"
    edited.write_text(edited.read_text().replace(f'"{__version__}"', '"99.0"'))
    FORMATS.unregister("toy")
    try:
        with pytest.raises(BadArtifact, match=r"unknown kind 'toy'.*wrote it \(99.0; ") as caught:
            read_artifact(folder)
        assert "\n" not in str(caught.value)
        result = CliRunner().invoke(parity, ["--artifact", str(folder)])
        assert result.exit_code == BadArtifact.exit_code
        assert "unknown kind 'toy'" in result.stderr
    finally:
        FORMATS.register(TOY)


def test_a_wrong_file_is_not_written() -> None:
    with pytest.raises(GateFailed, match="does not compute what PyTorch computes"):
        export("digits", "out", format="toy", stamp="spoiled")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--format", "onnx", "--stamp", "x"), "--stamp is for stamped files: --format toy"),
        (("--format", "toy", "--copies", "4"), "4 is not in the range 1<=x<=3"),
        (("--format", "toy", "--tf32"), "--tf32 is for engines: --format trt or trt-rtx"),
        (
            (
                "--format",
                "toys",
            ),
            "unknown format 'toys'; did you mean 'toy'?",
        ),
    ],
)
def test_what_does_not_go_is_one_line(args: tuple[str, ...], said: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert said in line


def test_a_name_or_an_option_is_registered_once() -> None:
    with pytest.raises(ValueError, match="a format 'toy' already"):
        FORMATS.register(TOY)

    @dataclass(frozen=True)
    class Other(FormatOptions):
        stamp: Annotated[str, Option("The same name.")] = ""

    with pytest.raises(ValueError, match="'toy' has an option 'stamp' already"):
        FORMATS.register(Format("other", "", "onnx", "", Other))
    with pytest.raises(UnknownName, match="did you mean 'toy'"):
        FORMATS["toi"]
    assert "other" not in FORMATS


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format_is_complete(name: str) -> None:
    row = FORMATS[name]
    assert row.name == name
    assert row.about
    assert isinstance(builder_for(ExportRequest(format=name)), Builder)
    known = options_of(row.options)
    assert list(known) == [each.name for each in fields(row.options)]
    assert all(option.help for option, _ in known.values())
    assert bool(known) == bool(row.options.section)
