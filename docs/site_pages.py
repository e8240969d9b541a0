"""MkDocs hook: pages and tables generated from the code, so no option or field is written twice.

Generated pages: the home page (README), one for each command, for each package's public names and
for each validity check. ``<!-- generated: WHAT -->`` in any other page is replaced by a table of
errors, stored fields or commands. Files outside ``docs/`` that pages link to are copied into the
site. Nothing here imports MkDocs until MkDocs runs the hooks, so tests can ask for the pages
without it.
"""

from __future__ import annotations

import configparser
import importlib
import inspect
import json
import posixpath
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
#: Files outside docs/ that are copied into the site, and their folder there.
COPIED = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "benchmarks/results/*")
OUTSIDE = "repository/"
_LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(\))")
_GENERATED = re.compile(r"^<!-- generated: (\w+)(?: (\S+))? -->$", re.MULTILINE)


def entry_points() -> dict[str, click.Command]:
    """The console commands by name, as setup.cfg installs them."""
    points = {}
    for line in _setup()["options.entry_points"]["console_scripts"].split("\n"):
        if line.strip():
            name, _, target = (part.strip() for part in line.partition("="))
            module, _, attribute = target.partition(":")
            points[name] = getattr(importlib.import_module(module), attribute)
    return points


def commands() -> dict[str, click.Context]:
    """Each command and subcommand by what a user types, with a context that knows its parents."""
    contexts: dict[str, click.Context] = {}

    def visit(name: str, command: click.Command, parent: click.Context | None) -> None:
        context = command.context_class(
            command, info_name=name, parent=parent, **command.context_settings
        )
        contexts[context.command_path] = context
        if isinstance(command, click.Group):
            for each in command.list_commands(context):
                if child := command.get_command(context, each):
                    visit(each, child, context)

    for name, command in entry_points().items():
        visit(name, command, None)
    return contexts


def command_page(context: click.Context) -> str:
    """A command's help as Markdown: its options in the sections of ``--help``."""
    command = context.command
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [f"# {context.command_path}", _prose(command.help), f"```text\n{usage}\n```"]
    recorder = _Recorder()
    command.format_options(context, recorder)
    children = [
        child for child in commands().values() if _parent_path(child) == context.command_path
    ]
    for title, rows in recorder.sections:
        if title != "Commands":
            parts += [f"## {title}", *(_definition(term, meaning) for term, meaning in rows)]
    if children:
        links = "\n".join(
            f"- [{child.command_path}]({_file_name(child.command_path)})" for child in children
        )
        parts += ["## Commands", links]
    epilog = click.HelpFormatter(width=100)
    command.format_epilog(context, epilog)
    if text := inspect.cleandoc(epilog.getvalue()).strip():
        parts += ["## Examples and exit codes", f"```text\n{text}\n```"]
    return "\n\n".join(parts) + "\n"


def public_names() -> dict[str, tuple[str, ...]]:
    """Names of each package's ``__all__``; a package without one has no page."""
    packages = [
        line.strip() for line in _setup()["options"]["packages"].split("\n") if line.strip()
    ]
    by_package = {}
    for package in packages:
        names = getattr(importlib.import_module(package), "__all__", ())
        if "." not in package and names:
            by_package[package] = tuple(name for name in names if not name.startswith("__"))
    return by_package


def python_page(package: str, names: tuple[str, ...]) -> str:
    """A page of a package's public names, for mkdocstrings to fill in."""
    return "\n\n".join([f"# {package}", *(f"::: {package}.{name}" for name in names)]) + "\n"


def finding_pages() -> dict[str, str]:
    """The page of each validity check, by its code."""
    checks = importlib.import_module("resnext_bench.checks.registry").CHECKS
    return {code: check.page + "\n" for code, check in checks.items()}


def finding_list() -> str:
    """A link to each validity check's page."""
    return "\n".join(f"- [{code}](findings/{code}.md)" for code in finding_pages())


def pages() -> dict[str, str]:
    """Markdown of every generated page, by its path in the site."""
    made = {"index.md": (ROOT / "README.md").read_text(encoding="utf-8")}
    made |= {
        f"reference/cli/{_file_name(path)}": command_page(context)
        for path, context in commands().items()
    }
    made |= {
        f"reference/python/{package}.md": python_page(package, names)
        for package, names in public_names().items()
    }
    made |= {f"reference/findings/{code}.md": page for code, page in finding_pages().items()}
    return made


def error_table() -> str:
    """The error classes with their exit codes."""
    errors = importlib.import_module("resnext.errors")
    rows = ["| error | exit code | meaning |", "| --- | ---: | --- |"]

    def visit(kind: type[Any], depth: int) -> None:
        first = (inspect.getdoc(kind) or "").partition("\n")[0]
        rows.append(f"| {'&ensp;' * depth}`{kind.__name__}` | {kind.exit_code} | {first} |")
        for child in kind.__subclasses__():
            if child.__module__ == errors.__name__:
                visit(child, depth + 1)

    visit(errors.ResnextError, 0)
    return "\n".join(rows)


def command_list() -> str:
    """A link to each command."""
    return "\n".join(
        f"- [{path}](cli/{_file_name(path)}): {_first_sentence(context.command.help)}"
        for path, context in commands().items()
    )


def package_list() -> str:
    """A link to each package's public names."""
    return "\n".join(f"- [{package}](python/{package}.md)" for package in public_names())


def schema_tables(name: str) -> str:
    """Each object of a stored file: its fields, their types and meanings."""
    schema = json.loads((ROOT / "docs" / "schema" / name).read_text(encoding="utf-8"))
    parts = []
    for title, model in [(schema["title"], schema), *sorted(schema.get("$defs", {}).items())]:
        if "properties" not in model:
            continue
        about, _, attributes = inspect.cleandoc(model.get("description", "")).partition(
            "Attributes:"
        )
        meanings = _meanings(attributes)
        parts += [f"## {title}", about.strip(), "| field | type | meaning |\n| --- | --- | --- |"]
        for field, spec in model["properties"].items():
            parts[-1] += f"\n| `{field}` | {_type(spec)} | {meanings.get(field, '')} |"
    return "\n\n".join(part for part in parts if part)


#: Functions that fill ``<!-- generated: WHAT [ARGUMENT] -->``.
TABLES: dict[str, Callable[..., str]] = {
    "commands": command_list,
    "errors": error_table,
    "findings": finding_list,
    "packages": package_list,
    "schema": schema_tables,
}


def filled(markdown: str) -> str:
    """``markdown`` with each ``<!-- generated: ... -->`` replaced by its table."""
    return _GENERATED.sub(lambda match: TABLES[match[1]](*filter(None, (match[2],))), markdown)


def relinked(markdown: str, site_path: str) -> str:
    """Relative links of a file in the repository as links between pages of the site."""
    here = repository_path(site_path)

    def link(match: re.Match[str]) -> str:
        before, target, anchor, after = match.groups(default="")
        if "://" in target or target.startswith(("mailto:", "/")):
            return match[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        moved = site_path_of(there)
        return (
            before + posixpath.relpath(moved, posixpath.dirname(site_path) or ".") + anchor + after
        )

    return _LINK.sub(link, markdown)


def site_path_of(path: str) -> str:
    """The page of the site for a file of the repository; the inverse of `repository_path`."""
    if path == "README.md":
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else OUTSIDE + path


def repository_path(site_path: str) -> str:
    """The source of a page of the site, as a path in the repository."""
    if site_path == "index.md":
        return "README.md"
    return site_path.removeprefix(OUTSIDE) if site_path.startswith(OUTSIDE) else f"docs/{site_path}"


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages and the copies, and put them into the navigation."""
    from mkdocs.structure.files import File

    made = pages()
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    for pattern in COPIED:
        for path in sorted(ROOT.glob(pattern)):
            target = OUTSIDE + path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, target, abs_src_path=str(path)))
    for section in config.nav:
        if "Reference" in section:
            for folder in ("cli", "python", "findings"):
                section["Reference"] += [
                    path for path in made if path.startswith(f"reference/{folder}/")
                ]
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in tables and turn links."""
    source = page.file.src_uri
    if source in ("index.md",) or not source.startswith("reference/cli/"):
        markdown = relinked(markdown, source)
    return filled(markdown)


class _Recorder(click.HelpFormatter):
    """Records the sections of a command's help."""

    def __init__(self) -> None:
        super().__init__(width=100)
        self.sections: list[tuple[str, list[tuple[str, str]]]] = []

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self.sections.append((name, []))
        yield

    def write_dl(self, rows: Any, *_: Any, **__: Any) -> None:
        self.sections[-1][1].extend(rows)


def _setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def _file_name(command_path: str) -> str:
    return command_path.replace(" ", "-") + ".md"


def _parent_path(context: click.Context) -> str | None:
    return context.parent.command_path if context.parent else None


def _prose(text: str | None) -> str:
    return inspect.cleandoc(text or "").replace("\b\n", "")


def _first_sentence(text: str | None) -> str:
    return " ".join(_prose(text).partition("\n\n")[0].split())


def _definition(term: str, meaning: str) -> str:
    name = term.split()[0].strip(",")
    return f'<a id="{name}"></a>`{term}`\n:   {_plain(" ".join(meaning.split()))}'


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", text)


def _meanings(attributes: str) -> dict[str, str]:
    meanings: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(attributes).splitlines():
        if match := re.match(r"(\w+): (.*)", line):
            name = match[1]
            meanings[name] = _plain(match[2])
        elif name and line.strip():
            meanings[name] += " " + _plain(line.strip())
    return meanings


def _type(spec: dict[str, Any]) -> str:
    if "anyOf" in spec:
        return " or ".join(_type(each) for each in spec["anyOf"])
    if "$ref" in spec:
        name = spec["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in spec:
        return ", ".join(f"`{value}`" for value in spec["enum"])
    if "const" in spec:
        return f"`{spec['const']}`"
    if spec.get("type") == "array" and "items" in spec:
        return f"list of {_type(spec['items'])}"
    return str(spec.get("type", "any"))
