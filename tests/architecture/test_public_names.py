from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import resnext
from resnext import errors

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "resnext": ROOT / "resnext",
    "resnext_export": ROOT / "export" / "resnext_export",
    "resnext_bench": ROOT / "benchmarks" / "resnext_bench",
}


def loaded_after(statement: str) -> set[str]:
    """Names of the top-level modules that a fresh interpreter holds after ``statement``."""
    code = (
        f"import sys; {statement}; print(*sorted(name.partition('.')[0] for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import resnext",
        "import resnext.network.config",
        "import resnext.errors",
        "import resnext.cli.app",
    ],
)
def test_importing_the_package_loads_no_framework(statement: str) -> None:
    heavy = {
        "torch",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "pydantic",
        "numpy",
        "scipy",
        "PIL",
        "rich",
        "safetensors",
    }
    loaded = loaded_after(statement)
    assert "resnext" in loaded
    assert loaded & heavy == set()


@pytest.mark.parametrize("statement", ["import resnext_export", "import resnext_bench"])
def test_importing_a_sibling_loads_nothing_else(statement: str) -> None:
    assert (
        loaded_after(statement) & {"torch", "onnx", "pydantic", "numpy", "resnext", "click"}
        == set()
    )


def test_manifests_and_packages_are_read_without_pytorch() -> None:
    loaded = loaded_after(
        "import resnext.artifact.manifest, resnext.runtimes.pt2.package,"
        " resnext.runtimes.compatibility"
    )
    assert loaded & {"torch", "onnx", "onnxruntime"} == set()


def test_the_driver_is_asked_without_a_framework() -> None:
    loaded = loaded_after(
        "import resnext.machine.cuda_driver; resnext.machine.cuda_driver.probe_driver()"
    )
    assert loaded & {"torch", "onnx", "onnxruntime", "pydantic", "numpy"} == set()


@pytest.mark.parametrize("name", resnext.__all__)
def test_every_public_name_resolves_to_what_bears_it(name: str) -> None:
    value = getattr(resnext, name)
    if hasattr(value, "__name__"):
        assert value.__name__ == name
    assert name in dir(resnext)


def test_the_public_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse((ROOT / "resnext" / "__init__.py").read_text())
    typed = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert typed | {"__version__"} == set(resnext.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        resnext.no_such_name  # noqa: B018  # the look-up is the test


def imports(package: str) -> Iterator[tuple[Path, str, tuple[str, ...]]]:
    """Each import statement of a package's source: file, module, and the names taken from it."""
    for path in sorted(PACKAGES[package].rglob("*.py")):
        tree = ast.parse(path.read_text(), str(path))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield path, alias.name, ()
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield path, node.module or "", tuple(alias.name for alias in node.names)
            elif (
                isinstance(node, ast.Call)
                and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__")
                and isinstance(node.args[0], ast.Constant)
            ):
                yield path, str(node.args[0].value), ()


@pytest.mark.parametrize(
    ("package", "above"),
    [
        ("resnext", ("resnext_export", "resnext_bench")),
        ("resnext_export", ("resnext_bench",)),
    ],
)
def test_no_module_is_named_above_its_package(package: str, above: tuple[str, ...]) -> None:
    """Contracts see import statements; this sees ``import_module("...")``, too."""
    found = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path, module, _ in imports(package)
        if module.partition(".")[0] in above
    ]
    assert found == []


def test_benchmarks_reach_exporting_through_the_cache_only() -> None:
    found = {
        (module, names)
        for _, module, names in imports("resnext_bench")
        if module.partition(".")[0] == "resnext_export"
    }
    narrow = {"resnext_export": {"ExportRequest", "Stored", "build_or_reuse"}}
    assert found
    assert all(set(names) <= narrow.get(module, set()) for module, names in found)


def test_no_relative_import_leaves_its_package() -> None:
    for folder in PACKAGES.values():
        for path in folder.rglob("*.py"):
            depth = len(path.relative_to(folder).parts)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom):
                    assert node.level <= depth, f"{path}:{node.lineno}"


def drawn_errors() -> dict[str, tuple[int, int]]:
    """Each error of the tree in the docstring: its depth and its exit code."""
    lines = (errors.__doc__ or "").splitlines()
    found = {}
    for line in lines:
        if match := re.match(r"^ {4}([ │├└─]*)([A-Z]\w+) +(\d) ", line):
            found[match[2]] = (len(match[1]) // 4, int(match[3]))
    return found


def test_every_error_is_where_the_docstrings_tree_draws_it() -> None:
    classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.ResnextError)
    }
    drawn = drawn_errors()
    assert set(drawn) == set(classes)
    above: list[str] = []
    for name, (depth, code) in drawn.items():
        assert classes[name].exit_code == code, name
        del above[depth:]
        parent = classes[name].__bases__[0]
        assert parent is (classes[above[-1]] if above else Exception), name
        above.append(name)
