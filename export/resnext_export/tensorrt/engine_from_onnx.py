"""A TensorRT engine from an ONNX file, with TensorRT 10, TensorRT 11 or TensorRT-RTX.

The ONNX graph defines the precision, because networks are always strongly typed. The file may be
from any source.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext.artifact.records import EngineLayer, EngineOptions, LayersFrom
from resnext.errors import EngineRefused, NoKernel, first_line
from resnext.machine.machine import Machine, this_machine
from resnext.runtimes.trt.layers import layers_from_inspector, layers_from_log
from resnext.runtimes.trt.library import Library
from resnext.runtimes.trt.log import Log, captured, shorten

from .progress import BuildWatch, monitor_for, run_cancelable
from .timing_cache import TimingCache

#: TensorRT's messages if it has no kernel for a layer with the graph's types.
_NO_KERNEL = re.compile(
    r"(?i)could not find any implementation for node|no implementation|no low-precision \w+ kernel|"
    r"not supported .* strongly"
)
#: The words before the layer's name in such a message.
_BEFORE_NAME = re.compile(r"(?i)\b(?:for|of|failing) (?:node|layer):? ")
#: Layers that are compiled together are named after the first and the last of them.
_TOGETHER = re.compile(r"\{ForeignNode\[(.*?)\.\.\.(.*?)\]\}")


@dataclass(frozen=True)
class BuiltEngine:
    """A finished engine.

    Attributes:
        data: the serialized engine.
        layers: each layer's actual types and kernel.
        layers_from: source of the layers.
        warnings: the library's warnings, shortened.
        build_s: duration of parsing and building, in seconds.
    """

    data: bytes
    layers: tuple[EngineLayer, ...]
    layers_from: LayersFrom
    warnings: tuple[str, ...]
    build_s: float


def engine_from_onnx(
    onnx_file: Path | bytes,
    library: Library,
    options: EngineOptions,
    *,
    shapes: Mapping[str, tuple[int | None, ...]],
    name: str = "",
    timing_cache: TimingCache | None = None,
    watch: BuildWatch | None = None,
    machine: Machine | None = None,
) -> BuiltEngine:
    """Parse and build.

    Args:
        onnx_file: the model.
        library: the library to build with.
        options: builder options.
        shapes: the shape of each input with dynamic dimensions; None stands for the batch.
        name: the network's name, stored in the engine.
        timing_cache: kernel timings of earlier builds, read before and updated after the build;
            TensorRT only.
        watch: receives progress and can cancel.
        machine: driver and platform; None asks this machine.

    Raises:
        UsageError: the library does not have an option.
        MissingRequirement: the library, or the GPU that it needs, is missing.
        NoKernel: there is no kernel for some nodes; names them.
        EngineRefused: the file does not parse or build for another reason; gives the reason and the
            nodes.
    """
    driver = (machine or this_machine()).driver
    library.check_can_build(options, driver)
    trt = library.load()
    watch = watch or BuildWatch()
    started = time.perf_counter()
    with captured(trt) as (logger, log):
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        _parse(trt, network, logger, onnx_file, log)
        network.name = name
        config = _configured(trt, builder, library, options, shapes)
        config.progress_monitor = monitor_for(trt, watch)
        if timing_cache is not None:
            timing_cache.attach(trt, config)
        # The library releases the GIL during the build; only the main thread handles signals.
        plan = run_cancelable(lambda: builder.build_serialized_network(network, config), watch)
        if plan is None:
            reason = f"{library.title} {library.version} cannot build the engine: {log.reason()}"
            if nodes := _refused(trt, log, network):
                raise NoKernel(reason, nodes)
            raise EngineRefused(reason)
        if timing_cache is not None:
            timing_cache.write(config)
        data = bytes(plan)
        build_s = time.perf_counter() - started
        loads_here = driver.problem is None and not options.strip_weights
        layers, source = (
            _inspected(trt, library, options, data, logger) if loads_here else None
        ) or _logged(log)
    warnings = tuple(dict.fromkeys(short for line in log.warnings if (short := shorten(line))))
    return BuiltEngine(data, layers, source, warnings, build_s)


def check_parses(data: bytes, library: Library) -> None:
    """Check that the library's parser takes an ONNX file; nothing is built.

    Raises:
        MissingRequirement: the library is missing.
        EngineRefused: it does not; gives the reason and the nodes.
    """
    trt = library.load()
    with captured(trt) as (logger, log):
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        _parse(trt, network, logger, data, log)


def _parse(trt: Any, network: Any, logger: Any, onnx_file: Path | bytes, log: Log) -> None:
    parser = trt.OnnxParser(network, logger)
    parsed = (
        parser.parse(onnx_file)
        if isinstance(onnx_file, bytes)
        else parser.parse_from_file(str(onnx_file))
    )
    if parsed and network.num_outputs == 0:  # plain text may parse as a model without a graph
        raise EngineRefused(
            "the file holds no graph with outputs: this is not an ONNX file, or it is cut short"
        )
    if parsed:
        return
    errors = parser_errors(parser)
    node, operator, reason = errors[0] if errors else ("", "", log.reason())
    place = f"node {node!r} ({operator}): " if node else ""
    raise EngineRefused(
        f"TensorRT's ONNX parser refuses the file: {place}{reason}",
        tuple(name for name, _, _ in errors if name),
    )


def parser_errors(parser: Any) -> tuple[tuple[str, str, str], ...]:
    """(node, operator, reason) of each parser error; names are "" if it concerns no single node."""
    errors = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        of_node = error.node() >= 0
        name = (error.node_name() or f"number {error.node()}") if of_node else ""
        reason = _parser_reason(error.desc()).removeprefix(f"{name}: ")
        errors.append((name, error.node_operator() if of_node else "", reason))
    return tuple(errors)


def _parser_reason(text: str) -> str:
    """The most informative line of a parser error: a message, or the failed assertion."""
    lines = [short for line in text.splitlines() if (short := shorten(line))]
    messages = [line for line in lines if not line.startswith(("Invalid Node", "Assertion failed"))]
    first = (messages or lines or ["no reason given"])[0]
    if first == "false":  # the complete message for a known but unsupported operator
        return "TensorRT does not support this operator"
    explanations = {
        "Plugin not found": (
            "TensorRT does not know this operator, nor is there a plugin of its name"
        ),
        "Failed to import initializer": (
            "weights that lie outside the file are missing, or not in the file's folder"
        ),
        "ParseFromCodedStream": "this is not an ONNX file, or it is cut short",
    }
    return next((text for part, text in explanations.items() if part in first), first)


def _configured(
    trt: Any,
    builder: Any,
    library: Library,
    options: EngineOptions,
    shapes: Mapping[str, tuple[int | None, ...]],
) -> Any:
    config = builder.create_builder_config()
    # Without this the inspector does not report each layer's types and kernel.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.tiling_level is not None:
        config.tiling_optimization_level = getattr(
            trt.TilingOptimizationLevel, options.tiling_level.upper()
        )
    if options.strip_weights:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT)
    library.configure(trt, config, options)
    for batch in options.profiles if shapes else ():
        profile = builder.create_optimization_profile()
        for tensor, shape in shapes.items():
            sizes = (batch.min, batch.opt, batch.max)
            try:
                profile.set_shape(
                    tensor,
                    *(tuple(batch_size if d is None else d for d in shape) for batch_size in sizes),
                )
            except (RuntimeError, TypeError) as exc:
                reason = (
                    f"{library.title} takes no input {tensor!r} of shape {shape}: {first_line(exc)}"
                )
                raise EngineRefused(reason) from exc
        if config.add_optimization_profile(profile) < 0:
            raise EngineRefused(
                f"{library.title} refuses the optimization profile for batch {batch}"
            )
    return config


def _refused(trt: Any, log: Log, network: Any) -> tuple[str, ...]:
    """Names of the layers without a kernel, in the network's order, as far as the library says.

    For layers that are compiled together, it names the first and the last, and any grouped
    convolution between them may be the cause. If one of the two is not in the network (the library
    adds layers), all layers on that side count.
    """
    texts = [_BEFORE_NAME.split(line)[-1] for line in log.errors if _NO_KERNEL.search(line)]
    if not texts:
        return ()
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    names = [layer.name for layer in layers]
    refused = {index for text in texts for index in _mentioned(names, text)}
    for first, last in (ends for text in texts for ends in _TOGETHER.findall(text)):
        start, stop = _mentioned(names, first) or (0,), _mentioned(names, last) or (len(names) - 1,)
        between = range(min(*start, *stop), max(*start, *stop) + 1)
        refused |= {index for index in between if _grouped(trt, layers[index])}
    return tuple(dict.fromkeys(names[index] for index in sorted(refused)))


def _mentioned(names: list[str], text: str) -> tuple[int, ...]:
    """Indices of the names that ``text`` mentions, but not as part of a longer name."""
    # A dot ends a sentence, and three dots separate two names; between letters it is in a name.
    return tuple(
        index
        for index, name in enumerate(names)
        if name and re.search(rf"(?<![\w/:-])(?<!\w\.){re.escape(name)}(?![\w/:-]|\.\w)", text)
    )


def _grouped(trt: Any, layer: Any) -> bool:
    if layer.type != trt.LayerType.CONVOLUTION:
        return False
    layer.__class__ = trt.IConvolutionLayer  # the network returns all layers as the base class
    return bool(layer.num_groups > 1)


def _inspected(
    trt: Any, library: Library, options: EngineOptions, data: bytes, logger: Any
) -> tuple[tuple[EngineLayer, ...], LayersFrom] | None:
    """Layers as the engine reports them; None if it cannot be loaded here."""
    runtime = library.runtime(trt, logger, options)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return layers_from_inspector(text), "inspector"


def _logged(log: Log) -> tuple[tuple[EngineLayer, ...], LayersFrom]:
    """Layers as the build log lists them."""
    return (layers_from_log(log.layers), "build log") if log.layers else ((), "nothing")
