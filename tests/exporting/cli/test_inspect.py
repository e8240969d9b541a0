"""What an artifact says of itself, whether it loads here, and what precision its layers got: exit
codes for CI.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import Manifest
from resnext.machine.cuda_driver import Driver, Gpu
from resnext.network.layers import layers, macs
from resnext.runtimes.compatibility import loadable, machine_for
from resnext.runtimes.trt.library import RTX_DEFAULT_TARGETS, Library
from resnext_export.cli.export import main
from resnext_export.cli.inspect import rebuild_command
from resnext_export.request import ExportRequest

Change = Callable[[Artifact, Callable[[dict[str, Any]], None]], Artifact]
ADA = Driver(None, 1, "13.0", (Gpu("NVIDIA L4", "8.9"),))
HOPPER = Driver(None, 1, "13.0", (Gpu("NVIDIA H200", "9.0"),))


def inspect(artifact: Artifact | Path, *arguments: str) -> Result:
    path = artifact if isinstance(artifact, Path) else artifact.directory
    return CliRunner().invoke(main, ["inspect", str(path), *arguments], prog_name="resnext-export")


def error(result: Result) -> str:
    assert "Traceback" not in result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def lines(result: Result) -> dict[str, str]:
    """What is said before the table, by its first word."""
    return {line[:11].strip(): line[11:] for line in result.stdout.splitlines()}


# ---- the passport


def test_an_engines_passport_is_read_from_its_manifest(rtx: Library, fp16_engine: Artifact) -> None:
    result = inspect(fp16_engine)
    assert result.exit_code == 0, result.output
    said = lines(result)
    assert f"trt-rtx, tensorrt_rtx {rtx.version})" in said["artifact"]
    assert said["sha256"] == fp16_engine.manifest.file_sha256
    assert said["model"] == "resnext11_8x4d_digits, weights digits, fp16"
    assert said["batch"] == "1..64"
    assert said["parity"] == "none recorded"
    assert said["for"] == "sm_89, sm_120"
    assert "no GPU, in " in said["built"]
    assert said["here"].startswith("cannot be loaded: the NVIDIA driver is not installed")
    assert said["here"].endswith("-> run it on a machine with an NVIDIA GPU and driver")
    assert "rebuild" not in said  # it would not help
    assert (
        said["delivered"]
        == "float16 in 100.0% of convolution and product FLOPs (from the manifest, build log)"
    )


def test_the_file_in_the_folder_will_do(fp16_engine: Artifact) -> None:
    assert inspect(fp16_engine.path).stdout == inspect(fp16_engine).stdout


def test_every_layer_is_printed_whole_unless_told_otherwise(fp16_engine: Artifact) -> None:
    printed = inspect(fp16_engine).stdout
    assert fp16_engine.manifest.engine is not None
    rows = printed.splitlines()
    for layer in fp16_engine.manifest.engine.layers:
        begins = (", ".join(layer.nodes) or layer.name) + " "
        told = (layer.kind, layer.dtype, *layer.inputs, *layer.outputs, layer.tactic)
        assert any(row.startswith(begins) and all(part in row for part in told) for row in rows), (
            layer
        )
    assert "correlation" not in inspect(fp16_engine, "--no-layers").stdout


def test_no_target_is_said_in_words(engine: Artifact) -> None:
    assert lines(inspect(engine))["for"] == RTX_DEFAULT_TARGETS


def test_layers_may_be_called_anything(engine: Artifact, changed: Change) -> None:
    odd = "{ForeignNode[conv1...[/fc]]} :smile:"
    artifact = changed(engine, lambda m: m["engine"]["layers"][0].update(name=odd, nodes=[]))
    result = inspect(artifact)
    assert result.exit_code == 0, result.output
    assert odd in result.stdout


# ---- loadable or not


def test_an_engine_that_fits_the_machine_is_loadable(
    fp16_engine: Artifact, plant_driver: Callable[[Driver], None]
) -> None:
    plant_driver(ADA)
    result = inspect(fp16_engine, "--require-loadable")
    assert result.exit_code == 0, result.output
    assert lines(result)["here"] == "this machine can load it"


def test_an_engine_without_a_gpu_is_not_loadable(fp16_engine: Artifact) -> None:
    result = inspect(fp16_engine, "--require-loadable")
    assert result.exit_code == 3
    assert f"{fp16_engine.path} does not load here: the NVIDIA driver is not installed" in error(
        result
    )


def test_an_engine_for_another_gpu_comes_with_the_way_to_build_one(
    fp16_engine: Artifact, plant_driver: Callable[[Driver], None]
) -> None:
    plant_driver(Driver(None, 1, "13.0", (Gpu("NVIDIA A10", "8.6"),)))
    result = inspect(fp16_engine, "--require-loadable")
    assert result.exit_code == 3
    assert "it was built for sm_89, sm_120, NVIDIA A10 has 8.6" in error(result)
    assert lines(result)["here"].endswith(" -> export it again, with target sm_86")
    assert "rebuild" not in lines(result)


def test_stripped_weights_are_an_obstacle_with_a_way_out(
    fp16_engine: Artifact, changed: Change, plant_driver: Callable[[Driver], None]
) -> None:
    plant_driver(ADA)
    thin = changed(fp16_engine, lambda m: m["engine"]["options"].update(strip_weights=True))
    result = inspect(thin, "--require-loadable")
    assert result.exit_code == 3
    assert "put weights in with refit" in lines(result)["here"]


# ---- delivered or not


def one_layer_in_float32(manifest: dict[str, Any]) -> None:
    (layer,) = [
        layer for layer in manifest["engine"]["layers"] if layer["nodes"][:1] == ["layer2.0.conv1"]
    ]
    layer["dtype"] = "float32"


def test_what_was_delivered_passes(fp16_engine: Artifact, engine: Artifact) -> None:
    for artifact in (fp16_engine, engine):
        assert inspect(artifact, "--require-delivered", "1").exit_code == 0


def test_one_convolution_of_another_precision_is_caught(
    fp16_engine: Artifact, changed: Change
) -> None:
    artifact = changed(fp16_engine, one_layer_in_float32)
    config = artifact.manifest.network
    (lost,) = [layer.macs for layer in layers(config) if layer.name == "layer2.0.conv1"]
    share = 1 - lost / macs(config)
    result = inspect(artifact, "--require-delivered", "0.99")
    assert result.exit_code == 1
    assert (
        f"delivers fp16 to {share:.2%} of its convolution and product FLOPs, 99.00% were required"
        in error(result)
    )
    assert (
        f"float16 in {share:.1%} of convolution and product FLOPs; not in layer2.0.conv1 float32"
        in result.stdout
    )
    assert inspect(artifact, "--require-delivered", f"{share - 0.01}").exit_code == 0


def test_an_engine_of_another_precision_than_asked_for_is_caught(
    fp16_engine: Artifact, changed: Change
) -> None:
    result = inspect(
        changed(fp16_engine, lambda m: m.update(precision="fp32")), "--require-delivered", "0.01"
    )
    assert result.exit_code == 1
    assert "delivers fp32 to 0.00%" in error(result)


def test_an_engine_that_says_nothing_of_its_layers_delivers_nothing(
    engine: Artifact, changed: Change
) -> None:
    artifact = changed(engine, lambda m: m["engine"].update(layers=[], layers_from="nothing"))
    result = inspect(artifact, "--require-delivered", "0.99")
    assert result.exit_code == 1
    assert (
        "not in conv1 unseen, layer1.0.conv1 unseen, layer1.0.conv2 unseen and 11 more"
        in result.stdout
    )


@pytest.mark.parametrize(("tf32", "code"), [(True, 0), (False, 1)])
def test_tf32_counts_where_it_was_allowed(
    tf32: bool, code: int, engine: Artifact, changed: Change
) -> None:
    def round_some(manifest: dict[str, Any]) -> None:
        manifest["engine"]["options"]["tf32"] = tf32
        for layer in manifest["engine"]["layers"]:
            if "layer2.0.conv1" in layer["nodes"] or "fc" in layer["nodes"]:
                layer["dtype"] = "tfloat32"

    assert inspect(changed(engine, round_some), "--require-delivered", "1").exit_code == code


# ---- asked of a running session


@pytest.mark.parametrize(
    "backend",
    ["ort", "ort-cpu", "torch", pytest.param("torch-compile", marks=pytest.mark.exhaustive)],
)
def test_an_onnx_file_is_asked_of_a_backend(backend: str, digits_artifact: Artifact) -> None:
    gate = (
        [] if backend.startswith("torch") else ["--require-delivered", "1"]
    )  # a live model speaks for no file
    result = inspect(digits_artifact, "--backend", backend, *gate, "--require-loadable")
    assert result.exit_code == 0, result.output
    said = lines(result)
    assert said["delivered"].startswith(
        "float32 in 100.0% of convolution and product FLOPs (reported by " + backend
    )
    assert "ok on ort-cpu when made, batch 1, 7: max error" in said["parity"]
    assert {"built", "here", "for"}.isdisjoint(said)
    assert "layer3.0.conv2" in result.stdout


def test_a_static_file_is_asked_too(static_artifact: Artifact) -> None:
    assert (
        inspect(static_artifact, "--backend", "ort-cpu", "--require-delivered", "1").exit_code == 0
    )
    assert inspect(static_artifact, "--backend", "torch").exit_code == 0


def test_a_cpu_that_computes_fp16_files_in_float32_is_caught(fp16_artifact: Artifact) -> None:
    result = inspect(fp16_artifact, "--backend", "ort-cpu", "--require-delivered", "0.99")
    assert result.exit_code == 1
    assert "delivers fp16 to 0.00%" in error(result)


def test_a_backend_without_its_device_is_exit_3(engine: Artifact) -> None:
    result = inspect(engine, "--backend", "trt-rtx")
    assert result.exit_code == 3
    assert "runs on an NVIDIA GPU only: the NVIDIA driver is not installed" in error(result)


def test_a_backend_that_runs_no_engines_is_refused(engine: Artifact) -> None:
    result = inspect(engine, "--backend", "ort-cpu")
    assert result.exit_code in (2, 4)
    error(result)


# ---- JSON


@pytest.mark.parametrize("code", [0, 1])
def test_json_alone_is_on_stdout(code: int, fp16_engine: Artifact, changed: Change) -> None:
    artifact = changed(fp16_engine, one_layer_in_float32) if code else fp16_engine
    result = inspect(artifact, "--json", "-", "--require-delivered", "0.99")
    assert result.exit_code == code
    facts = json.loads(result.stdout)
    assert Manifest.model_validate(facts["manifest"]) == artifact.manifest
    assert facts["loadable_here"] is False
    assert [obstacle["rebuild"] for obstacle in facts["obstacles"]] == [False]
    assert (facts["remarks"], facts["rebuild"]) == ([], None)
    assert (facts["delivered_share"] == 1.0) is (code == 0)
    assert facts["delivered_source"] == "from the manifest, build log"
    assert artifact.manifest.engine is not None
    assert [layer["dtype"] for layer in facts["delivered"]] == [
        layer.dtype for layer in artifact.manifest.engine.layers
    ]


def test_json_in_a_file_comes_beside_the_text(engine: Artifact, tmp_path: Path) -> None:
    result = inspect(engine, "--json", str(tmp_path / "facts.json"))
    assert lines(result)["model"]
    assert json.loads((tmp_path / "facts.json").read_text())["delivered_share"] == 1.0


# ---- calls that are off


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--backend", "tensorrt"], "unknown backend 'tensorrt'"),
        (["--require-delivered", "99"], "99.0 is not in the range 0<=x<=1"),
        (["--precision", "fp16"], "No such option"),
    ],
)
def test_a_call_that_is_off_is_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = inspect(tmp_path, *arguments)
    assert result.exit_code == 2
    assert said.lower() in error(result).lower()


def test_no_artifact_or_a_damaged_one_is_exit_4(
    engine: Artifact, changed: Change, tmp_path: Path
) -> None:
    assert inspect(tmp_path / "none").exit_code == 4
    artifact = changed(engine, lambda _: None)
    artifact.path.write_bytes(artifact.path.read_bytes()[:-1])
    result = inspect(artifact)
    assert result.exit_code == 4
    assert "truncated or altered" in error(result)


def edited_text(engine: Artifact, folder: Path, *changes: tuple[str, str]) -> Path:
    """The engine beside a manifest in whose text somebody replaced words."""
    copy = folder / "edited"
    shutil.copytree(engine.directory, copy)
    text = (copy / "manifest.json").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (copy / "manifest.json").write_text(text)
    return copy


@pytest.mark.parametrize(
    "changes",
    [
        [
            ('"precision": "fp32"', '"precision": "fp16"'),
            ('"dtype": "float32"', '"dtype": "float16"'),
        ],
        [('"tf32": false', '"tf32": true')],
        [('"resize": 8', '"resize": 9')],
    ],
)
def test_an_engine_whose_manifest_was_edited_is_refused_without_being_loaded(
    engine: Artifact, tmp_path: Path, changes: list[tuple[str, str]]
) -> None:
    path = edited_text(engine, tmp_path, *changes)
    result = CliRunner().invoke(main, ["inspect", str(path), "--require-delivered", "0.99"])
    assert result.exit_code == 4, result.output
    assert "does not agree with the engine" in result.stderr


def test_bytes_that_are_no_engine_are_refused_even_under_their_own_digest(
    engine: Artifact, tmp_path: Path
) -> None:
    path = edited_text(engine, tmp_path)
    (path / engine.manifest.file).write_bytes(b"noise" * 200)
    text = (path / "manifest.json").read_text()
    text = text.replace(engine.manifest.file_sha256, hashlib.sha256(b"noise" * 200).hexdigest())
    text = text.replace(
        f'"file_size_bytes": {engine.manifest.file_size_bytes}', '"file_size_bytes": 1000'
    )
    (path / "manifest.json").write_text(text)
    result = CliRunner().invoke(main, ["inspect", str(path)])
    assert result.exit_code == 4, result.output


def test_a_manifest_of_a_network_beyond_all_bounds_is_refused_at_once(
    engine: Artifact, tmp_path: Path
) -> None:
    depth = engine.manifest.network.depths[0]
    path = edited_text(
        engine, tmp_path, (f'"depths": [\n      {depth}', f'"depths": [\n      1{"0" * 30}')
    )
    result = CliRunner().invoke(main, ["inspect", str(path)])
    assert result.exit_code == 4, result.output


def test_a_narrow_terminal_shows_the_precision_before_anything_else(engine: Artifact) -> None:
    environment = {**os.environ, "TTY_COMPATIBLE": "1", "COLUMNS": "80"}
    command = [sys.executable, "-m", "resnext_export.cli.export", "inspect", str(engine.directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    heading = next(line for line in done.stdout.splitlines() if "computes in" in line)
    assert "tactic" not in heading
    assert sum("float32" in line for line in done.stdout.splitlines()) > len(
        list(layers(engine.manifest.network))
    )


@pytest.mark.parametrize(
    ("targets", "capability", "command"),
    [
        (("sm_89",), "8.9", "resnext-export rebuild 'out dir'"),
        (("sm_89",), "8.6", None),
        ((), "8.6", "resnext-export rebuild 'out dir'"),
        ((), "7.5", None),
    ],
)
def test_a_stored_request_is_the_way_to_rebuild_unless_it_is_for_other_gpus(
    targets: tuple[str, ...], capability: str, command: str | None, fp16_engine: Artifact
) -> None:
    manifest = fp16_engine.manifest
    assert manifest.engine is not None
    request = ExportRequest(format="trt-rtx", targets=targets)
    options = manifest.engine.options.model_copy(update={"targets": targets})
    engine = manifest.engine.model_copy(update={"options": options, "version": "1.0.0.1"})
    manifest = manifest.model_copy(update={"request": request.record(), "engine": engine})
    driver = Driver(None, 1, "13.0", (Gpu("some GPU", capability),))
    here = replace(machine_for(manifest), driver=driver)
    found = loadable(manifest, here)
    assert rebuild_command(Artifact(Path("out dir"), manifest), found, here) == command
    assert rebuild_command(Artifact(Path("out dir"), manifest), (), here) is None
    bare = Artifact(Path("out dir"), manifest.model_copy(update={"request": None}))
    assert rebuild_command(bare, found, here) is None
