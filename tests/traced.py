"""Each small network is traced to ONNX once in a run of the tests, which takes a second or two.

The tests export the same few networks hundreds of times. What follows the tracing (naming, checks,
writing, hashing, the proof) runs every time, and so does the tracing of anything that a test has
planted something into.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from resnext.network.model import ResNeXt
from resnext_export.convert import onnx_from_torch as converter

#: Larger networks are not kept.
_MOST_BYTES = 20_000_000
_PLAIN = (ResNeXt, converter.PixelInput)
#: Traces every time.
TRACE = converter._export


@contextmanager
def traced_once(folder: Path | None = None) -> Iterator[dict[str, bytes]]:
    """Inside the block, a trace of the same network is taken again; yields those that are kept.

    Args:
        folder: where processes that run at once leave their traces to each other.
    """
    load, export = vars(converter)["load_model"], torch.onnx.export
    kept: dict[str, bytes] = {}

    def traced(model: nn.Module, example: Tensor, dynamic: Any, opset: int) -> onnx.ModelProto:
        untouched = vars(converter)["load_model"] is load and torch.onnx.export is export
        size = sum(value.nbytes for value in model.state_dict().values())
        if not (untouched and type(model) in _PLAIN and size <= _MOST_BYTES):
            return TRACE(model, example, dynamic, opset)
        key = _key(model, example, dynamic, opset)
        if key not in kept:
            shared = folder and folder / key
            if shared is None or not shared.exists():
                kept[key] = TRACE(model, example, dynamic, opset).SerializeToString()
                if shared is not None:
                    _leave(shared, kept[key])
            else:
                kept[key] = shared.read_bytes()
        proto = onnx.ModelProto()
        proto.ParseFromString(kept[key])
        return proto

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converter, "_export", traced)
        yield kept


def _leave(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)


def _key(model: nn.Module, example: Tensor, dynamic: Any, opset: int) -> str:
    """Whatever decides the trace of an untouched network."""
    facts = [repr(model), str(model.training), str(example.shape), str(example.dtype)]
    facts += [str(dynamic is None), str(opset)]
    digest = hashlib.sha256("\n".join(facts).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
