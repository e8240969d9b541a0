"""Writes the corpus: small, valid files for each harness. Run it after a format changed."""

from __future__ import annotations

import io
import json
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL.Image
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save

from fakes import foreign
from fakes.package import LIBRARY, facts_of, record_here, write_package
from fakes.tuned import for_latency
from resnext.network.config import ResNeXtConfig
from resnext.network.model import ResNeXt
from resnext.weights.spec import load_weights

CORPUS = Path(__file__).with_name("corpus")


def pictures() -> dict[str, bytes]:
    """A few pixels in each format that is read, some of them in an odd mode."""
    gray = PIL.Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    files = {}
    for suffix in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM", "WEBP"):
        files[suffix.lower()] = saved(gray, suffix)
    files["exif"] = saved(gray, "PNG", exif=exif)
    files["16-bit"] = saved(
        PIL.Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)), "PNG"
    )
    files["palette"] = saved(gray.convert("P"), "PNG")
    files["alpha"] = saved(gray.convert("RGBA"), "PNG")
    files["cmyk"] = saved(gray.convert("CMYK"), "JPEG")
    files["frames"] = saved(gray, "GIF", save_all=True, append_images=[gray.rotate(90)])
    return files


def saved(image: PIL.Image.Image, suffix: str, **settings: object) -> bytes:
    """The bytes of ``image``."""
    data = io.BytesIO()
    image.save(data, suffix, **settings)
    return data.getvalue()


def graph() -> bytes:
    """One product, with a constant and a branch."""
    weight = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    inner = helper.make_graph([], "inner", [], [])
    nodes = [
        helper.make_node("Constant", [], ["c"], "c", value=numpy_helper.from_array(np.ones(2))),
        helper.make_node("If", ["c"], ["d"], "if", then_branch=inner, else_branch=inner),
        helper.make_node("Gemm", ["x", "w"], ["y"], "g"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, [weight]))
    return bytes(model.SerializeToString())


def network() -> bytes:
    """A convolution, pooled, padded and flattened, with rows that are numbered."""
    text = """<ir_version: 9, opset_import: ["": 20]> g (float[N, 1, 8, 8] x) => (float[N, 10] y) {
        shape = Shape <start = 0, end = 1> (x) rows = Squeeze (shape)
        index = Range (zero, rows, one)
        a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (x, w)
        b = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (a) c = Pad (b, around)
        d = Gather <axis = 0> (c, index) e = Transpose <perm = [0, 2, 3, 1]> (d)
        f = Reshape (e, flat) y = Gemm <transB = 1> (f, v)
    }"""
    model = onnx.parser.parse_model(text)
    constants = {
        "zero": np.array(0),
        "one": np.array(1),
        "w": np.ones((4, 1, 3, 3), np.float32),
        "around": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "flat": np.array([0, -1]),
        "v": np.ones((10, 36), np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items())
    return bytes(model.SerializeToString())


def ir(*kinds: str) -> bytes:
    """An IR's graph: an input and two constants, and layers that read the layer before and them."""
    layers = [
        '<layer id="0" name="x" type="Parameter"><data shape="?,1,8,8" element_type="f32"/>'
        '<output><port id="0"/></output></layer>',
        '<layer id="1" name="w" type="Const"><data element_type="f32" shape="1,1,3,3" offset="0"'
        ' size="36"/><output><port id="0"/></output></layer>',
        '<layer id="2" name="n" type="Const"><data element_type="i64" shape="1" offset="8"'
        ' size="8"/><output><port id="0"/></output></layer>',
    ]
    edges = []
    for index, kind in enumerate(kinds, 3):
        name, _, rest = kind.partition(" ")
        second = "1" if "Conv" in name else "2"
        ports = '<port id="0"/>' + ('<port id="1"/>' if name != "MaxPool" else "")
        layers.append(
            f'<layer id="{index}" name="l{index}" type="{name}"><data {rest}/>'
            f'<input>{ports}</input><output><port id="9"/></output></layer>'
        )
        before = (index - 1, 9) if index > 3 else (0, 0)
        for port, (source, out) in enumerate((before, (int(second), 0))):
            edges.append(
                f'<edge from-layer="{source}" from-port="{out}" to-layer="{index}"'
                f' to-port="{port}"/>'
            )
    text = f"<net><layers>{''.join(layers)}</layers><edges>{''.join(edges)}</edges></net>"
    return text.encode()


def external() -> bytes:
    """A graph whose weight is in another file, and that has a function."""
    model = onnx.load_from_string(graph())
    tensor = model.graph.initializer[0]
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../x"
    node = helper.make_node("Relu", ["a"], ["b"])
    opset = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("mine", "F", ["a"], ["b"], [node], opset))
    return bytes(model.SerializeToString())


def stored(**entries: bytes) -> bytes:
    """An archive of the toolkit's form."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return data.getvalue()


def array(values: NDArray[Any]) -> bytes:
    """A .npy file."""
    data = io.BytesIO()
    np.save(data, values)
    return data.getvalue()


def checkpoint(*, legacy: bool) -> bytes:
    """A state dict that fits no network, as PyTorch saves it."""
    data = io.BytesIO()
    state = {"module.fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2).half()}
    torch.save(state, data, _use_new_zipfile_serialization=not legacy)
    return data.getvalue()


def networks() -> dict[str, bytes]:
    """Small networks whose configuration is inferred, and an index of shards that are not there."""
    config = ResNeXtConfig((1,), 1, 2, (1, 1), 1, 2, "small", 1)
    state = {name: torch.ones_like(value) for name, value in ResNeXt(config).state_dict().items()}
    both = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}
    files = {"safetensors": save(state), "index": b'{"weight_map": {"fc.bias": "w", "a": "x"}}'}
    for name, content in (("zip", both), ("legacy", both), ("two", {"a": state, "ema": {**state}})):
        data = io.BytesIO()
        torch.save(content, data, _use_new_zipfile_serialization=name != "legacy")
        files[name] = data.getvalue()
    return files


def write(folder: Path) -> None:
    """Write every file of the corpus into ``folder``."""
    digits = load_weights("digits")
    package = folder / "package" / "whole"
    package.parent.mkdir(parents=True, exist_ok=True)
    write_package(package, record_here(digits, cpu_flags=()), facts_of(digits))
    tensors = save({"a": torch.ones(2), "b": torch.ones(2, 2).half()}, {"resnext": "{}"})
    earlier = Path(__file__).parents[1] / "core" / "data" / "earlier_artifacts"
    run = {"format_version": 1, "rows": [], "seed": 0, "environment": {"cpu": "x"}}
    ranges = {"format_version": 1, "onnx_sha256": "0" * 64, "ranges": {"x": [0.0, 1.0]}}
    text = json.dumps({"a": [1, 2.5, None, True, "é"], "b": {"c": {}}}).encode()
    small = {"m/a": b"content", "m/b": b""}
    files = {
        "json/object": text,
        "json/deep": b"[" * 70 + b"]" * 70,
        "manifest/onnx": (earlier / "onnx-fp32" / "manifest.json").read_bytes(),
        "run/cut": json.dumps(run).encode(),
        "search/latency": for_latency().model_dump_json(exclude_defaults=True).encode(),
        "ranges/cut": json.dumps(ranges).encode(),
        "archive/two": stored(**small),
        "ovir/two": stored(**{"model.bin": bytes(20), "model.xml": b"<net/>"}),
        "library/empty": LIBRARY,
        "library/one-segment": LIBRARY[:32]
        + struct.pack("<QQIHHHHHH", 64, 0, 0, 64, 56, 1, 64, 0, 0)[8:]
        + struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 64, 64, 1),
        "onnx/product": graph(),
        "onnx/external": external(),
        "foreign-onnx/product": graph(),
        "foreign-onnx/external": external(),
        "adopted-onnx/rows": foreign.rows().SerializeToString(),
        "adopted-onnx/old": foreign.old().SerializeToString(),
        "adopted-onnx/attention": foreign.attention().SerializeToString(),
        "onnx-sizes/network": network(),
        "ir-sizes/pooled": ir(
            'Convolution strides="1,1" dilations="1,1" pads_begin="1,1" pads_end="1,1"',
            'MaxPool strides="2,2" pads_begin="0,0" pads_end="1,1" kernel="3,3"',
            'ReduceMean keep_dims="true"',
        ),
        "ir-sizes/shaped": ir(
            'Add auto_broadcast="numpy"', "ShapeOf", 'Concat axis="0"', "Broadcast", "Squeeze"
        ),
        "array/two-by-three": array(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "array/in-columns": array(np.asfortranarray(np.ones((2, 2), np.uint8))),
        "tensor-header/two": tensors,
        "safetensors/two": tensors,
        **{f"checkpoint/{name}": data for name, data in networks().items()},
        "pth/zip": checkpoint(legacy=False),
        "pth/legacy": checkpoint(legacy=True),
        **{f"gray-picture/{name}": data for name, data in pictures().items()},
        **{f"color-picture/{name}": data for name, data in pictures().items()},
    }
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else CORPUS)
