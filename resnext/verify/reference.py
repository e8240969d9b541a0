"""Reference logits that were computed before, kept image by image in the cache folder.

Float64 takes seconds for each image of a large network, and eager float16 half a minute on a
processor without instructions for it. A kept file holds one image's logits behind a digest of them
and of what they are the logits of; what is damaged, or was put under another name, is computed
again.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnext.storage import cache_folder, write_whole
from resnext.version import __version__

if TYPE_CHECKING:
    import torch

    from resnext.weights.spec import Weights

FORMAT_VERSION = 1
_DIGEST_BYTES = 32


def kept_reference_logits(
    weights: Weights, images: NDArray[np.float32], dtype: torch.dtype
) -> NDArray[Any]:
    """What `resnext.runtimes.pytorch.session.reference_logits` gives, from the cache folder as far
    as it is there.

    Kept by weights, configuration, image, element type, the versions and threads of PyTorch and
    this toolkit, the model's source, and the processor's instructions; the last bits depend on the
    images beside it as well. A cache folder that cannot be found, read or written to is no error.

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
    found = [_read(path, weights.config.num_classes) for path in paths]
    if missing := [index for index, logits in enumerate(found) if logits is None]:
        for index, logits in zip(
            missing, session.reference_logits(weights, images[missing], dtype), strict=True
        ):
            found[index] = logits
            _write(paths[index], logits)
    return np.stack([logits for logits in found if logits is not None])


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
        ),  # or a mend of it would be held against what it gave before
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),  # sums are split among them, which the last bits show
        # The flags beside it: PyTorch's levels do not tell AVX512-FP16, with which oneDNN computes
        # otherwise.
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
    """Of ``data`` as the logits that belong at ``path``, whose last two names say of what."""
    return hashlib.sha256(f"{path.parent.name}/{path.name}\n".encode() + data).digest()


def _write(path: Path, logits: NDArray[Any]) -> None:
    stream = io.BytesIO()
    np.save(stream, logits, allow_pickle=False)
    data = stream.getvalue()
    with suppress(OSError):  # a read-only or full cache: it is computed again next time
        write_whole(path, _digest(path, data) + data)
