"""Write an ONNX file, and validate the written bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from resnext.errors import BadArtifact, GateFailed, first_line

FILE_NAME = "model.onnx"


def write_onnx(proto: onnx.ModelProto, folder: Path) -> Path:
    """Write ``proto`` to ``folder``, and validate the file. Drops large weights from ``proto``.

    Raises:
        BadArtifact: it is not valid ONNX.
        GateFailed: a tensor has no known shape.
    """
    path = folder / FILE_NAME
    # The least that the opset needs, so that no runtime refuses the file for its newness. Notes on
    # nodes are from IR 10; earlier readers skip fields that they do not know.
    opsets = list(proto.opset_import)
    proto.ir_version = onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    path.write_bytes(proto.SerializeToString())
    _check_file(path)
    _check_shapes_known(proto)
    return path


def _check_file(path: Path) -> None:
    """ONNX's own full check, with strict shape inference, on the written file."""
    with _onnx_errors(path):
        # Given a path, ONNX reads the file itself; nothing is serialized again.
        onnx.checker.check_model(str(path), full_check=True)


def _check_shapes_known(proto: onnx.ModelProto) -> None:
    """Require an inferred shape for every tensor. Drops large weights from ``proto``."""
    for tensor in proto.graph.initializer:
        # Inference needs a weight's shape alone, and would copy its values twice.
        if len(tensor.raw_data) > 4096:
            tensor.ClearField("raw_data")
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    known = {value.name for value in (*inferred.graph.value_info, *inferred.graph.output)}
    unknown = [name for node in inferred.graph.node for name in node.output if name not in known]
    if unknown:
        raise GateFailed(
            f"ONNX shape inference gives no shape for {len(unknown)} tensors, first {unknown[0]}"
        )


@contextmanager
def _onnx_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise BadArtifact(f"{path.name} is not valid ONNX: {first_line(exc)}") from exc
