"""A server that answers a wrong request, or breaks on it, is found out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnext.artifact.specs import TensorSpec
from resnext.errors import SessionFailed
from resnext_export.triton.wrong_requests import refused_requests

SPEC = TensorSpec(name="input", dtype="float32", shape=(None, 1, 8, 8))
IMAGES = np.zeros((2, 1, 8, 8), np.float32)


class Careful:
    """Refuses as Triton does, but for one fault that it does not see."""

    def __init__(self, blind: str = "", status: str = "HTTP 400") -> None:
        self.blind, self.status = blind, status
        self.asked: list[tuple[str, str, tuple[int, ...]]] = []

    def __call__(self, inputs: dict[str, NDArray[Any]]) -> object:
        ((name, array),) = inputs.items()
        self.asked.append((name, array.dtype.name, array.shape))
        faults = {
            "name": name != "input",
            "dtype": array.dtype != np.float32,
            "axes": array.shape[1:] != (1, 8, 8),
            "batch": len(array) > 4,
        }
        assert sum(faults.values()) == 1  # one mistake in each request
        if not any(wrong for fault, wrong in faults.items() if fault != self.blind):
            return {}
        raise SessionFailed(f"http://h:1 refused the request ({self.status}): no")


def test_a_careful_server_has_no_finding() -> None:
    server = Careful()
    assert list(refused_requests(server, SPEC, IMAGES, 4)) == []
    assert [shape for _, _, shape in server.asked] == [
        (2, 8, 8, 1),
        (2, 1, 8, 8),
        (5, 1, 8, 8),
        (2, 1, 8, 8),
    ]
    assert list(refused_requests(Careful(status="gRPC INVALID_ARGUMENT"), SPEC, IMAGES, 4)) == []


@pytest.mark.parametrize(
    ("blind", "says"),
    [
        ("axes", "axes (8, 8, 1) for (1, 8, 8) is not refused"),
        ("dtype", "uint8 for float32 is not refused"),
        ("batch", "batch 5 for 4 is not refused"),
        ("name", "an input of another name is not refused"),
    ],
)
def test_a_wrong_request_with_an_answer_is_a_finding(blind: str, says: str) -> None:
    (finding,) = refused_requests(Careful(blind), SPEC, IMAGES, 4)
    assert finding.code == "wrong-request"
    assert says in finding.message


def test_to_break_is_not_to_refuse() -> None:
    findings = list(refused_requests(Careful(status="HTTP 500"), SPEC, IMAGES, 4))
    assert len(findings) == 4
    assert all("is not refused, but fails" in finding.message for finding in findings)


def test_without_a_limit_no_batch_is_too_large() -> None:
    server = Careful()
    assert list(refused_requests(server, SPEC, IMAGES, None)) == []
    assert len(server.asked) == 3
