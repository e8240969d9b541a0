"""Every name of TensorRT in product code, held against the names that TensorRT 10, TensorRT 11 and
TensorRT-RTX have.

Only a GPU could show a name that is missing, and only on the code's rarest path. Lists under
data/tensorrt-api were written out of the libraries themselves: a version, then each class with its
members, then functions (``FN``).
"""

from __future__ import annotations

import ast
import enum
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from fakes import tensorrt
from fakes.tensorrt import FakeTensorRT
from resnext.artifact.records import TilingLevel
from resnext.artifact.specs import numpy_dtype
from resnext.runtimes.trt.library import RTX_TARGETS
from resnext.runtimes.trt.session import DTYPES

ROOT = Path(__file__).parents[3]
DATA = Path(__file__).parents[1] / "data" / "tensorrt-api"
FOLDERS = ("resnext", "export", "benchmarks")

Kinds = tuple[str, ...]
#: Stands for the imported library itself.
LIBRARY: Kinds = ("",)

#: What a variable of this name holds, wherever code talks to TensorRT. This is the code's own
#: convention.
CONVENTION: Mapping[str, Kinds] = {
    "trt": LIBRARY,
    "self._trt": LIBRARY,
    "logger": ("ILogger",),
    "builder": ("Builder",),
    "network": ("INetworkDefinition",),
    "parser": ("OnnxParser",),
    "error": ("ParserError",),
    "config": ("IBuilderConfig",),
    "profile": ("IOptimizationProfile",),
    "runtime": ("Runtime",),
    "self._runtime": ("Runtime",),
    "engine": ("ICudaEngine",),
    "self._engine": ("ICudaEngine",),
    "inspector": ("EngineInspector",),
    "context": ("IExecutionContext",),
    "self.context": ("IExecutionContext",),
    "self._last_bound.context": ("IExecutionContext",),
    "refitter": ("Refitter",),
    "parser_refitter": ("OnnxParserRefitter",),
}

#: Modules that use TensorRT, each with variables of other types than usual, and with additional
#: ones.
MODULES: Mapping[str, Mapping[str, Kinds | None]] = {
    "resnext/runtimes/trt/library.py": {
        "self.cache": ("IRuntimeCache",),
        "self.config": ("IRuntimeConfig",),
    },
    "resnext/runtimes/trt/log.py": {},
    "resnext/runtimes/trt/execution.py": {},
    "resnext/runtimes/trt/session.py": {"profile": None},
    "resnext/runtimes/trt/profiler.py": {},
    "export/resnext_export/tensorrt/engine_from_onnx.py": {"layer": ("ILayer",)},
    "export/resnext_export/tensorrt/refit.py": {},
    "export/resnext_export/tensorrt/progress.py": {},
    "export/resnext_export/tensorrt/timing_cache.py": {},
    "export/resnext_export/tensorrt/acceptance.py": {},
}
#: Functions in which a parameter holds one of several things.
FUNCTIONS: Mapping[str, Mapping[str, Kinds]] = {
    "parser_errors": {"parser": ("OnnxParser", "OnnxParserRefitter")}
}
#: Where not every library is meant; elsewhere, all three are.
CLASSES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("resnext/runtimes/trt/library.py", "TensorRT"): ("tensorrt-10", "tensorrt-11"),
    ("resnext/runtimes/trt/library.py", "TensorRTRTX"): ("tensorrt_rtx-1",),
    ("resnext/runtimes/trt/library.py", "CompiledKernels"): ("tensorrt_rtx-1",),
}
#: What methods and attributes give that is again an object of the library.
GIVES: Mapping[tuple[str, str], str] = {
    ("ILogger", "Severity"): "ILogger",  # its values are the logger's own attributes too
    ("Builder", "create_network"): "INetworkDefinition",
    ("Builder", "create_builder_config"): "IBuilderConfig",
    ("Builder", "create_optimization_profile"): "IOptimizationProfile",
    ("Builder", "build_serialized_network"): "IHostMemory",
    ("INetworkDefinition", "get_layer"): "ILayer",
    ("INetworkDefinition", "get_input"): "ITensor",
    ("INetworkDefinition", "get_output"): "ITensor",
    ("OnnxParser", "get_error"): "ParserError",
    ("OnnxParserRefitter", "get_error"): "ParserError",
    ("IBuilderConfig", "create_timing_cache"): "ITimingCache",
    ("IBuilderConfig", "get_timing_cache"): "ITimingCache",
    ("ITimingCache", "serialize"): "IHostMemory",
    ("Runtime", "deserialize_cuda_engine"): "ICudaEngine",
    ("ICudaEngine", "create_engine_inspector"): "EngineInspector",
    ("ICudaEngine", "create_execution_context"): "IExecutionContext",
    ("ICudaEngine", "create_serialization_config"): "ISerializationConfig",
    ("ICudaEngine", "create_runtime_config"): "IRuntimeConfig",
    ("ICudaEngine", "serialize_with_config"): "IHostMemory",
    ("IRuntimeConfig", "create_runtime_cache"): "IRuntimeCache",
    ("IRuntimeCache", "serialize"): "IHostMemory",
}
#: What the code's own methods give.
OURS: Mapping[str, Kinds] = {
    "self.load": LIBRARY,
    "library.load": LIBRARY,
    "self._library.load": LIBRARY,
    "self.runtime": ("Runtime",),
    "library.runtime": ("Runtime",),
    "self._library.runtime": ("Runtime",),
}
#: Enumerations whose values are looked up by a name that is made at run time; a test below holds
#: the tables of those.
FAMILIES = ("TilingOptimizationLevel", "ComputeCapability")


@dataclass(frozen=True)
class Names:
    """What one library has."""

    version: str
    classes: Mapping[str, frozenset[str]]
    functions: frozenset[str]

    def have(self, kind: str, member: str) -> bool:
        if kind == "":
            return member in self.classes or member in self.functions
        return member in self.classes.get(kind, ())


def read_names(path: Path) -> Names:
    version, *lines = path.read_text(encoding="utf-8").splitlines()
    functions = frozenset(line.removeprefix("FN ") for line in lines if line.startswith("FN "))
    pairs = (line.split(" : ") for line in lines if " :" in line)
    return Names(
        version, {name: frozenset(" ".join(rest).split()) for name, *rest in pairs}, functions
    )


LISTS = {re.sub(r"\..*", "", path.stem): read_names(path) for path in sorted(DATA.glob("*.txt"))}
ALL = tuple(LISTS)


@dataclass(frozen=True)
class Use:
    """A name of a library in the code: ``member`` of ``kind``, or of the library if that is ""."""

    kind: str
    member: str
    lists: tuple[str, ...]
    where: str

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(name for name in self.lists if not LISTS[name].have(self.kind, self.member))


class Reader(ast.NodeVisitor):
    """Finds all uses in a module that uses TensorRT, and the expressions that it cannot follow."""

    def __init__(self, path: str, own: Mapping[str, Kinds | None]) -> None:
        self.uses: list[Use] = []
        self.problems: list[str] = []
        self._path = path
        self._holds = {
            word: kinds for word, kinds in {**CONVENTION, **own}.items() if kinds is not None
        }
        self._lists = ALL

    def resolve(self, node: ast.AST) -> Kinds:
        """What an expression holds; () for what is not the library's."""
        if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in self._holds:
            return self._holds[ast.unparse(node)]
        if isinstance(node, ast.Attribute):
            base = self.resolve(node.value)
            if base == LIBRARY:
                return (
                    (node.attr,)
                    if any(node.attr in names.classes for names in LISTS.values())
                    else ()
                )
            return tuple(GIVES[kind, node.attr] for kind in base if (kind, node.attr) in GIVES)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            return self.resolve(node.func) or OURS.get(ast.unparse(node.func), ())
        if isinstance(node, ast.NamedExpr):
            return self.resolve(node.value)
        return ()

    def visit_Attribute(self, node: ast.Attribute) -> None:  # ast's name
        for kind in self.resolve(node.value):
            self._use(kind, node.attr, node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:  # ast's name
        if isinstance(node.func, ast.Name) and node.func.id == "getattr":
            for kind in self.resolve(node.args[0]):
                if kind not in FAMILIES and not isinstance(node.args[1], ast.Constant):
                    self._problem(
                        node, f"looks up names of {kind or 'the library'} that no table holds"
                    )
                if isinstance(node.args[1], ast.Constant):
                    self._use(kind, str(node.args[1].value), node)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:  # ast's name
        self.generic_visit(node)
        kinds = self.resolve(node.value)
        for target in node.targets if kinds else ():
            text = ast.unparse(target)
            if isinstance(target, ast.Name) or text.endswith(
                ".__class__"
            ):  # the latter tells which layer it is
                self._holds[text.removesuffix(".__class__")] = kinds
            elif self._holds.get(text) != kinds and not self.resolve(
                getattr(target, "value", target)
            ):
                self._problem(
                    node, f"keeps {kinds[0]} as {text}, which the convention does not know"
                )

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:  # ast's name
        before = self._holds
        self._holds = {**before, **FUNCTIONS.get(node.name, {})}
        self.generic_visit(node)
        self._holds = before

    def visit_ClassDef(self, node: ast.ClassDef) -> None:  # ast's name
        before = self._lists
        self._lists = CLASSES.get((self._path, node.name), before)
        for kind in (kind for base in node.bases for kind in self.resolve(base)):
            for method in (item for item in node.body if isinstance(item, ast.FunctionDef)):
                self._use(kind, method.name, method)
        self.generic_visit(node)
        self._lists = before

    def _use(self, kind: str, member: str, node: ast.AST) -> None:
        if not member.startswith("__"):
            self.uses.append(
                Use(kind, member, self._lists, f"{self._path}:{getattr(node, 'lineno', 0)}")
            )

    def _problem(self, node: ast.AST, text: str) -> None:
        self.problems.append(f"{self._path}:{getattr(node, 'lineno', 0)} {text}")


def read(path: str, source: str) -> Reader:
    reader = Reader(path, MODULES[path])
    reader.visit(ast.parse(source))
    return reader


def faults(path: str, source: str) -> list[str]:
    """What is wrong in a module: names that a library lacks, and uses that cannot be followed."""
    if path not in MODULES:
        return strangers(path, source)
    reader = read(path, source)
    lacking = [
        f"{use.where} {use.kind or 'library'}.{use.member} is not in {', '.join(use.missing)}"
        for use in reader.uses
        if use.missing
    ]
    return lacking + reader.problems


def strangers(path: str, source: str) -> list[str]:
    """Uses of the library in a module that is not in the table."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("tensorrt")]
        elif isinstance(node, ast.ImportFrom):
            names = (
                [node.module] if (node.module or "").startswith("tensorrt") and node.module else []
            )
        elif isinstance(node, ast.Name | ast.arg):
            names = [
                name
                for name in [getattr(node, "id", None) or getattr(node, "arg", "")]
                if name == "trt"
            ]
        elif isinstance(node, ast.Attribute):
            kinds = CONVENTION.get(ast.unparse(node.value), ())
            lists = LISTS.values()
            known = [
                kind
                for kind in kinds
                if kind and any(names.have(kind, node.attr) for names in lists)
            ]
            names = [ast.unparse(node) for _ in known]
        found += [
            f"{path}:{getattr(node, 'lineno', 0)} {name}: this module is not in the table"
            for name in names
        ]
    return found


def product_modules() -> dict[str, str]:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


# ---- the lists and the product


def test_there_is_a_list_for_each_library() -> None:
    assert ALL == ("tensorrt-10", "tensorrt-11", "tensorrt_rtx-1")
    for names in LISTS.values():
        assert {"Builder", "ICudaEngine", "IExecutionContext", "Runtime"} <= set(names.classes)
        assert "nptype" in names.functions
    assert "FP16" in LISTS["tensorrt-10"].classes["BuilderFlag"]
    assert "FP16" not in LISTS["tensorrt-11"].classes["BuilderFlag"]


def test_every_name_in_the_product_is_one_that_its_libraries_have() -> None:
    assert [
        fault for path, source in product_modules().items() for fault in faults(path, source)
    ] == []


def test_the_table_of_modules_holds_no_module_that_is_gone_or_silent() -> None:
    modules = product_modules()
    for path in MODULES:
        assert read(path, modules[path]).uses, f"{path} uses no name of TensorRT"
    for path, name in CLASSES:
        assert f"\nclass {name}" in modules[path]


@pytest.mark.parametrize(
    ("path", "kind", "member"),
    [
        ("resnext/runtimes/trt/library.py", "IBuilderConfig", "set_compute_capability"),
        ("resnext/runtimes/trt/library.py", "HardwareCompatibilityLevel", "AMPERE_PLUS"),
        ("resnext/runtimes/trt/library.py", "IRuntimeCache", "deserialize"),
        ("resnext/runtimes/trt/log.py", "ILogger", "INTERNAL_ERROR"),
        ("resnext/runtimes/trt/log.py", "ILogger", "log"),
        ("resnext/runtimes/trt/execution.py", "IExecutionContext", "execute_async_v3"),
        ("resnext/runtimes/trt/session.py", "ICudaEngine", "get_tensor_profile_shape"),
        ("resnext/runtimes/trt/session.py", "", "TensorIOMode"),
        ("resnext/runtimes/trt/session.py", "LayerInformationFormat", "JSON"),
        ("export/resnext_export/tensorrt/engine_from_onnx.py", "ParserError", "node_operator"),
        (
            "export/resnext_export/tensorrt/engine_from_onnx.py",
            "IBuilderConfig",
            "tiling_optimization_level",
        ),
        ("export/resnext_export/tensorrt/engine_from_onnx.py", "ILayer", "name"),
        ("export/resnext_export/tensorrt/engine_from_onnx.py", "IConvolutionLayer", "num_groups"),
        ("export/resnext_export/tensorrt/refit.py", "ISerializationConfig", "clear_flag"),
        ("export/resnext_export/tensorrt/refit.py", "Runtime", "deserialize_cuda_engine"),
        ("export/resnext_export/tensorrt/progress.py", "IProgressMonitor", "step_complete"),
        ("export/resnext_export/tensorrt/timing_cache.py", "ITimingCache", "serialize"),
    ],
)
def test_uses_of_every_sort_are_seen(path: str, kind: str, member: str) -> None:
    uses = {(use.kind, use.member) for use in read(path, product_modules()[path]).uses}
    assert (kind, member) in uses


def test_a_parsers_findings_are_read_of_both_parsers() -> None:
    path = "export/resnext_export/tensorrt/engine_from_onnx.py"
    kinds = {
        use.kind for use in read(path, product_modules()[path]).uses if use.member == "num_errors"
    }
    assert kinds == {"OnnxParser", "OnnxParserRefitter"}


# ---- planted faults

BUILDER = "export/resnext_export/tensorrt/engine_from_onnx.py"
FLAVOUR = "resnext/runtimes/trt/library.py"
PLANTED = {
    "only TensorRT 10": (
        BUILDER,
        "config.set_flag(trt.BuilderFlag.FP16)",
        "BuilderFlag.FP16 is not in tensorrt-11",
    ),
    "only TensorRT-RTX": (
        BUILDER,
        "config.set_compute_capability(x, 0)",
        "set_compute_capability is not in tensorrt-10",
    ),
    "in the wrong library": (
        FLAVOUR,
        "class TensorRT:\n    def f(self, config): config.set_compute_capability(x, 0)",
        "set_compute_capability is not in tensorrt-10, tensorrt-11",
    ),
    "only TensorRT, in TensorRT-RTX": (
        FLAVOUR,
        "class TensorRTRTX:\n    def f(self, builder): builder.build_engine_with_config(x)",
        "build_engine_with_config is not in tensorrt_rtx-1",
    ),
    "a method made up": (
        BUILDER,
        "builder.build_it_well(network)",
        "Builder.build_it_well is not in tensorrt-10",
    ),
    "an attribute made up": (BUILDER, "config.workspace = 3", "IBuilderConfig.workspace is not in"),
    "a class made up": (BUILDER, "trt.Bulider(logger)", "library.Bulider is not in"),
    "a method of a call's result": (BUILDER, "trt.Builder(logger).run()", "Builder.run is not in"),
    "a method of what a method gave": (
        BUILDER,
        "found = builder.create_network(0)\nfound.add_convolution(1)",
        "INetworkDefinition.add_convolution is not in tensorrt-10",
    ),
    "a method that TensorRT 11 dropped": (
        "resnext/runtimes/trt/session.py",
        "self._engine.create_execution_context_without_device_memory()",
        "create_execution_context_without_device_memory is not in tensorrt-11, tensorrt_rtx-1",
    ),
    "an attribute of the session's": (
        "resnext/runtimes/trt/execution.py",
        "self.context.enqueue_v3(1)",
        "IExecutionContext.enqueue_v3 is not in",
    ),
    "a value of an alias": (
        FLAVOUR,
        "levels = trt.HardwareCompatibilityLevel\nlevels.HOPPER",
        "HOPPER is not in",
    ),
    "an alias of a nested enumeration": (
        "resnext/runtimes/trt/log.py",
        "severities = trt.ILogger.Severity\nseverities.FATAL",
        "ILogger.FATAL is not in",
    ),
    "a method to override": (
        "export/resnext_export/tensorrt/progress.py",
        "class Monitor(trt.IProgressMonitor):\n    def phase_begin(self): ...",
        "IProgressMonitor.phase_begin is not in",
    ),
    "names by text": (
        BUILDER,
        "getattr(trt.BuilderFlag, name)",
        "looks up names of BuilderFlag that no table holds",
    ),
    "one name by text": (
        BUILDER,
        "getattr(trt.BuilderFlag, 'INT8')",
        "BuilderFlag.INT8 is not in tensorrt-11",
    ),
    "only one of two parsers": (
        BUILDER,
        "def parser_errors(parser): parser.num_subgraphs",
        "OnnxParserRefitter.num_subgraphs is not in",
    ),
    "an object that is put away": (
        BUILDER,
        "self._hidden = builder.create_network(0)",
        "keeps INetworkDefinition as",
    ),
    "an import": ("resnext/errors.py", "import tensorrt_rtx", "this module is not in the table"),
    "an import of a name": (
        "resnext/errors.py",
        "from tensorrt import Builder",
        "this module is not in the table",
    ),
    "a module that takes the library": (
        "resnext/errors.py",
        "def f(trt): ...",
        "this module is not in the table",
    ),
    "a module that uses an object": (
        "resnext/errors.py",
        "def f(context): context.execute_async_v3(0)",
        "this module is not in the table",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_name_is_reported(name: str) -> None:
    path, source, told = PLANTED[name]
    found = faults(path, source)
    assert any(told in fault for fault in found), found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            BUILDER,
            (
                "config.set_flag(trt.BuilderFlag.TF32)\nnetwork.name ="
                " 'x'\nbytes(builder.build_serialized_network(a, b))"
            ),
        ),
        (
            FLAVOUR,
            "class TensorRTRTX:\n    def f(self, config): config.set_compute_capability(x, 0)",
        ),
        (
            FLAVOUR,
            "def f(engine):\n    config = engine.create_serialization_config()\n    config.flags",
        ),
        (
            "resnext/network/config.py",
            "def f(config, engine, profile): config.num_classes, engine.record, profile.min",
        ),
    ],
)
def test_good_names_are_not_reported(path: str, source: str) -> None:
    assert faults(path, source) == []


def test_an_alias_ends_with_its_function() -> None:
    source = (
        "def f(engine):\n    config = engine.create_runtime_config()\ndef g(config):"
        " config.set_flag(1)"
    )
    assert faults(BUILDER, source) == []


# ---- names that are made at run time


def test_every_level_and_target_has_its_value() -> None:
    levels = {level.upper() for level in get_args(TilingLevel)}
    for names in LISTS.values():
        assert levels == names.classes["TilingOptimizationLevel"] - {"name", "value"}
    targets = {target.replace("sm_", "SM") for target in RTX_TARGETS}
    assert targets == {
        name
        for name in LISTS["tensorrt_rtx-1"].classes["ComputeCapability"]
        if name.startswith("SM")
    }
    for names in LISTS.values():
        assert set(DTYPES) <= names.classes["DataType"]
    assert {numpy_dtype(dtype).name for dtype in DTYPES.values()} == set(DTYPES.values())


# ---- the real library, if it is installed


def test_the_list_is_that_of_the_installed_tensorrt_rtx_as_far_as_the_product_uses_it() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    if trt.__version__ != LISTS["tensorrt_rtx-1"].version:
        pytest.skip(f"TensorRT-RTX {trt.__version__} is installed")
    modules = product_modules()
    uses = [
        use
        for path in MODULES
        for use in read(path, modules[path]).uses
        if "tensorrt_rtx-1" in use.lists
    ]
    assert len({(use.kind, use.member) for use in uses}) > 60
    for use in uses:
        assert hasattr(getattr(trt, use.kind) if use.kind else trt, use.member), use
    assert not hasattr(trt.BuilderFlag, "FP16")


def test_what_methods_give_is_what_the_library_says() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    for (kind, member), given in GIVES.items():
        if member != "Severity":
            assert given in signature(trt, kind, member), (kind, member)
    modules = product_modules()
    for use in (use for path in MODULES for use in read(path, modules[path]).uses if use.kind):
        text = signature(trt, use.kind, use.member)
        objects = [
            name
            for name in re.findall(r"-> \w+\.\w+\.(\w+)$", text, re.MULTILINE)
            if followed(trt, name)
        ]
        assert not objects or (use.kind, use.member) in GIVES, (
            f"{use} gives {objects[0]}, which GIVES does not say"
        )


def signature(trt: Any, kind: str, member: str) -> str:
    return str(getattr(getattr(getattr(trt, kind), member), "__doc__", ""))


def followed(trt: Any, name: str) -> bool:
    """Whether objects of that class have members that the product could use: not enumerations, not
    plain tuples.
    """
    found = getattr(trt, name, None)
    return (
        found is not None and not hasattr(found, "__members__") and name not in ("Dims", "Weights")
    )


# ---- the fake


def test_the_fake_has_no_name_that_the_libraries_lack() -> None:
    assert fake_faults(tensorrt) == []


def fake_faults(module: Any) -> list[str]:
    known = {name for names in LISTS.values() for name in names.classes}
    missing = []
    for name, fake in inspect.getmembers(module, inspect.isclass):
        if (
            fake.__module__ != module.__name__
            or name in ("Control", "HostMemory", "FakeTensorRT")
            or name[0] == "_"
        ):
            continue
        kind = next(base.__name__ for base in fake.__mro__ if base.__name__ in known)
        only_rtx = kind != name or any(kind not in names.classes for names in LISTS.values())
        rtx = only_rtx or kind in ("IRuntimeConfig",)
        for member in public_members(fake):
            use = Use(kind, member, ("tensorrt_rtx-1",) if rtx else ALL, name)
            missing += [f"{name}.{member}"] if use.missing else []
    for member in vars(module.FakeTensorRT):
        if member[0] != "_" and member != "DynamicShapesKernelSpecializationStrategy":
            missing += [f"library.{member}"] if Use("", member, ALL, "").missing else []
    instance = set(vars(FakeTensorRT())) - {
        "__name__",
        "kind",
        "control",
        "memory",
    }  # what a test sets and reads
    return missing + sorted(instance)


def public_members(fake: type) -> set[str]:
    """Attributes of the class, and of its objects if its __init__ sets them."""
    source = inspect.getsource(fake)
    set_on_self = set(re.findall(r"self\.([a-z]\w*)(?::[^=\n]+)? = ", source))
    members = {name for name in dir(fake) if name[0] != "_"}
    if issubclass(fake, enum.Enum):
        return set(fake.__members__)
    return members | set_on_self


def test_a_made_up_name_in_the_fake_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt.IExecutionContext, "enqueue_v9", lambda _self: True, raising=False)
    assert "IExecutionContext.enqueue_v9" in fake_faults(tensorrt)
    monkeypatch.setattr(
        tensorrt.IExecutionContext, "is_stream_capturable", None, raising=False
    )  # only RTX's
    assert "IExecutionContext.is_stream_capturable" in fake_faults(tensorrt)


def test_a_use_knows_what_it_lacks() -> None:
    use = Use("BuilderFlag", "FP16", ALL, "x.py:1")
    assert use.missing == ("tensorrt-11", "tensorrt_rtx-1")
    assert replace(use, member="TF32").missing == ()
    assert replace(use, kind="NoSuchClass").missing == ALL


# ---- the fake must not be kinder than the library


def outcome(work: Callable[[], Any]) -> str:
    """What a call gives, or the error that it raises."""
    try:
        return repr(work())
    except Exception as exc:  # whatever it is, the other side must raise the same
        return repr(exc)


def enumerations(module: Any) -> dict[str, type[enum.Enum]]:
    """The fake's, by their names in the library."""
    found = dict(
        inspect.getmembers(
            module, lambda kind: inspect.isclass(kind) and issubclass(kind, enum.Enum)
        )
    )
    found.pop("Enum")
    return {**found, "ILogger.Severity": module.ILogger.Severity}


@pytest.mark.parametrize("name", enumerations(tensorrt))
def test_the_fakes_enumerations_have_the_librarys_members_and_values(name: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    real = functools.reduce(getattr, name.split("."), trt)
    fake = enumerations(tensorrt)[name]
    assert {one: value.value for one, value in fake.__members__.items()} == {
        one: value.value for one, value in real.__members__.items()
    }


@pytest.mark.parametrize("name", tensorrt.DataType.__members__)
def test_an_element_type_is_to_numpy_what_it_is_in_the_library(name: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    real = outcome(lambda: trt.nptype(trt.DataType.__members__[name]))
    assert outcome(lambda: FakeTensorRT.nptype(tensorrt.DataType[name])) == real
    if "TypeError" not in real:
        assert DTYPES[name] == np.dtype(trt.nptype(trt.DataType.__members__[name])).name


def parameters(trt: Any, kind: str, member: str) -> list[list[str]]:
    """Names of what a method takes, for each of its forms, with and without those that have a
    default value.
    """
    told = re.findall(
        rf"^(?:\d+\. )?{member}\(self: [\w.]+,? ?(.*)\) -> ",
        signature(trt, kind, member),
        re.MULTILINE,
    )
    forms = [
        re.findall(r"(?:^|, )(\w+): (?:::|[\w.\[\], ])+?( =|(?=, \w+:)|$)", form) for form in told
    ]
    return [
        names
        for form in forms
        for names in ([one for one, _ in form], [one for one, rest in form if not rest])
    ]


def renamed(trt: Any, module: Any) -> list[str]:
    """Methods of the fake that take other arguments than the library's, each with what that
    takes.
    """
    found = []
    for name, fake in inspect.getmembers(module, inspect.isclass):
        kind = next((base.__name__ for base in fake.__mro__ if hasattr(trt, base.__name__)), None)
        if fake.__module__ != module.__name__ or kind is None or issubclass(fake, enum.Enum):
            continue
        for member, method in inspect.getmembers(fake, inspect.isfunction):
            taken = list(inspect.signature(method).parameters)[1:]
            forms = parameters(trt, kind, member) if member[0] != "_" else []
            if forms and taken not in forms:
                found.append(f"{name}.{member} takes {taken}, not one of {forms}")
    return found


def test_the_fakes_methods_take_what_the_librarys_take() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    assert parameters(trt, "IExecutionContext", "set_tensor_address") == [["name", "memory"]] * 2
    assert parameters(trt, "ICudaEngine", "create_execution_context") == [
        ["strategy"],
        [],
        ["runtime_config"],
        [],
    ]
    assert renamed(trt, tensorrt) == []


def test_an_argument_that_the_library_lacks_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(
        tensorrt.IExecutionContext,
        "set_tensor_address",
        lambda _self, name, address: (name, address),
    )
    assert any(
        "takes ['name', 'address'], not one of [['name', 'memory']" in line
        for line in renamed(trt, tensorrt)
    )
