"""A Triton backend in Python, for a server that lacks the real one.

Nothing imports this: it is copied into a backend folder, and runs in the server's Python, which
knows nothing of this toolkit. The backend is named by its folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

_NAMES = {
    "TYPE_FP32": "float32",
    "TYPE_FP16": "float16",
    "TYPE_FP64": "float64",
    "TYPE_UINT8": "uint8",
    "TYPE_INT8": "int8",
    "TYPE_INT32": "int32",
    "TYPE_INT64": "int64",
}


class TritonPythonModel:
    """One instance of a model with one input and one output."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Complete nothing: the file says all."""
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model's file, and compare its tensors with the config."""
        config = json.loads(args["model_config"])
        if not (config["input"] and config["output"] and config["default_model_filename"]):
            # A real backend would complete them from the file, and nobody would have asked for it.
            raise triton.TritonModelException(
                "the config lacks its input, output or default_model_filename"
            )
        file = config["default_model_filename"]
        path = Path(args["model_repository"]) / args["model_version"] / file
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        open_file: dict[str, Any] = {
            "onnxruntime": Onnx,
            "openvino": OpenVino,
            "tensorrt": Nothing,
        }
        self._input, self._output = config["input"][0], config["output"][0]
        self._run = open_file[Path(__file__).parent.name](path, parameters, config)
        batched = config["max_batch_size"] > 0
        for kind, told in (("input", config["input"]), ("output", config["output"])):
            self._compare(kind, told, self._run.tensors(kind), batched)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run all requests that the server put together at once."""
        arrays = [
            triton.get_input_tensor_by_name(request, self._input["name"]).as_numpy()
            for request in requests
        ]
        outputs = self._run(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
        name, responses, at = self._output["name"], [], 0
        for array in arrays:
            rows = outputs[at : at + len(array)]
            responses.append(triton.InferenceResponse([triton.Tensor(name, rows)]))
            at += len(array)
        return responses

    @staticmethod
    def _compare(kind: str, told: list[Any], found: dict[str, Any], batched: bool) -> None:
        for tensor in told if found else []:
            name = tensor["name"]
            if name not in found:
                raise triton.TritonModelException(
                    f"the file has no {kind} {name!r}, only {', '.join(found)}"
                )
            dtype, shape = found[name]
            dims = [-1] * batched + [int(size) for size in tensor["dims"]]
            fits = len(dims) == len(shape) and all(
                -1 in pair or pair[0] == pair[1] for pair in zip(dims, shape, strict=True)
            )
            if not fits or _NAMES.get(tensor["data_type"]) != dtype:
                raise triton.TritonModelException(
                    f"{kind} {name!r} is {tensor['data_type']} {dims} in the config, with its"
                    f" batch, and {dtype} {shape} in the file"
                )


class Onnx:
    """An ONNX file on ONNX Runtime's CPU provider."""

    def __init__(self, path: Path, parameters: dict[str, str], config: Any) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0))
        options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 0))
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = config["input"][0]["name"]
        self._outputs = [config["output"][0]["name"]]

    def tensors(self, kind: str) -> dict[str, Any]:
        """Element type and shape of each input or output, -1 for any size."""
        values = getattr(self._session, f"get_{kind}s")()
        types = {"tensor(float)": "float32", "tensor(double)": "float64"}
        return {
            value.name: (
                types.get(value.type, value.type[len("tensor(") : -1]),
                [size if isinstance(size, int) else -1 for size in value.shape],
            )
            for value in values
        }

    def __call__(self, images: Any) -> Any:
        """Logits of a batch."""
        return self._session.run(self._outputs, {self._input: images})[0]


class OpenVino:
    """OpenVINO's IR on its CPU device."""

    def __init__(self, path: Path, parameters: dict[str, str], config: Any) -> None:
        import openvino as ov

        threads = int(parameters.get("INFERENCE_NUM_THREADS", 0))
        # By default it computes in bfloat16 on a processor that can.
        settings = {"PERFORMANCE_HINT": "LATENCY", "EXECUTION_MODE_HINT": "ACCURACY"}
        if parameters.get("HINT_BF16", "").upper() == "YES":
            settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "bf16"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        self._model = ov.Core().compile_model(str(path), "CPU", settings)
        self._input = config["input"][0]["name"]

    def tensors(self, kind: str) -> dict[str, Any]:
        """Element type and shape of each input or output, -1 for any size."""
        return {
            port.any_name: (
                port.element_type.to_dtype().name,
                [size.get_length() if size.is_static else -1 for size in port.partial_shape],
            )
            for port in getattr(self._model, f"{kind}s")
        }

    def __call__(self, images: Any) -> Any:
        """Logits of a batch."""
        return self._model({self._input: images})[0]


class Nothing:
    """An engine that cannot run here. Its rows are weighted sums of the image in that row, so that
    a mistaken row shows.
    """

    def __init__(self, path: Path, parameters: dict[str, str], config: Any) -> None:
        if not path.is_file():
            raise triton.TritonModelException(f"there is no file {path.name}")
        del parameters
        self._classes = int(config["output"][0]["dims"][-1])
        self._dtype = _NAMES[config["output"][0]["data_type"]]

    def tensors(self, kind: str) -> dict[str, Any]:
        """Nothing is known of them."""
        del kind
        return {}

    def __call__(self, images: Any) -> Any:
        """A row for each image."""
        flat = images.reshape(len(images), -1)
        size = flat.shape[1]
        width = -(-size // self._classes)
        cells = np.zeros((len(flat), self._classes * width))
        cells[:, :size] = flat * (1 + np.arange(size) / size)
        return cells.reshape(len(flat), self._classes, width).sum(axis=2).astype(self._dtype)
