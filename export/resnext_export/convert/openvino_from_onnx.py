"""OpenVINO IR from ONNX, both of its files packed into one."""

from __future__ import annotations

import io
import mmap
import re
import zipfile
from pathlib import Path
from typing import Any

from resnext.errors import BadArtifact, GateFailed, MissingRequirement, first_line
from resnext.runtimes.openvino.ir import (
    GRAPH_NAME,
    METADATA,
    WEIGHTS_NAME,
    read_ir,
    unpack_ovir,
    weight_dtypes,
)
from resnext.runtimes.openvino.library import ov, shared_core
from resnext.storage import scratch_folder

FILE_NAME = "model.ovir"
#: Offset of the weights in the file: on a cache line, as OpenVINO aligns its own memory.
_WEIGHTS_START = 64
#: The earliest timestamp of the ZIP format, so that the same model gives the same bytes.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def openvino_from_onnx(source: Path | bytes, metadata: dict[str, str]) -> bytes:
    """Convert an ONNX model to a packed IR.

    The IR is portable; a compiled network that OpenVINO exports is for one kind of processor and
    one version. An IR is a graph file and a weights file, and an artifact is a single file, so both
    are packed, uncompressed, into a ZIP file: after ``unzip`` any OpenVINO tool reads them, and a
    session maps the weights instead of copying them.

    Names of inputs, outputs and nodes are kept, and the element types of all weights, too: OpenVINO
    would store float32 weights as float16. Q/DQ nodes and integer weights of a quantized model are
    kept; OpenVINO fuses them when it compiles.

    Args:
        source: an ONNX file, or its bytes (weights included).
        metadata: facts to store in the file, by name (``resnext.class_names``); they are added to
            those of the ONNX file and override them.

    Returns:
        The bytes of a ``.ovir`` file; the same for the same model and version of OpenVINO.

    Raises:
        BadArtifact: OpenVINO cannot read the model.
        MissingRequirement: the temporary folder has no room.
        GateFailed: the packed weights have other types than the model's.
    """
    core = shared_core()
    try:
        model = core.read_model(source if isinstance(source, Path) else io.BytesIO(source))
    except RuntimeError as exc:
        reason = [line.strip() for line in str(exc).splitlines() if line.strip()][-1]
        title = source if isinstance(source, Path) else f"an ONNX model of {len(source)} bytes"
        raise BadArtifact(f"OpenVINO cannot convert {title}: {reason}") from exc
    for key, value in metadata.items():
        model.set_rt_info(value, [METADATA, key])
    model.set_friendly_name("resnext")  # by default it depends on how the model was read
    _name_nodes_by_position(model)
    with scratch_folder() as folder:
        graph = folder / GRAPH_NAME
        try:
            ov.save_model(model, graph, compress_to_fp16=False)
        except RuntimeError as exc:
            raise MissingRequirement(
                f"OpenVINO cannot write to the temporary folder {folder}: {first_line(exc)}",
                hint="set TMPDIR to a folder with room",
            ) from exc
        data = _packed(graph.read_bytes(), graph.with_name(WEIGHTS_NAME).read_bytes())
        _check_weights(core, model, data)
    return data


def _name_nodes_by_position(model: Any) -> None:
    """Number the nodes that OpenVINO added by position; it counts them per process."""
    for index, node in enumerate(model.get_ordered_ops()):
        operator = node.get_type_name()
        if re.fullmatch(rf"{operator}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{operator}_{index}")


def _packed(graph: bytes, weights: bytes) -> bytes:
    out = io.BytesIO()
    first, second = (zipfile.ZipInfo(name, _NO_TIME) for name in (WEIGHTS_NAME, GRAPH_NAME))
    first.external_attr = second.external_attr = 0o644 << 16  # permissions after unpacking
    padding = _WEIGHTS_START - 30 - len(WEIGHTS_NAME) - 4
    # An extra field that readers skip: an unassigned id, its length, zeros.
    first.extra = b"\xff\xff" + padding.to_bytes(2, "little") + bytes(padding)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as packed:
        packed.writestr(first, weights)
        packed.writestr(second, graph)
    return out.getvalue()


def _check_weights(core: Any, model: Any, data: bytes) -> None:
    """Read the bytes back: the weights of each operation must have kept their type."""
    written = mmap.mmap(-1, len(data))
    written.write(data)
    packed, memory = read_ir(core, *unpack_ovir(written, FILE_NAME))
    expected, actual = weight_dtypes(model), weight_dtypes(packed)
    del packed, memory  # in this order: the model uses the memory
    changed = sorted(name for name, dtype in expected.items() if actual.get(name) != dtype)
    if changed:
        raise GateFailed(
            f"OpenVINO stored the weights of {changed[0]} as {actual.get(changed[0])}, they are"
            f" {expected[changed[0]]} ({len(changed)} of {len(expected)} differ)"
        )
