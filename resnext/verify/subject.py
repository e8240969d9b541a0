"""What artifacts are exports of: weights, or an ONNX file from elsewhere."""

from __future__ import annotations

from typing import TypeAlias

from resnext.artifact.files import Artifact
from resnext.errors import UsageError
from resnext.weights.spec import Weights

#: Weights of a network of ours, or the artifact of an ONNX file from elsewhere.
Network: TypeAlias = Weights | Artifact


def weights_of(network: Network) -> Weights:
    """``network``, for what needs weights.

    Raises:
        UsageError: it is an ONNX file from elsewhere.
    """
    if isinstance(network, Artifact):
        raise UsageError(f"{network.path} is an ONNX file from elsewhere, and this takes weights")
    return network
