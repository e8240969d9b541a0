"""Requests that a server must refuse, because a client's mistake must not get an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.specs import TensorSpec
from resnext.errors import SessionFailed
from resnext.findings import Finding

#: Sends inputs by name, and returns outputs.
Send: TypeAlias = Callable[[dict[str, NDArray[Any]]], object]

#: What a server answers that has understood a request and refuses it; anything else is a fault.
_REFUSED = ("(HTTP 4", "INVALID_ARGUMENT", "NOT_FOUND")


def refused_requests(
    send: Send, spec: TensorSpec, images: NDArray[Any], most: int | None
) -> Iterator[Finding]:
    """Send wrong requests; a finding for each that is not refused.

    Args:
        send: sends a request as it is.
        spec: the network's input.
        images: as many as a sound request has, in the input's element type.
        most: largest batch; None without a limit.
    """
    for what, name, array in _wrong(spec, images, most):
        try:
            send({name: array})
        except SessionFailed as exc:
            if any(sign in str(exc) for sign in _REFUSED):
                continue
            message = f"a request with {what} is not refused, but fails: {exc}"
        else:
            message = f"a request with {what} is not refused"
        yield Finding("wrong-request", message, "see its input in the configuration")


def _wrong(
    spec: TensorSpec, images: NDArray[Any], most: int | None
) -> Iterator[tuple[str, str, NDArray[Any]]]:
    turned = np.moveaxis(images, 1, -1)
    if turned.shape == images.shape:
        turned = images[..., np.newaxis]
    yield f"axes {turned.shape[1:]} for {images.shape[1:]}", spec.name, turned
    other = np.float32 if images.dtype == np.uint8 else np.uint8
    yield f"{np.dtype(other).name} for {images.dtype.name}", spec.name, images.astype(other)
    if most is not None:
        yield (
            f"batch {most + 1} for {most}",
            spec.name,
            np.resize(images, (most + 1, *images.shape[1:])),
        )
    yield "an input of another name", f"not-{spec.name}", images
