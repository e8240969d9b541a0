"""Refit: puts the weights of an ONNX file into an engine that was built without weights."""

from __future__ import annotations

from typing import Any

from resnext.artifact.records import EngineOptions
from resnext.errors import EngineRefused, SessionFailed
from resnext.runtimes.trt.library import Library
from resnext.runtimes.trt.log import captured

from .engine_from_onnx import parser_errors


def refitted_from_engine(
    data: bytes, onnx_data: bytes, library: Library, options: EngineOptions
) -> bytes:
    """Put the weights of an ONNX file into an engine.

    Args:
        data: the serialized engine, built with ``strip_weights``.
        onnx_data: the model, with the same graph.
        library: the library that built the engine. Refitting needs a GPU.
        options: the options that the engine was built with.

    Returns:
        The serialized engine with weights.

    Raises:
        SessionFailed: the library cannot load the engine.
        EngineRefused: the weights do not fit, or some are missing.
    """
    trt = library.load()
    with captured(trt) as (logger, log):
        engine = library.runtime(trt, logger, options).deserialize_cuda_engine(data)
        if engine is None:
            raise SessionFailed(f"{library.title} cannot load the engine: {log.reason()}")
        if not engine.refittable:  # including engines that are already refitted
            raise EngineRefused(
                "the engine takes no weights", hint="refit the one built without weights"
            )
        refitter = trt.Refitter(engine, logger)
        parser_refitter = trt.OnnxParserRefitter(refitter, logger)
        if not parser_refitter.refit_from_bytes(onnx_data):
            errors = parser_errors(parser_refitter)
            node, _, reason = errors[0] if errors else ("", "", log.reason())
            place = f"node {node!r}: " if node else ""
            nodes = tuple(name for name, _, _ in errors if name)
            raise EngineRefused(f"{library.title} refuses the weights: {place}{reason}", nodes)
        if not refitter.refit_cuda_engine():
            raise EngineRefused(
                f"{library.title} cannot refit: {_missing(refitter) or log.reason()}"
            )
        config = engine.create_serialization_config()
        config.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
        whole = engine.serialize_with_config(config)
        if whole is None:
            raise EngineRefused(f"{library.title} cannot write the refitted engine: {log.reason()}")
        return bytes(whole)


def _missing(refitter: Any) -> str:
    names = list(refitter.get_missing_weights())
    return f"{len(names)} weights are missing, first {names[0]}" if names else ""
