"""What the exported file holds, and what is left when an export cannot end well."""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from exported import export_onnx
from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import BatchRange
from resnext.errors import BadArtifact, BadInput, GateFailed, MissingRequirement, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.network.config import ResNeXtConfig
from resnext.precision import Precision
from resnext.runtimes.registry import open_session
from resnext.weights.spec import Weights, load_weights
from resnext_export import proof
from resnext_export.formats import onnx_file


def load(artifact: Artifact) -> onnx.ModelProto:
    return onnx.load(artifact.path)


def first_dim(value: onnx.ValueInfoProto) -> str | int:
    dim = value.type.tensor_type.shape.dim[0]
    return str(dim.dim_param) or int(dim.dim_value)


def test_batch_is_symbolic_and_names_are_declared(digits_artifact: Artifact) -> None:
    graph = load(digits_artifact).graph
    assert [(value.name, first_dim(value)) for value in graph.input] == [("input", "batch")]
    assert [(value.name, first_dim(value)) for value in graph.output] == [("logits", "batch")]


def test_batch_norms_are_folded_and_convolutions_keep_their_module_names(
    digits_artifact: Artifact,
) -> None:
    nodes = load(digits_artifact).graph.node
    assert not [node for node in nodes if node.op_type == "BatchNormalization"]
    names = [node.name for node in nodes if node.op_type == "Conv"]
    assert len(names) == 13
    assert {"conv1", "layer1.0.conv2", "layer3.0.downsample.0"} <= set(names)


def test_one_self_contained_file_beside_the_manifest(digits_artifact: Artifact) -> None:
    assert sorted(path.name for path in digits_artifact.directory.iterdir()) == [
        "manifest.json",
        "model.onnx",
    ]
    assert not [t for t in load(digits_artifact).graph.initializer if t.external_data]


def test_metadata_of_the_bare_file_says_how_to_use_it(
    digits_artifact: Artifact, digits: Weights
) -> None:
    facts = {prop.key: prop.value for prop in load(digits_artifact).metadata_props}
    assert json.loads(facts["resnext.class_names"]) == list("0123456789")
    assert json.loads(facts["resnext.preprocessing"]) == digits.preprocessing.model_dump(
        mode="json"
    )
    assert facts["resnext.weights_sha256"] == digits.sha256


def test_the_file_names_no_path_of_the_machine_that_made_it(digits_artifact: Artifact) -> None:
    raw = digits_artifact.path.read_bytes()
    for private in (str(Path.cwd()), str(Path.home()), "site-packages", os.path.sep + "model.py"):
        assert private.encode() not in raw


@pytest.mark.parametrize("baked", [False, True])
def test_no_node_note_holds_the_dotted_path_of_a_class(
    digits: Weights, tmp_path: Path, baked: bool
) -> None:
    """Or moving a module would change the digest of every export."""
    written = export_onnx(digits, tmp_path / "out", bake_preprocessing=baked, check=False)
    nodes = load(written).graph.node
    notes = [(node.name, note.key, note.value) for node in nodes for note in node.metadata_props]
    assert {key for _, key, _ in notes} >= {
        "pkg.torch.onnx.name_scopes"
    }  # where in the network: this stays
    modules = re.compile(r"\b(resnext|resnext_export|torch\.nn|__main__)\.\w+|[A-Z]\w+Input\b")
    assert [note for note in notes if modules.search(note[2])] == []


def test_exporting_twice_gives_the_same_bytes(
    digits_artifact: Artifact, digits: Weights, tmp_path: Path
) -> None:
    again = export_onnx(digits, tmp_path / "again")
    assert again.manifest.file_sha256 == digits_artifact.manifest.file_sha256


def process_state() -> dict[str, object]:
    """What a library can change for the whole process and must put back."""
    loggers = {name: logging.getLogger(name) for name in logging.root.manager.loggerDict}
    return {
        "levels": {name: log.level for name, log in loggers.items() if log.level != logging.NOTSET},
        "disabled": logging.root.manager.disable,
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "threads": torch.get_num_threads(),
        "garbage collection": gc.isenabled(),
        "random state": torch.get_rng_state().tolist(),
        "element type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "folder": Path.cwd(),
    }


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.exhaustive)])
def test_an_export_leaves_the_process_as_it_was(
    digits: Weights, tmp_path: Path, precision: Precision
) -> None:
    export_onnx(
        digits, tmp_path / "first", precision=precision, check=False
    )  # imports may settle things once
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.INFO)
    before = process_state()
    export_onnx(digits, tmp_path / "second", precision=precision, check=False)
    after = process_state()
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.NOTSET)
    assert [name for name in before if before[name] != after[name]] == []


def test_manifest_describes_what_was_written_and_proven(
    digits_artifact: Artifact, digits: Weights
) -> None:
    manifest = read_artifact(digits_artifact.directory).manifest
    assert manifest == digits_artifact.manifest
    assert manifest.config == digits.config
    assert manifest.weights.sha256 == digits.sha256
    assert manifest.inputs[0].shape == (None, 1, 8, 8)
    assert manifest.check is not None
    assert manifest.check.batches == (1, 7)
    assert 0 < manifest.check.max_error < manifest.check.tolerance


def test_a_fixed_batch_is_fixed_and_another_is_refused(static_artifact: Artifact) -> None:
    assert first_dim(load(static_artifact).graph.input[0]) == 3
    assert static_artifact.manifest.check is not None
    assert static_artifact.manifest.check.batches == (3,)
    with (
        open_session(static_artifact, "ort-cpu") as session,
        pytest.raises(BadInput, match=r"batch 2 is not among the artifact's, 3; run it in"),
    ):
        session.run({"input": np.zeros((2, 1, 8, 8), np.float32)})


@pytest.mark.parametrize("batch", ["1", "1:1:1"])
def test_a_fixed_batch_of_one_can_be_asked_for(batch: str, digits: Weights, tmp_path: Path) -> None:
    artifact = export_onnx(digits, tmp_path / "one", batch=BatchRange.parse(batch))
    assert first_dim(load(artifact).graph.input[0]) == 1


def test_baked_preprocessing_takes_pixels_and_gives_the_same_logits(
    digits_artifact: Artifact, digits: Weights, tmp_path: Path
) -> None:
    baked = export_onnx(digits, tmp_path / "baked", bake_preprocessing=True)
    assert baked.manifest.preprocessing_baked
    assert baked.manifest.inputs[0].dtype == "uint8"
    pixels = seeded_pixels(digits.config, 5)
    with (
        open_session(baked, "ort-cpu") as pixel_session,
        open_session(digits_artifact, "ort-cpu") as plain,
    ):
        from_pixels = pixel_session.run({"input": pixels})["logits"]
        from_images = plain.run({"input": digits.preprocessing.normalize(pixels)})["logits"]
    np.testing.assert_allclose(
        from_pixels, from_images, rtol=0, atol=1e-5 * np.abs(from_images).max()
    )


def test_a_network_that_is_not_square_nor_of_ten_classes_exports(tmp_path: Path) -> None:
    config = ResNeXtConfig((1, 1), 4, 4, (24, 40), 3, 7, stem="small", stem_channels=8)
    artifact = export_onnx(load_weights("seeded:3", config), tmp_path / "odd")
    assert artifact.manifest.model is None
    assert artifact.manifest.inputs[0].shape == (None, 3, 24, 40)
    assert artifact.manifest.outputs[0].shape == (None, 7)


def test_no_check_is_written_into_the_manifest(digits: Weights, tmp_path: Path) -> None:
    assert export_onnx(digits, tmp_path / "unchecked", check=False).manifest.check is None


def test_weights_that_cannot_tell_images_apart_prove_nothing(
    digits: Weights, tmp_path: Path
) -> None:
    state = dict(digits.state_dict)
    state["fc.weight"] = state["fc.weight"] * 1e-6
    with pytest.raises(GateFailed, match="prove nothing"):
        export_onnx(replace(digits, state_dict=state), tmp_path / "blind")


def test_an_artifact_is_not_replaced_without_force(digits: Weights, tmp_path: Path) -> None:
    first = export_onnx(digits, tmp_path / "a", check=False)
    with pytest.raises(UsageError, match="`force`"):
        export_onnx(digits, tmp_path / "a")
    assert read_artifact(tmp_path / "a").manifest == first.manifest
    export_onnx(digits, tmp_path / "a", force=True)
    assert read_artifact(tmp_path / "a").manifest.check is not None


@pytest.mark.exhaustive
def test_the_old_artifact_stays_when_its_replacement_fails(
    digits: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = export_onnx(digits, tmp_path / "a", check=False)
    monkeypatch.setattr(proof, "prove", lambda *_: (_ for _ in ()).throw(GateFailed("planted")))
    with pytest.raises(GateFailed, match="planted"):
        export_onnx(digits, tmp_path / "a", force=True)
    assert read_artifact(tmp_path / "a").manifest == first.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_graph_that_fixes_the_batch_is_refused(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnext_export.convert import onnx_from_torch as converter

    real = converter._export

    def specialised(
        model: object, example: object, _dynamic: object, opset: int
    ) -> onnx.ModelProto:
        return real(model, example, None, opset)  # type: ignore[arg-type]  # what older exporters do to a batch of 1

    monkeypatch.setattr(converter, "_export", specialised)
    with pytest.raises(GateFailed, match="fixed the batch"):
        converter.onnx_from_torch(digits, BatchRange.parse("1:8"))


def test_a_graph_with_batch_norms_left_is_refused(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnext_export.convert import onnx_from_torch as converter

    real = converter._export

    def unfolded(*args: object) -> onnx.ModelProto:
        proto = real(*args)  # type: ignore[arg-type]  # passed through
        proto.graph.node.append(
            onnx.helper.make_node("BatchNormalization", list("abcde"), ["f"], name="left_over")
        )
        return proto

    monkeypatch.setattr(converter, "_export", unfolded)
    with pytest.raises(GateFailed, match="left_over"):
        converter.onnx_from_torch(digits, BatchRange.parse("1:8"))


@pytest.mark.parametrize(
    "fault", ["unknown operator", "weights of the wrong rank", "undefined input"]
)
def test_an_invalid_graph_is_refused_by_the_full_check(
    digits_artifact: Artifact, tmp_path: Path, fault: str
) -> None:
    proto = load(digits_artifact)
    conv = next(node for node in proto.graph.node if node.name == "layer1.0.conv2")
    if fault == "unknown operator":
        conv.op_type = "Convolve"
    elif fault == "undefined input":
        conv.input[0] = "nowhere"
    else:
        conv.input[1] = "fc.weight"
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(BadArtifact, match="not valid ONNX"):
        onnx_file._check_file(path)


def test_truncated_bytes_with_a_matching_manifest_are_one_clear_error(
    digits_artifact: Artifact, tmp_path: Path
) -> None:
    from resnext.artifact.files import seal
    from resnext.readers.files import file_sha256

    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(digits_artifact.path.read_bytes()[:1000])
    update = {"file_sha256": file_sha256(folder / "model.onnx"), "file_size_bytes": 1000}
    seal(folder, digits_artifact.manifest.model_copy(update=update))
    with pytest.raises(BadArtifact, match="is not an ONNX file, or it is cut short"):
        open_session(read_artifact(folder), "ort-cpu")


@pytest.mark.parametrize(
    ("number", "delay_s"),
    [
        pytest.param(signal.SIGINT, 0.0, marks=pytest.mark.exhaustive),
        (signal.SIGTERM, 0.4),
        pytest.param(signal.SIGINT, 0.4, marks=pytest.mark.exhaustive),
        pytest.param(signal.SIGTERM, 0.0, marks=pytest.mark.exhaustive),
    ],
)
def test_an_interrupted_export_leaves_nothing(
    number: signal.Signals, delay_s: float, tmp_path: Path
) -> None:
    # The child announces that staging began, then dawdles inside it, so that the signal meets a
    # half-written folder.
    script = (
        "import time, sys\nfrom resnext_export import proof\nfrom"
        " resnext_export.cli.export import main\nreal = proof.prove\ndef slow(*a):\n   "
        " print('staged', flush=True)\n    time.sleep(10)\nproof.prove ="
        " slow\nmain(['--format', 'onnx', '--weights', 'digits', '--output',"
        f" {str(tmp_path / 'out')!r}])\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "staged\n"
    assert [path.name.startswith(".out.partial") for path in tmp_path.iterdir()] == [True]
    time.sleep(delay_s)
    child.send_signal(number)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ,"
        " signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\nfrom"
        " resnext_export.cli.export import main\nmain(['--format', 'onnx', '--weights', 'digits',"
        f" '--output', {str(tmp_path / 'out')!r}])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == MissingRequirement.exit_code
    assert done.stderr.startswith("error: the disk has no room")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
