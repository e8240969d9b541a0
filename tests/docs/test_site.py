"""Generated parts of the site, links between pages, and the site itself."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")]
)

_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def script(name: str) -> ModuleType:
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


site = script("site_pages")
pictures = script("draw_pipeline")


# ---- commands


def undocumented(context: click.Context) -> list[str]:
    """Options of a command that lack help text; a default in brackets is none."""
    command = context.command
    missing = [] if (command.help or "").strip() else [context.command_path]
    for option in command.get_params(context):
        if isinstance(option, click.Option):
            text = re.sub(r"\[.*?\]", "", option.help or "")
            if not text.strip() and not option.hidden:
                missing.append(f"{context.command_path} {option.opts[0]}")
    return missing


def test_every_command_has_a_page_and_every_option_has_help_text() -> None:
    commands, made = site.commands(), site.pages()
    assert {
        "resnext-export",
        "resnext-export inspect",
        "resnext-bench",
        "resnext-bench lens",
        "resnext-parity",
    } <= set(commands)
    assert [each for context in commands.values() for each in undocumented(context)] == []
    for path, context in commands.items():
        page = made[f"reference/cli/{path.replace(' ', '-')}.md"]
        for option in context.command.get_params(context):
            if isinstance(option, click.Option) and not option.hidden:
                assert f"`{option.opts[0]}" in page or f", {option.opts[0]}" in page, (
                    path,
                    option.opts,
                )


@click.command(help="A command.")
@click.option("--told", help="Text.  [default: 1]")
@click.option("--bare", help="[default: 1]")
@click.option("--silent")
def planted(**_: object) -> None:
    """Nothing."""


def test_an_option_without_help_text_is_noticed() -> None:
    assert undocumented(click.Context(planted, info_name="it")) == ["it --bare", "it --silent"]


def test_a_command_page_has_the_sections_of_the_help() -> None:
    page = site.command_page(click.Context(planted, info_name="it"))
    assert page.startswith("# it\n\nA command.\n\n```text\nit [OPTIONS]\n```\n\n## Options\n")
    assert '<a id="--told"></a>`--told TEXT`\n:   Text. \\[default: 1\\]' in page


# ---- generated pages


def test_every_public_name_is_on_its_package_s_page() -> None:
    import resnext

    made = site.pages()
    for name in resnext.__all__:
        assert (
            name.startswith("__")
            or f"\n::: resnext.{name}\n" in made["reference/python/resnext.md"]
        )


def test_every_validity_check_has_a_page_that_says_what_to_do() -> None:
    from resnext_bench.checks.registry import CHECKS

    made = site.pages()
    assert len(CHECKS) >= 7
    for code in CHECKS:
        page = made[f"reference/findings/{code}.md"]
        assert page.startswith(f"# {code}\n")
        assert "What to do:" in page
        assert f"(findings/{code}.md)" in site.filled("<!-- generated: findings -->")


def test_every_error_class_is_in_the_table_with_its_exit_code() -> None:
    from resnext import errors

    table = site.error_table()
    root = errors.ResnextError
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, root)
    ]
    assert len(kinds) > 5
    for kind in kinds:
        assert f"`{kind.__name__}` | {kind.exit_code} |" in table


def test_every_field_of_a_stored_file_is_on_its_page() -> None:
    from resnext import Manifest

    table = site.schema_tables("manifest-1.json")
    for field in Manifest.model_fields:
        assert f"| `{field}` |" in table
    assert "what an image goes through" in table


def test_every_environment_variable_that_the_code_reads_is_documented() -> None:
    page = (DOCS / "reference" / "environment-variables.md").read_text(encoding="utf-8")
    sources = [
        path
        for folder in ("resnext", "export", "benchmarks/resnext_bench")
        for path in (ROOT / folder).rglob("*.py")
    ]
    used = {
        name
        for path in sources
        for name in re.findall(
            r"environ(?:\.get\(|\.setdefault\(|\[)\"([A-Z][A-Z0-9_]+)\"",
            path.read_text(encoding="utf-8"),
        )
    }
    assert "RESNEXT_CACHE_DIR" in used
    assert {name for name in used if f"`{name}`" not in page} == set()


# ---- links, pictures, claims


def broken_links(path: Path, text: str) -> list[str]:
    """Relative links of a page to no file, or to no heading of a page."""
    broken = []
    for target, anchor in _LINK.findall(_CODE.sub("", text)):
        if "://" in target or target.startswith("mailto:"):
            continue
        there = (path.parent / target).resolve()
        if not there.exists():
            broken.append(target)
        elif anchor:
            other = there.read_text(encoding="utf-8") if target else text
            broken += [] if anchor in anchors(other) else [f"{target}#{anchor}"]
    return broken


def anchors(text: str) -> set[str]:
    headings = re.findall(
        r"^#+ (.*)$",
        _CODE.sub(lambda match: "" if "\n" in match[0] else match[0][1:-1], text),
        re.MULTILINE,
    )
    return {
        re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())
        for heading in headings
    }


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    assert broken_links(path, path.read_text(encoding="utf-8")) == []


def test_a_broken_link_or_anchor_is_noticed() -> None:
    text = "# A\n[good](docs/tutorial.md) [own](#a) [bad](docs/nowhere.md) `[code](x.md)`"
    text += " [worse](docs/tutorial.md#nowhere)"
    assert broken_links(ROOT / "README.md", text) == ["docs/nowhere.md", "docs/tutorial.md#nowhere"]


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_committed_picture_is_what_the_script_draws(name: str, tmp_path: Path) -> None:
    pictures.main(tmp_path)
    assert (tmp_path / name).read_bytes() == (DOCS / name).read_bytes(), "run docs/draw_pipeline.py"


def contrast(one: str, other: str) -> float:
    """Contrast of two colors as WCAG 2 defines it, 1 to 21."""

    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_pictures_can_be_read_on_light_and_dark_pages() -> None:
    for page in ("#ffffff", "#0d1117", "#1e2129"):  # GitHub's two and Material's dark one
        assert contrast(pictures.LINE, page) >= 3
    for name in pictures.PICTURES:
        svg = (DOCS / name).read_text(encoding="utf-8")
        fills = set(re.findall(r'<rect[^>]*fill="(#\w+)"', svg))
        assert fills
        assert all(contrast(pictures.INK, fill) >= 7 for fill in fills)


def test_folders_and_files_that_documents_name_exist() -> None:
    pattern = r"`((?:resnext|export|benchmarks|tests|docs)/[\w./-]*)`"
    for path in (ROOT / "CONTRIBUTING.md", DOCS / "concepts" / "architecture.md"):
        named = re.findall(pattern, path.read_text(encoding="utf-8"))
        assert named
        assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_architecture_picture_shows_what_exists() -> None:
    homes = {
        "resnext": ROOT,
        "resnext_export": ROOT / "export",
        "resnext_bench": ROOT / "benchmarks",
    }
    for package, layers in pictures.LAYERS.items():
        names = " ".join(layers).split()
        home = homes[package] / package
        assert [
            name
            for name in names
            if not ((home / name).is_dir() or (home / f"{name}.py").is_file())
        ] == []
        folders = {path.parent.name for path in home.glob("*/__init__.py")}
        assert folders <= set(names), f"{package}: draw these too"


def messages() -> set[str]:
    """Every text in the sources, with ``…`` for what is filled in."""
    import ast

    texts = set()
    for folder in ("resnext", "export", "benchmarks/resnext_bench"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.add(node.value)
                elif isinstance(node, ast.JoinedStr):
                    texts.add(
                        "".join(
                            str(p.value) if isinstance(p, ast.Constant) else "…"
                            for p in node.values
                        )
                    )
    return texts


def test_the_messages_in_the_readme_are_those_of_the_product() -> None:
    table = (
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .partition("what you see here")[2]
        .partition("## ")[0]
    )
    shown = re.findall(r"`([^`]*…[^`]*)`", table)
    assert len(shown) >= 6
    texts = messages()
    assert [text for text in shown if not any(text in message for message in texts)] == []


def test_readme_and_contributing_stay_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 80


def test_every_decision_is_in_the_index_and_says_the_same_things() -> None:
    index = (DOCS / "decisions" / "index.md").read_text(encoding="utf-8")
    records = sorted(DOCS.glob("decisions/0*.md"))
    assert [record.name[:4] for record in records] == [
        f"{number:04}" for number in range(1, len(records) + 1)
    ]
    for record in records:
        text = record.read_text(encoding="utf-8")
        assert f"({record.name})" in index
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
            "Context",
            "Decision",
            "Consequences",
            "Evidence",
        ]
        assert re.search(r"^Status: \w+.*\. Date: \d{4}-\d\d-\d\d\.$", text, re.MULTILINE), (
            record.name
        )


# ---- the site


@pytest.mark.parametrize(
    ("source", "link", "there"),
    [
        ("tutorial.md", "../README.md#install", "index.md#install"),
        ("index.md", "docs/tutorial.md", "tutorial.md"),
        ("guides/onnx.md", "../concepts/parity.md", "../concepts/parity.md"),
        ("concepts/architecture.md", "../../CONTRIBUTING.md", "../repository/CONTRIBUTING.md"),
    ],
)
def test_a_link_leads_to_the_page_of_the_site(source: str, link: str, there: str) -> None:
    assert site.relinked(f"[x]({link})", source) == f"[x]({there})"


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    sources = os.pathsep.join(map(str, (ROOT, ROOT / "export", ROOT / "benchmarks")))
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--config-file",
            str(config),
            "--site-dir",
            str(out),
        ],
        env=os.environ | {"PYTHONPATH": sources, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = build(ROOT / "mkdocs.yml", tmp_path)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        assert (
            re.findall(
                r"<(?:script|img|iframe)[^>]*src=\"(?:https?:)?//", page.read_text(encoding="utf-8")
            )
            == []
        )
        assert (
            re.findall(
                r"<link[^>]*stylesheet[^>]*href=\"(?:https?:)?//", page.read_text(encoding="utf-8")
            )
            == []
        )
    bench = (tmp_path / "reference" / "cli" / "resnext-bench.html").read_text(encoding="utf-8")
    assert 'id="--backend"' in bench


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    ["[nowhere](nowhere.md)", "[nowhere](tutorial.md#nowhere)", "omitted"],
    ids=["link", "anchor", "navigation"],
)
def test_a_fault_in_a_page_fails_the_build(fault: str, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Home\n" + fault)
    (docs / "tutorial.md").write_text("# Tutorial\n")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    validation = settings[settings.index("validation:") : settings.index("plugins:")]
    assert "strict: true" in settings
    listed = ["index.md"] if fault == "omitted" else ["index.md", "tutorial.md"]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: planted\nnav: {listed}\n{validation}")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1, done.stderr
    assert "nowhere" in done.stderr or "tutorial.md" in done.stderr
