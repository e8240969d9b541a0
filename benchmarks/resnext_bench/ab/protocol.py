"""What a worker and its parent say to each other: one line of JSON each, the worker on a file
descriptor of its own, so that a library that prints does not get between.

The worker says hello; the parent sends a `Job`, and the worker answers with `Opened`. Then each
`Request` has one answer: `Visit` or `Logits`. A worker that fails sends `Failure` and ends; one
whose standard input ends, ends too.
"""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.specs import Strict, numpy_dtype
from resnext.images.preprocessing import Preprocessing
from resnext.machine.environment import Environment
from resnext.machine.load import Load
from resnext.network.config import ResNeXtConfig
from resnext.precision import Precision
from resnext.runtimes.registry import Device
from resnext.weights.hub.spelling import pinned
from resnext.weights.spec import Weights

#: Version of these messages; worker and parent must have the same.
VERSION = 3


class Hello(Strict):
    """The first line of a worker.

    Attributes:
        version: of the messages.
    """

    version: int = VERSION


class Job(Strict):
    """What a worker opens.

    Attributes:
        backend: registry name.
        artifact: folder; None for a live network.
        artifact_sha256: digest of the artifact's file.
        config: the network.
        weights: SPEC, for a live network.
        weights_key: of the state dict in a checkpoint of several.
        weights_sha256: their digest.
        preprocessing: of the images.
        precision: of a live network.
        batch: images in one run.
        images: number of seeded images whose logits are compared, at least the batch.
        seed: of the images.
        device: to run on.
        threads: CPU threads.
        warmup_s: untimed seconds.
        streams: requests in flight at once.
        memory_format: of a live network.
    """

    backend: str
    artifact: str | None
    artifact_sha256: str | None
    config: ResNeXtConfig
    weights: str
    weights_key: str | None = None
    weights_sha256: str
    preprocessing: Preprocessing
    precision: Precision
    batch: int
    images: int
    seed: int
    device: Device
    threads: int
    warmup_s: float
    streams: int = 1
    memory_format: Literal["auto", "nchw", "channels-last"] = "auto"

    @classmethod
    def of(cls, weights: Weights, artifact: Artifact | None, **how: Any) -> Job:
        """A job with ``weights``, and ``artifact`` if there is one.

        Args:
            weights: of the network.
            artifact: made from them; None for the live network.
            **how: the fields that neither of them decides.
        """
        return cls(
            artifact=None if artifact is None else str(artifact.directory.resolve()),
            artifact_sha256=None if artifact is None else artifact.manifest.file_sha256,
            config=weights.config,
            weights=pinned(weights.source, weights.revision),
            weights_key=weights.key,
            weights_sha256=weights.sha256,
            preprocessing=weights.preprocessing,
            **how,
        )


class Opened(Strict):
    """An open session.

    Attributes:
        estimate_ns: time of the fastest run of the warm-up.
        device: device name.
        delivered: element types of convolutions and matrix products.
        notes: threads, memory format, CUDA graph, ...
        environment: machine and software of the worker.
    """

    estimate_ns: float
    device: str
    delivered: str
    notes: dict[str, str]
    environment: Environment


class Request(Strict):
    """What the parent wants next.

    Attributes:
        what: timed runs, or the logits of the last of them and of the images after the batch.
        iterations: number of timed runs.
    """

    what: Literal["visit", "logits"]
    iterations: int = 1


class Visit(Strict):
    """The answer to a visit.

    Attributes:
        times_ns: of each run; of all streams, in the order in which they ended.
        load: of the processors during the visit.
    """

    times_ns: tuple[int, ...]
    load: Load


class Logits(Strict):
    """Logits of all images.

    Attributes:
        dtype: NumPy's name of the element type.
        shape: N x classes.
        data: bytes in C order, base64.
    """

    dtype: str
    shape: tuple[int, ...]
    data: str

    @classmethod
    def of(cls, array: NDArray[Any]) -> Logits:
        """Encode ``array``."""
        data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
        return cls(dtype=array.dtype.name, shape=array.shape, data=data)

    def array(self) -> NDArray[Any]:
        """Decode.

        Raises:
            ValueError: the fields do not agree.
        """
        flat = np.frombuffer(base64.b64decode(self.data), numpy_dtype(self.dtype))
        return flat.reshape(self.shape)
