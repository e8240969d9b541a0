"""Headers of .safetensors files, checked before the library reads them."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from resnext.errors import BadWeights
from resnext.readers.tensors import read_tensor_header
from resnext.weights.spec import Weights, load_weights

MODEL = "resnext11_8x4d_digits"


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[Any], start: Any, stop: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


BAD = {
    "nothing": b"",
    "a length alone": struct.pack("<Q", 1 << 60),
    "a length beyond the file": struct.pack("<Q", 100) + b"{}",
    "deep": file_of(b"[" * 100_000),
    "a list": file_of([]),
    "metadata that are numbers": file_of({"__metadata__": {"a": 1}}),
    "a tensor that is none": file_of({"a": 1}),
    "another field": file_of({"a": {**entry([1], 0, 4), "x": 1}}, bytes(4)),
    "an unknown type": file_of({"a": entry([1], 0, 4, "Q4")}, bytes(4)),
    "a type that is a list": file_of({"a": entry([1], 0, 4, [])}, bytes(4)),
    "a negative size": file_of({"a": entry([-1], 0, 4)}, bytes(4)),
    "a size that is true": file_of({"a": entry([True], 0, 4)}, bytes(4)),
    "an overflow": file_of({"a": entry([1 << 33, 1 << 33], 0, 4)}, bytes(4)),
    "one value too few": file_of({"a": entry([2], 0, 4)}, bytes(4)),
    "backwards": file_of({"a": entry([1], 4, 0)}, bytes(4)),
    "an overlap": file_of({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, bytes(4)),
    "a gap": file_of({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
    "a gap at the start": file_of({"a": entry([1], 4, 8)}, bytes(8)),
    "more than its tensors": file_of({"a": entry([1], 0, 4)}, bytes(5)),
    "less than its tensors": file_of({"a": entry([1], 0, 4)}, bytes(3)),
    "a repeated tensor": file_of(
        b'{"a":%b,"a":%b}' % ((json.dumps(entry([1], 0, 4)).encode(),) * 2), bytes(4)
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_header_that_does_not_describe_the_file_is_refused_in_one_line(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "w.safetensors").write_bytes(BAD[name])
    with pytest.raises(BadWeights) as caught:
        load_weights(str(tmp_path / "w.safetensors"), MODEL)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"header|tensor|nested|metadata|repeated"):
        read_tensor_header(io.BytesIO(BAD[name]), len(BAD[name]))


dtypes = st.sampled_from(
    [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
tensors = st.builds(
    lambda shape, dtype: torch.zeros(shape, dtype=dtype),
    st.lists(st.integers(0, 4), max_size=3),
    dtypes,
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(min_size=1), tensors, min_size=1, max_size=4), st.text())
def test_what_the_library_writes_is_accepted(state: dict[str, torch.Tensor], note: str) -> None:
    state.pop("__metadata__", None)
    if state:
        data = save(state, {"note": note})
        assert read_tensor_header(io.BytesIO(data), len(data)) == {"note": note}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_what_is_accepted_the_library_loads(data: st.DataObject) -> None:
    raw = bytearray(save({"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.float16)}))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_tensor_header(io.BytesIO(raw), len(raw))
    except ValueError as exc:
        reason = str(exc)
    else:
        reason = ""
        load(bytes(raw))
    assert "\n" not in reason


def test_a_checkpoint_of_this_toolkit_is_accepted(digits: Weights) -> None:
    assert load_weights("digits").sha256 == digits.sha256
