"""OpenVINO models before they are compiled: read from an ONNX file or packed IR, and inspected."""

from __future__ import annotations

import io
import mmap
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.graph import onnx_bytes
from resnext.artifact.sizes import check_sizes
from resnext.artifact.specs import TensorSpec
from resnext.errors import BadArtifact
from resnext.network.layers import module_of
from resnext.readers.archives import read_entries, take
from resnext.readers.ir_shapes import IrShapes

from .library import ov, type_name

#: The entries of a packed IR (``.ovir``, a ZIP file). Neither is compressed, so that the weights
#: are used as they are.
GRAPH_NAME, WEIGHTS_NAME = "model.xml", "model.bin"
#: Where OpenVINO keeps the metadata of an ONNX file, also in an IR made from one.
METADATA = "framework"
#: Nodes that become a convolution or a matrix product.
_PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")


def unpack_ovir(memory: mmap.mmap, title: str) -> tuple[bytes, NDArray[np.uint8]]:
    """The graph and the weights of a packed IR; the weights are not copied.

    Args:
        memory: a ZIP file with `GRAPH_NAME` and `WEIGHTS_NAME`, neither compressed; writable,
            because OpenVINO takes no other.
        title: what to call it in messages.

    Raises:
        BadArtifact: it is not a packed IR.
    """
    file = cast("BinaryIO", memory)
    try:
        entries = read_entries(file)
        graph, weights = take(file, entries[GRAPH_NAME]), entries[WEIGHTS_NAME]
    except (KeyError, ValueError) as exc:
        reason = f"it has no {exc.args[0]}" if isinstance(exc, KeyError) else exc
        raise BadArtifact(
            f"{title} is not a packed OpenVINO IR: {reason}", hint="export the artifact again"
        ) from exc
    return graph, np.frombuffer(memory, np.uint8, weights.size, weights.start)


def read_ir(core: Any, graph: bytes, weights: NDArray[np.uint8]) -> tuple[Any, Any]:
    """Read an IR without copying its weights.

    Args:
        core: an ``openvino.Core``.
        graph: the XML file.
        weights: the values of all constants, in writable memory.

    Returns:
        The ``openvino.Model``, and the memory of its weights, which must outlive the model and
        everything compiled from it.
    """
    tensor = ov.Tensor(weights, shared_memory=True)
    return core.read_model(graph, tensor), tensor


def _read_packed(core: Any, artifact: Artifact) -> tuple[Any, Any]:
    graph, weights = unpack_ovir(artifact.read_writable(), str(artifact.path))
    try:
        shapes = IrShapes(graph, weights.data)
        check_sizes(shapes.shapes, shapes.stored, artifact.manifest)
    except ValueError as exc:
        raise BadArtifact(f"{artifact.path}: {exc}", hint="export the artifact again") from exc
    return read_ir(core, graph, weights)


def _read_onnx(core: Any, artifact: Artifact) -> tuple[Any, Any]:
    return core.read_model(io.BytesIO(onnx_bytes(artifact))), None


#: How each kind of artifact is read: the model, and memory that must outlive it.
READERS = {"onnx": _read_onnx, "openvino": _read_packed}


def metadata_value(model: Any, key: str) -> str | None:
    """The metadata entry ``key`` of the file that ``model`` was read from."""
    path = [METADATA, key]
    return str(model.get_rt_info(path).value) if model.has_rt_info(path) else None


def tensor_spec(port: Any) -> TensorSpec:
    """Name, element type and shape of an input or output of a model."""
    shape = tuple(
        None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()
    )
    dtype = type_name(port.get_element_type())
    return TensorSpec(name=port.get_any_name(), dtype=dtype, shape=shape)


def weight_dtypes(model: Any) -> dict[str, str]:
    """Element types in which the weights of convolutions and matrix products are stored.

    Args:
        model: an ``openvino.Model`` that is not compiled.

    Returns:
        NumPy's names, by node name. Products of two computed tensors have no weights and are not
        in it.
    """
    dtypes = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() in _PRODUCTS:
            source = node.input(1).get_source_output().get_node()
            # Constants may be reshaped, dequantized or decompressed.
            while source.get_type_name() != "Constant" and source.inputs():
                source = source.input(0).get_source_output().get_node()
            if source.get_type_name() == "Constant":
                dtypes[node.get_friendly_name()] = type_name(source.get_output_element_type(0))
    return dtypes


def modules_by_node(model: Any) -> dict[str, str]:
    """The network module of each convolution and matrix product, and of the scale, bias and cast
    that follow it: some fused layers are named after the last of them.
    """
    modules: dict[str, str] = {}
    for node in model.get_ordered_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()
        module = module_of(name.partition("/")[0]) if kind in _PRODUCTS else None
        if kind in ("Add", "Multiply", "Convert"):
            sources = [
                port.get_source_output().get_node().get_friendly_name() for port in node.inputs()
            ]
            candidates = {modules[source] for source in sources if source in modules}
            module = candidates.pop() if len(candidates) == 1 else None
        if module:
            modules[name] = module
    return modules
