"""What only Triton's own client can ask: configurations as protobuf, labels, pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.errors import SessionFailed, UsageError, first_line


class Wire:
    """A connection over gRPC.

    Args:
        url: of the server, ``grpc://HOST:PORT``.
    """

    def __init__(self, url: str) -> None:
        from tritonclient.grpc import InferenceServerClient

        self._url = url
        self._client = InferenceServerClient(url.removeprefix("grpc://"))

    def config(self, model: str) -> Any:
        """A model's configuration as the server has it (``inference.ModelConfig``)."""
        with self._translated():
            return self._client.get_model_config(model).config

    def labels(
        self, model: str, inputs: dict[str, NDArray[Any]], output: str, count: int
    ) -> list[tuple[int, str]]:
        """The ``count`` best classes of one image, index and label."""
        from tritonclient.grpc import InferRequestedOutput

        wanted = InferRequestedOutput(output, class_count=count)
        found = []
        for entry in self._infer(model, inputs, wanted).as_numpy(output).ravel():
            index, _, label = entry.decode(errors="replace").partition(":")[2].partition(":")
            found.append((int(index), label))
        return found

    def infer(self, model: str, inputs: dict[str, NDArray[Any]], output: str) -> NDArray[Any]:
        """An output of an inference; arrays of objects are bytes."""
        from tritonclient.grpc import InferRequestedOutput

        answer: NDArray[Any] = self._infer(model, inputs, InferRequestedOutput(output)).as_numpy(
            output
        )
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _infer(self, model: str, inputs: dict[str, NDArray[Any]], wanted: Any) -> Any:
        from tritonclient.grpc import InferInput
        from tritonclient.utils import np_to_triton_dtype

        tensors = []
        for name, array in inputs.items():
            tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(np.ascontiguousarray(array))
            tensors.append(tensor)
        with self._translated():
            return self._client.infer(model, tensors, outputs=[wanted])

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from tritonclient.utils import InferenceServerException

        try:
            yield
        except InferenceServerException as exc:
            raise SessionFailed(f"{self._url}: {first_line(exc)}") from exc


def config_over_http(url: str, model: str) -> Any:
    """`Wire.config` of a server of which only the HTTP port is known.

    Raises:
        SessionFailed: it does not tell.
        UsageError: no such URL.
    """
    import json
    import urllib.request
    from urllib.parse import quote

    from google.protobuf.json_format import ParseDict, ParseError

    from .served import model_config_class

    if not url.startswith(("http://", "https://")):
        raise UsageError(f"the URL {url!r} is not http, https or grpc://HOST:PORT")
    model_config, _ = model_config_class()
    try:
        with urllib.request.urlopen(f"{url}/v2/models/{quote(model)}/config", timeout=10) as answer:
            told = json.loads(answer.read())
        return ParseDict(told, model_config(), ignore_unknown_fields=True)
    except (OSError, ValueError, ParseError) as exc:
        raise SessionFailed(f"{url} does not tell the configuration of {model}: {exc}") from exc
