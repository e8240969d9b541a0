"""What a server made of a configuration: its defaults pass, everything else is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnext_export.triton.resolved import DEFAULTS, fields, silent_changes
from resnext_export.triton.served import Served, model_config_class

WRITTEN = """\
name: "digits"
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: 8
version_policy { specific { versions: [ 1 ] } }
input { name: "input" data_type: TYPE_FP32 dims: [ 1, 8, 8 ] }
output { name: "logits" data_type: TYPE_FP32 dims: [ 10 ] label_filename: "labels.txt" }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { max_queue_delay_microseconds: 0 }
parameters { key: "intra_op_thread_count" value { string_value: "2" } }
model_warmup {
  name: "one"
  batch_size: 1
  inputs { key: "input" value { data_type: TYPE_FP32 dims: [ 1, 8, 8 ] input_data_file: "a.bin" } }
}
"""
#: What tritonserver 2.51.0 adds to it.
ADDED = """\
platform: "onnxruntime_onnx"
runtime: "model.py"
optimization { input_pinned_memory { enable: true } output_pinned_memory { enable: true } }
"""


def parsed(text: str) -> Any:
    model_config, text_format = model_config_class()
    return text_format.Parse(text, model_config())


def model(text: str = WRITTEN) -> Served:
    return Served(Path("digits"), parsed(text), text)


def resolved(text: str = WRITTEN) -> Any:
    config = parsed(text)
    config.MergeFrom(parsed(ADDED))
    if config.HasField("dynamic_batching"):
        config.dynamic_batching.preferred_batch_size.append(config.max_batch_size)
    for index, group in enumerate(config.instance_group):
        group.name = f"digits_{index}"
    return config


def test_what_a_server_always_fills_in_is_no_change() -> None:
    assert list(silent_changes(model(), resolved())) == []


@pytest.mark.parametrize("instances", [1, 2])
def test_a_file_that_says_little_gets_defaults(instances: int) -> None:
    little = 'backend: "onnxruntime"\nmax_batch_size: 4\n'
    told = parsed(little + ADDED)
    told.name = "digits"
    told.version_policy.latest.num_versions = 1
    told.default_model_filename = "model.onnx"
    group = told.instance_group.add()
    group.name, group.kind, group.count = "digits", 2, instances
    told.model_transaction_policy.SetInParent()
    assert list(silent_changes(model(little), told)) == []


def edit(name: str, value: Any) -> Callable[[Any], None]:
    return lambda config: setattr(config, name, value)


def _dims(config: Any) -> None:
    config.input[0].dims.insert(0, -1)


def _batching(config: Any) -> None:
    config.dynamic_batching.preferred_batch_size[:] = [4, 8]


def _group(config: Any) -> None:
    config.instance_group[0].count = 4


def _kind(config: Any) -> None:
    config.instance_group[0].kind = 1


def _threads(config: Any) -> None:
    config.parameters["intra_op_thread_count"].string_value = "16"


def _other_parameter(config: Any) -> None:
    config.parameters["execution_mode"].string_value = "1"


#: A change, the field that is named, its values, and the line of the file.
CHANGES: dict[str, tuple[Callable[[Any], None], str, int]] = {
    "largest batch": (
        edit("max_batch_size", 4),
        "max_batch_size is 8 in the file, and the server made it 4",
        4,
    ),
    "dims": (_dims, "input[0].dims is [ 1, 8, 8 ] in the file, and the server made it [ -1, 1", 6),
    "batch sizes": (
        _batching,
        "dynamic_batching.preferred_batch_size is not set in the file, and the server made it"
        " [ 4, 8 ]",
        9,
    ),
    "batching off": (
        lambda config: config.ClearField("dynamic_batching"),
        "dynamic_batching is empty in the file, and the server made it not set",
        9,
    ),
    "instances": (_group, "instance_group[0].count is 1 in the file", 8),
    "device": (_kind, "instance_group[0].kind is KIND_CPU in the file, and the server made it", 8),
    "threads": (_threads, "parameters[intra_op_thread_count].string_value is 2 in the file", 10),
    "a parameter more": (
        _other_parameter,
        "parameters[execution_mode].string_value is not set in the file, and the server made it 1",
        10,
    ),
    "file": (edit("default_model_filename", "m.onnx"), "default_model_filename is model.onnx", 3),
    "warm-up": (
        lambda config: config.ClearField("model_warmup"),
        "model_warmup[0].batch_size is 1",
        13,
    ),
    "a cache": (
        lambda config: setattr(config.response_cache, "enable", True),
        "response_cache.enable is not set in the file, and the server made it True",
        0,
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_silent_change_is_named_with_both_values_and_the_line(case: str) -> None:
    change, message, line = CHANGES[case]
    told = resolved()
    change(told)
    findings = list(silent_changes(model(), told))
    assert findings
    assert {finding.code for finding in findings} == {"config-changed"}
    assert message in findings[0].message
    place = f":{line}" if line else ""
    assert findings[0].where == f"digits/config.pbtxt{place}"
    assert len(findings) == 1 or case == "warm-up"  # of which every field is named


def test_batching_that_the_file_does_not_ask_for_is_a_change() -> None:
    without = WRITTEN.replace("dynamic_batching { max_queue_delay_microseconds: 0 }\n", "")
    told = resolved(without)
    told.dynamic_batching.preferred_batch_size.append(8)
    (finding,) = silent_changes(model(without), told)
    assert "preferred_batch_size is not set" in finding.message


def test_every_default_is_for_a_field_that_exists() -> None:
    descriptor = model_config_class()[0].DESCRIPTOR
    for path in DEFAULTS:
        inner = descriptor
        for name in path.replace("[]", "").split("."):
            assert name in inner.fields_by_name, path
            inner = inner.fields_by_name[name].message_type


def test_fields_are_those_that_are_set() -> None:
    found = fields(parsed(WRITTEN))
    assert found["input[0].data_type"] == "TYPE_FP32"
    assert found["version_policy.specific.versions"] == (1,)
    assert found["dynamic_batching"] == {}
    assert "platform" not in found
