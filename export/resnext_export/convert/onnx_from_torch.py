"""An ONNX graph from a PyTorch ResNeXt, through torch.export."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from torch import Tensor, nn

from resnext.artifact.manifest import BatchRange
from resnext.errors import GateFailed
from resnext.images.preprocessing import Preprocessing
from resnext.weights.spec import Weights, load_model
from resnext_export.options import OPSET

INPUT_NAME = "input"
OUTPUT_NAME = "logits"
#: Node metadata of the exporter that is of no use to users: source paths of the exporting machine,
#: and dotted class paths, which would make a renamed module change the bytes of every export.
_PRIVATE_METADATA = (
    "namespace",
    "pkg.torch.onnx.class_hierarchy",
    "pkg.torch.onnx.fx_node",
    "pkg.torch.onnx.stack_trace",
)


class PixelInput(nn.Module):
    """A network that takes uint8 pixels (N x H x W x C) and normalizes them itself."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(preprocessing.mean))
        self.register_buffer("std", torch.tensor(preprocessing.std))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N x classes) of uint8 ``pixels``."""
        images = (pixels.to(torch.float32) / 255 - self.mean) / self.std
        logits: Tensor = self.model(images.permute(0, 3, 1, 2))
        return logits


def onnx_from_torch(
    weights: Weights, batch: BatchRange, *, bake_preprocessing: bool = False, opset: int = OPSET
) -> onnx.ModelProto:
    """Trace the network and convert it, with batch norms folded into their convolutions.

    Args:
        weights: the network to export.
        batch: a static range makes the first dimension fixed, any other symbolic.
        bake_preprocessing: take uint8 N x H x W x C pixels instead of float32 N x C x H x W images.
        opset: of the model.

    Returns:
        A model with input ``input``, output ``logits``, weights inside, and
        convolutions named after their module (``layer1.0.conv2``).

    Raises:
        GateFailed: the exporter's graph is not as requested: batch fixed, batch norms not folded,
            several outputs, another opset.
    """
    config = weights.config
    model: nn.Module = load_model(weights)
    size = (
        batch.opt if batch.static else max(2, batch.min)
    )  # some releases specialize on an example of 1
    if bake_preprocessing:
        model = PixelInput(model, weights.preprocessing).eval()
        example = torch.zeros(size, *config.input_size, config.in_channels, dtype=torch.uint8)
    else:
        example = torch.zeros(size, config.in_channels, *config.input_size)
    dynamic = None if batch.static else ({0: torch.export.Dim("batch", min=1)},)
    # The exporter makes millions of short-lived objects; collecting cycles among them takes a tenth
    # of its time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        proto = _export(model, example, dynamic, opset)
    finally:
        if collecting:
            gc.enable()
    _tidy(proto)
    _check_as_requested(proto, None if batch.static else "batch", size, opset)
    return proto


def _export(
    model: nn.Module, example: Tensor, dynamic: object, opset: int = OPSET
) -> onnx.ModelProto:
    with _quiet():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=dynamic,  # type: ignore[arg-type]  # a tuple works, and a positional input needs it
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about its internals and about torchvision."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        log.setLevel(level)


def _tidy(proto: onnx.ModelProto) -> None:
    """Drop paths of files and classes, and name weighted nodes after their modules."""
    proto.producer_name, proto.producer_version = (
        "resnext-toolkit (torch.onnx)",
        str(torch.__version__),
    )
    for node in proto.graph.node:
        public = [prop for prop in node.metadata_props if prop.key not in _PRIVATE_METADATA]
        del node.metadata_props[:]
        node.metadata_props.extend(public)
        if node.op_type in ("Conv", "Gemm"):
            node.name = node.input[1].removesuffix(".weight").replace("model.", "")


def _check_as_requested(proto: onnx.ModelProto, symbol: str | None, size: int, opset: int) -> None:
    graph = proto.graph
    # If its converter fails, the exporter writes the opset that it has, and no error.
    if (written := proto.opset_import[0].version) != opset:
        raise GateFailed(
            f"the exporter wrote opset {written}, not {opset}", hint="upgrade torch and onnxscript"
        )
    if [value.name for value in graph.input] != [INPUT_NAME] or [
        value.name for value in graph.output
    ] != [OUTPUT_NAME]:
        raise GateFailed(
            "the exporter renamed or added graph inputs or outputs",
            hint="try another torch release",
        )
    for value in (graph.input[0], graph.output[0]):
        first = value.type.tensor_type.shape.dim[0]
        if (first.dim_param or first.dim_value) != (symbol or size):
            raise GateFailed(
                f"the exporter fixed the batch of {value.name!r} at {first.dim_value};"
                " torch before 2.13 may do so",
                hint="upgrade torch, or use a static `batch`",
            )
    weighted = {
        name for node in graph.node if node.op_type in ("Conv", "Gemm") for name in node.input[1:]
    }
    odd = [
        t.name
        for t in graph.initializer
        if t.name in weighted and t.data_type != onnx.TensorProto.FLOAT
    ]
    if odd:
        raise GateFailed(
            f"{len(odd)} weights are not float32, first {odd[0]}",
            hint="upgrade torch and onnxscript",
        )
    if norms := [node.name for node in graph.node if node.op_type == "BatchNormalization"]:
        raise GateFailed(
            f"{len(norms)} batch norms were not folded, first {norms[0]}",
            hint="upgrade onnxscript",
        )
