"""Installed packages: versions, extras, modules with two owners, and imports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, packages_distributions
from pathlib import Path

from packaging.utils import canonicalize_name

from resnext.machine.shared_libraries import load_problem

from .child import Died, died_hint
from .facts import Facts
from .observation import Observation, absent, observed, ok, problem, warning
from .requirements import EXTRAS, MODULES, TOOLKIT, Needed, tested_version, version_of


def check_versions(facts: Facts) -> Iterator[Observation]:
    """Each required version against its range, and against the tested one."""
    if not facts.needed:
        yield absent(
            "not-installed-toolkit",
            f"{TOOLKIT} runs from a folder and has no metadata, so its requirements are unknown",
            "install it: pip install -e .",
        )
        return
    same, other = [], []
    for each in facts.needed:
        distribution = facts.installed.get(each.name)
        if distribution is None:
            if not each.extra:
                yield problem(
                    "not-installed",
                    f"the required package {each.name} is not installed",
                    f"pip install '{each.name}{each.specifier}'",
                )
            continue
        version, tested = version_of(distribution.version), tested_version(each.name)
        if version is None or not each.specifier.contains(version, prereleases=True):
            yield problem(
                "wrong-version",
                f"{each.name} {distribution.version} is not {each.specifier}",
                f"pip install '{each.name}{each.specifier}'",
            )
        elif tested is not None and version.major > tested.major:
            yield warning(
                "untested-version",
                f"{each.name} {distribution.version} is a later major release than the tested"
                f" {tested}",
                f"if something fails: pip install {each.name}=={tested}",
            )
        elif tested is not None and version != version_of(str(tested)):
            other.append(f"{each.name} {distribution.version} (tested with {tested})")
        else:
            same.append(f"{each.name} {distribution.version}")
    if same:
        yield ok(f"as tested: {', '.join(same)}")
    if other:
        yield ok(f"in range, tested with others: {', '.join(other)}")


def check_extras(facts: Facts) -> Iterator[Observation]:
    """Optional packages."""
    whole = []
    for extra, purpose in EXTRAS.items():
        names = [each.name for each in facts.needed if each.extra == extra]
        missing = [name for name in names if name not in facts.installed]
        if missing:
            yield absent(
                "no-extra",
                f"{extra} ({purpose}) lacks {', '.join(missing)}",
                f"pip install '{TOOLKIT}[{extra}]'",
            )
        elif names:
            whole.append(extra)
    if whole:
        yield ok(f"installed extras: {', '.join(whole)}")


def check_owners(
    facts: Facts, owners: Mapping[str, list[str]] | None = None
) -> Iterator[Observation]:
    """Modules that two packages install, and packages whose files are another release's."""
    owners = packages_distributions() if owners is None else owners
    required = {each.name: each for each in facts.needed}
    seen = []
    for module in dict.fromkeys(
        MODULES.get(name, name.replace("-", "_")) for name in (*required, *facts.installed)
    ):
        names = sorted({canonicalize_name(name) for name in owners.get(module, ())})
        installed: dict[str, Distribution] = {
            name: facts.installed[name] for name in names if name in facts.installed
        }
        imported = facts.module(module)
        if not imported or not any(name in required for name in installed):
            continue
        version = version_of(imported.get("version"))
        if len(installed) > 1:
            yield _two_owners(module, installed, required, imported)
        else:
            [(name, distribution)] = installed.items()
            if version is not None and version != version_of(distribution.version):
                yield problem(
                    "other-files",
                    f"{name} {distribution.version} is installed, and its module {module} is"
                    f" {imported['version']} ({imported['file']})",
                    f"pip uninstall -y {name} && pip install {name}=={distribution.version}",
                )
            else:
                seen.append(module)
    if seen:
        yield ok(f"modules with one owner, and its version: {len(seen)}")


def _two_owners(
    module: str,
    installed: Mapping[str, Distribution],
    required: Mapping[str, Needed],
    imported: Mapping[str, object],
) -> Observation:
    versions = " and ".join(f"{name} {each.version}" for name, each in installed.items())
    fits = {name: _share_of_files(each, module) for name, each in installed.items()}
    best = max(fits.values())
    actual = [name for name, share in fits.items() if share == best]
    whose = f"{actual[0]}'s" if len(actual) == 1 else "either's"
    keep = next(name for name in installed if name in required)
    return problem(
        "two-owners",
        f"{versions} install the same module {module}; imported is {whose}"
        f" {imported.get('version')} ({imported.get('file')})",
        f"pip uninstall -y {' '.join(installed)} && pip install {keep}=={installed[keep].version}",
    )


def _share_of_files(distribution: Distribution, module: str) -> float:
    """Share of the module's recorded files that are on the disk in their recorded size."""
    recorded = [
        file
        for file in distribution.files or ()
        if file.parts[:1] in ((module,), (f"{module}.py",))
    ]
    same = sum(_size(Path(str(file.locate()))) == file.size for file in recorded)
    return same / len(recorded) if recorded else 0.0


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def check_imports(facts: Facts) -> Iterator[Observation]:
    """Every installed module, imported in a child process."""
    good = 0
    packages = {MODULES.get(each.name, each.name.replace("-", "_")): each for each in facts.needed}
    for module, answer in facts.modules.items():
        name = packages[module].name if module in packages else module
        tested = tested_version(name)
        pin = f"{name}=={tested}" if tested else name
        if isinstance(answer, Died):
            message = f"importing {module} {answer}"
            yield problem("import-died", message, died_hint(answer, pin))
        elif "error" not in answer:
            good += 1
        elif known := load_problem(answer["error"]):
            yield observed(known, f"{module} does not load: ")
        else:
            yield problem(
                "broken-import",
                f"{module} does not load: {answer['kind']}: {answer['error'][:200]}",
                f"pip uninstall -y {name} && pip install {pin}",
            )
    if good:
        yield ok(f"modules that load: {good}")
