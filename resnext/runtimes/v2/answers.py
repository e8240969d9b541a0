"""What a server says about itself and a model: the protocol's own answers, and Triton's further
ones, as far as they are used.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from resnext.errors import SessionFailed

M = TypeVar("M", bound=BaseModel)


class Answer(BaseModel):
    """An answer; fields that are not used are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ServerMetadata(Answer):
    """``GET /v2``: name, version and extensions of the server."""

    name: str = ""
    version: str = ""
    extensions: tuple[str, ...] = ()


class Tensor(Answer):
    """A tensor of a model; -1 stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...] = ()


class Metadata(Answer):
    """``GET /v2/models/NAME``: what the model takes and gives; a server may leave it open."""

    name: str = ""
    platform: str = ""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    parameters: dict[str, Any] | None = None


class Parameter(Answer):
    """A free text in a configuration."""

    string_value: str = ""


class InstanceGroup(Answer):
    """How many instances of a model there are, and on what."""

    kind: str = ""
    count: int = 1


class ResponseCache(Answer):
    """Whether answers may come from a cache."""

    enable: bool = False


class ModelConfig(Answer):
    """Triton's configuration of a model, with everything that it filled in itself."""

    platform: str = ""
    backend: str = ""
    max_batch_size: int = 0
    instance_group: tuple[InstanceGroup, ...] = ()
    parameters: dict[str, Parameter] = {}
    dynamic_batching: dict[str, Any] | None = None
    response_cache: ResponseCache = ResponseCache()


class Duration(Answer):
    """A counter, and the nanoseconds that it took in all."""

    count: int = 0
    ns: int = 0


class InferStats(Answer):
    """Where requests spent their time."""

    success: Duration = Duration()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()
    cache_hit: Duration = Duration()


class ModelStats(Answer):
    """Triton's statistics of one version of a model, since it was loaded."""

    inference_count: int = 0
    execution_count: int = 0
    inference_stats: InferStats = InferStats()


class Statistics(Answer):
    """Triton's statistics of a model, by version."""

    model_stats: tuple[ModelStats, ...] = ()


class Indexed(Answer):
    """A model that a server has, or could load."""

    name: str
    version: str | int = ""
    state: str = ""
    reason: str = ""


def read(kind: type[M], value: object, whose: str) -> M:
    """``value`` as an answer of ``kind``.

    Args:
        kind: what was asked for.
        value: decoded JSON.
        whose: the server, for the message.

    Raises:
        SessionFailed: it is something else.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the answer"
        raise SessionFailed(
            f"{whose} does not speak the V2 protocol: {where}: {first['msg']}",
            hint="name the server's HTTP port with http, its gRPC port with grpc",
        ) from exc
