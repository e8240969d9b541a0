"""PyTorch's logits for a set of images: the reference, and the baseline of each precision.

`Reference` computes each image at each precision once. Logits are also cached image by image on
disk: float64 takes seconds for each image of a large network, and eager float16 half a minute on a
processor without instructions for it. A cached file holds one image's logits behind a digest of
them and of their key; a damaged or renamed file is computed again.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnext.errors import GateFailed
from resnext.precision import NUMERICS
from resnext.storage import cache_folder, write_whole
from resnext.version import __version__

from .parity import Parity, compare, discriminates, gate_for, gate_of

if TYPE_CHECKING:
    import torch

    from resnext.artifact.files import Artifact
    from resnext.artifact.manifest import Manifest
    from resnext.weights.spec import Weights

FORMAT_VERSION = 1
_DIGEST_BYTES = 32


class Reference:
    """PyTorch's logits for a set of images, and the comparison with them. Every image is computed
    once at each precision.

    Args:
        weights: the network.
        pixels: N x H x W x C, uint8.

    Attributes:
        weights: the network.
        pixels: the images.
        images: the same, preprocessed: N x C x H x W, float32.
    """

    def __init__(self, weights: Weights, pixels: NDArray[np.uint8]) -> None:
        self.weights = weights
        self.pixels = pixels
        self.images = weights.preprocessing.normalize(pixels)
        self._logits: dict[str, dict[int, NDArray[Any]]] = {}

    def inputs(self, manifest: Manifest | None) -> NDArray[Any]:
        """The images as an artifact takes them, or a live model if ``manifest`` is None."""
        baked = manifest is not None and manifest.preprocessing_baked
        return self.pixels if baked else self.images

    def logits(self, dtype: str = "float64", rows: Sequence[int] | None = None) -> NDArray[Any]:
        """Eager PyTorch's logits on the CPU, N x classes.

        Args:
            dtype: element type of weights and arithmetic.
            rows: which images; None means all.

        Returns:
            N x classes, of ``dtype``; float32 for bfloat16.
        """
        import torch

        def compute(missing: list[int]) -> NDArray[Any]:
            return cached_reference_logits(
                self.weights, self.images[missing], getattr(torch, dtype)
            )

        return self._once(dtype, rows, compute)

    def baseline(
        self,
        numerics: str,
        *,
        against: str = "float64",
        graph: Artifact | None = None,
        rows: Sequence[int] | None = None,
    ) -> NDArray[np.float64] | None:
        """Logits whose error is the cost of the precision itself: the best that it can give.

        Eager PyTorch at that precision; for a quantized network the file itself, as the reference
        evaluator computes it.

        Args:
            numerics: the candidate's, as in `Manifest.numerics`.
            against: element type of the reference that the comparison is with.
            graph: ONNX artifact of a quantized network.
            rows: which images; None means all.

        Returns:
            N x classes; None if the baseline would be the reference itself, or nothing shows the
            cost of the precision.
        """
        dtype = NUMERICS[numerics].eager_dtype
        if dtype is not None:
            return None if dtype == against else self.logits(dtype, rows).astype(np.float64)
        if graph is None:
            return None

        def compute(missing: list[int]) -> NDArray[Any]:
            from resnext.runtimes.onnx_reference.evaluator import emulated_logits

            return emulated_logits(graph, self.inputs(graph.manifest)[missing])

        return self._once(graph.manifest.file_sha256, rows, compute).astype(np.float64)

    def parity(
        self,
        logits: NDArray[Any],
        numerics: str,
        artifact: Artifact | None = None,
        *,
        dtype: str,
        against: str = "float64",
        graph: Artifact | None = None,
        rows: Sequence[int] | None = None,
    ) -> Parity:
        """Compare a candidate's logits with PyTorch's, at the limits of its precision.

        Args:
            logits: the candidate's, N x classes.
            numerics: the candidate's, as in `Manifest.numerics`.
            artifact: the candidate's artifact; None for a live model.
            dtype: element type that they must have.
            against: element type of the reference.
            graph: ONNX artifact of a quantized network, for the baseline.
            rows: which images they are for; None means all.
        """
        manifest = None if artifact is None else artifact.manifest
        reference = self.logits(against, rows)
        baseline = self.baseline(numerics, against=against, graph=graph, rows=rows)
        return compare(
            reference,
            logits,
            gate=gate_for(numerics) if manifest is None else gate_of(manifest),
            baseline=baseline,
            dtype=dtype,
            artifact_sha256=None if manifest is None else manifest.file_sha256,
        )

    def refuse_if_useless(self, dtype: str, *, images: str = "test image", hint: str = "") -> None:
        """Check that a comparison with ``dtype``'s logits can prove something.

        Args:
            dtype: element type of the reference.
            images: name of an image in the message.
            hint: what to do.

        Raises:
            GateFailed: the logits are NaN or infinite, or hardly differ from image to image.
        """
        logits = self.logits(dtype)
        if not np.isfinite(logits).all():
            raise GateFailed(
                "PyTorch itself gives NaN or infinite logits for these weights, so a comparison"
                " would prove nothing",
                hint=hint,
            )
        if not discriminates(logits):
            raise GateFailed(
                f"the network gives nearly the same logits for every {images}, so a comparison"
                " would prove nothing",
                hint=hint or "are the weights trained?",
            )

    def _once(
        self,
        kind: str,
        rows: Sequence[int] | None,
        compute: Callable[[list[int]], NDArray[Any]],
    ) -> NDArray[Any]:
        rows = range(len(self.pixels)) if rows is None else rows
        logits = self._logits.setdefault(kind, {})
        if missing := [row for row in dict.fromkeys(rows) if row not in logits]:
            logits.update(zip(missing, compute(missing), strict=True))
        return np.stack([logits[row] for row in rows])


def cached_reference_logits(
    weights: Weights, images: NDArray[np.float32], dtype: torch.dtype
) -> NDArray[Any]:
    """`resnext.runtimes.pytorch.session.reference_logits`, with a cache on disk.

    The key has weights, configuration, image, element type, the versions and threads of PyTorch and
    this toolkit, the model's source, and the processor's instructions; the last bits also depend on
    the other images of the batch. A cache folder that is missing or cannot be read or written is no
    error.

    Args:
        weights: the network.
        images: N x C x H x W, preprocessed.
        dtype: precision that weights and arithmetic are promoted to.

    Returns:
        N x classes, of ``dtype``; float32 for bfloat16.
    """
    from resnext.runtimes.pytorch import session

    try:
        folder = cache_folder() / "references" / _key(weights, dtype)
    except (
        ImportError,
        OSError,
        RuntimeError,
    ):  # no platformdirs, no source of the model, or no home folder
        return session.reference_logits(weights, images, dtype)
    paths = [folder / f"{hashlib.sha256(image.tobytes()).hexdigest()[:32]}.npy" for image in images]
    rows = [_read(path, weights.config.num_classes) for path in paths]
    if missing := [index for index, logits in enumerate(rows) if logits is None]:
        for index, logits in zip(
            missing, session.reference_logits(weights, images[missing], dtype), strict=True
        ):
            rows[index] = logits
            _write(paths[index], logits)
    return np.stack([logits for logits in rows if logits is not None])


def _key(weights: Weights, dtype: torch.dtype) -> str:
    import torch

    from resnext.network import model
    from resnext.runtimes.pt2.record import cpu_flags

    facts = {
        "format": FORMAT_VERSION,
        "weights": weights.sha256,
        "config": asdict(weights.config),
        "dtype": str(dtype),
        "toolkit": __version__,
        "model": inspect.getsource(
            model
        ),  # or a fixed model would be compared with logits of the broken one
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),  # sums are split among them, which the last bits show
        # PyTorch's levels do not distinguish AVX512-FP16, with which oneDNN computes differently.
        "processor": [torch.backends.cpu.get_cpu_capability(), *sorted(cpu_flags())],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _read(path: Path, classes: int) -> NDArray[Any] | None:
    try:
        data = path.read_bytes()
        if _digest(path, data[_DIGEST_BYTES:]) != data[:_DIGEST_BYTES]:
            return None
        logits: NDArray[Any] = np.load(io.BytesIO(data[_DIGEST_BYTES:]), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return logits if logits.shape == (classes,) else None


def _digest(path: Path, data: bytes) -> bytes:
    """Digest of ``data`` and of the last two names of ``path``, which are its key."""
    return hashlib.sha256(f"{path.parent.name}/{path.name}\n".encode() + data).digest()


def _write(path: Path, logits: NDArray[Any]) -> None:
    stream = io.BytesIO()
    np.save(stream, logits, allow_pickle=False)
    data = stream.getvalue()
    with suppress(OSError):  # a read-only or full cache: it is computed again next time
        write_whole(path, _digest(path, data) + data)
