"""OpenVINO's IR from ONNX, both of its files packed into one."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from resnext.errors import BadArtifact, GateFailed
from resnext.runtimes.openvino.session import (
    GRAPH_NAME,
    METADATA,
    WEIGHTS_NAME,
    ov,
    read_ovir,
    shared_core,
    weight_dtypes,
)

FILE_NAME = "model.ovir"
#: Where the weights begin in the file: on a cache line, as OpenVINO lays out its own memory.
_WEIGHTS_START = 64
#: The earliest time that a ZIP file can tell, so that the same model gives the same bytes.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def openvino_from_onnx(source: Path | bytes, metadata: dict[str, str]) -> bytes:
    """Convert an ONNX model to a packed IR.

    The IR is the portable form: what OpenVINO exports of a compiled network is for one kind of
        processor and one
    version. Its graph and its weights are two files, and an artifact is one, so they are packed,
    uncompressed, into a ZIP file: ``unzip`` gives what any OpenVINO tool reads, and a session maps
    the weights instead of copying them.

    Names of inputs, outputs and nodes are kept, and so are the element types of all weights:
        OpenVINO would store
    float32 ones as float16. Q/DQ nodes of a quantized model stay as they are, integer weights with
    them; OpenVINO fuses them when it compiles.

    Args:
        source: an ONNX file, or its bytes (weights included).
        metadata: facts that the file shall tell of itself, by name (``resnext.class_names``); they
            are added to those of the ONNX file, and win over them.

    Returns:
        The bytes of a ``.ovir`` file; the same for the same model and version of OpenVINO.

    Raises:
        BadArtifact: OpenVINO cannot read the model.
        GateFailed: the packed weights are not of the types that the model's are.
    """
    core = shared_core()
    try:
        model = core.read_model(source if isinstance(source, Path) else io.BytesIO(source))
    except RuntimeError as exc:
        reason = [line.strip() for line in str(exc).splitlines() if line.strip()][-1]
        named = source if isinstance(source, Path) else f"an ONNX model of {len(source)} bytes"
        raise BadArtifact(f"OpenVINO cannot convert {named}: {reason}") from exc
    for key, value in metadata.items():
        model.set_rt_info(value, [METADATA, key])
    model.set_friendly_name("resnext")  # it is named after how it was read
    _name_nodes_by_place(model)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / GRAPH_NAME
        ov.save_model(model, graph, compress_to_fp16=False)
        data = _packed(graph.read_bytes(), graph.with_name(WEIGHTS_NAME).read_bytes())
        _check_weights(core, model, data, Path(folder) / FILE_NAME)
    return data


def _name_nodes_by_place(model: Any) -> None:
    """Name the nodes that OpenVINO made up by where they stand; it counts them over the life of the
    process.
    """
    for index, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{kind}_{index}")


def _packed(graph: bytes, weights: bytes) -> bytes:
    out = io.BytesIO()
    first, second = (zipfile.ZipInfo(name, _NO_TIME) for name in (WEIGHTS_NAME, GRAPH_NAME))
    first.external_attr = second.external_attr = 0o644 << 16  # who may read them once unpacked
    padding = _WEIGHTS_START - 30 - len(WEIGHTS_NAME) - 4
    # An extra field that readers skip: its id, which nobody has, its length, zeros.
    first.extra = b"\xff\xff" + padding.to_bytes(2, "little") + bytes(padding)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as packed:
        packed.writestr(first, weights)
        packed.writestr(second, graph)
    return out.getvalue()


def _check_weights(core: Any, model: Any, data: bytes, path: Path) -> None:
    """Read the bytes back: each product's weights must be of the type that they were of."""
    path.write_bytes(data)
    packed, memory = read_ovir(core, path)
    wanted, got = weight_dtypes(model), weight_dtypes(packed)
    del packed, memory  # in this order: the model stands on the memory
    changed = sorted(name for name, dtype in wanted.items() if got.get(name) != dtype)
    if changed:
        raise GateFailed(
            f"OpenVINO stored the weights of {changed[0]} as {got.get(changed[0])}, they are"
            f" {wanted[changed[0]]} ({len(changed)} of {len(wanted)} differ)"
        )
