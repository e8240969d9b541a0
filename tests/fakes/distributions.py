"""Distributions and requirements that were never released."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import Distribution
from pathlib import Path

from packaging.specifiers import SpecifierSet

from resnext_export.doctor.requirements import Needed


def distribution(folder: Path, name: str, version: str, files: Mapping[str, str]) -> Distribution:
    """A distribution in ``folder``; of several with one file, the last one's is there."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for file, text in files.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(text)
    record = "".join(f"{file},,{len(text)}\n" for file, text in files.items())
    (info / "RECORD").write_text(record)
    return Distribution.at(info)


def needs(name: str, specifier: str = "", extra: str = "") -> Needed:
    """A requirement."""
    return Needed(name, SpecifierSet(specifier), extra)
