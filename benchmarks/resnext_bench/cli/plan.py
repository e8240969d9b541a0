"""The command ``resnext-bench plan``: a benchmark as groups for many machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from resnext.cli.app import SETTINGS, echo, guarded
from resnext.cli.options import OUTPUT, requested_preprocessing
from resnext.cli.sections import Remembering, SectionedCommand, option_of, typed
from resnext.errors import BadInput, MissingRequirement, UsageError
from resnext.readers.files import exists
from resnext.storage import check_writable, write_text

from .bench import main as bench
from .bench import refuse_contradictions
from .serving import load_scenarios

_EPILOG = """\b
Examples:
  resnext-bench plan --backend torch,ort-cpu --weights digits --batch 1,8 --output plan.json
  resnext-bench plan --backend ort,trt --artifact out/ --batch 1,64 --on gpu=H100 --output plan.json
  resnext-bench plan --backend all --batch 8 --on isa=avx512 --on each --output plan.json
  resnext-bench run-cells plan.json --into results/         here; also --ray, --index
  resnext-bench merge results/
All other options are those of resnext-bench. A group is what is compared, all rows of one batch
size: it is measured by one machine in one run. The plan names files by absolute path and digest;
Ray sends artifacts and checkpoints, all else is read at the same path everywhere.
"""
#: Options of the benchmark that name outputs, or only print.
_LEFT_OUT = {
    "json_path",
    "markdown_path",
    "html_path",
    "loadgen_logs",
    "explain",
    "junit_path",
    "version",
    "debug",
}
#: Options whose files and artifacts travel.
_SENT = ("artifact", "spec", "trust", "preprocessing")
#: Options whose value is a name or a path, and the names.
_OR_PATH = ("spec", "accuracy", "calibration")
_NAMES = ("digits", "fashion-mnist", "random", "seeded")
_PIXELS = ("resize", "crop", "interpolation", "mean", "std", "preprocessing")
_PLACING = "Placing"


class _Plan(Remembering, SectionedCommand):
    """The options of ``resnext-bench`` that say what is measured, and a few more."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The benchmark's options, then those of the plan."""
        return [*options_of_bench(), *super().get_params(ctx)]


def options_of_bench() -> list[click.Option]:
    """The options of ``resnext-bench`` that a plan keeps."""
    return [
        param
        for param in bench.params
        if isinstance(param, click.Option) and param.name not in _LEFT_OUT
    ]


@click.command("plan", cls=_Plan, context_settings=SETTINGS, epilog=_EPILOG)
@option_of(_PLACING)(
    "--on",
    multiple=True,
    metavar="KEY=VALUE|each",
    help=(
        "What a machine must have: isa, cpu, gpu, cores or kind, for example gpu=H100; each"
        " measures once on every kind of machine. May be repeated; all must hold."
        "  [default: any machine]"
    ),
)
@option_of(_PLACING)(
    "--together",
    is_flag=True,
    help="All batch sizes are one group: one machine, one run.",
)
@option_of(OUTPUT)(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PATH",
    help="Write the plan to this file.",
)
@click.pass_context
@guarded
def plan(
    ctx: click.Context,
    /,
    on: tuple[str, ...],
    together: bool,
    output: Path | None,
    **options: Any,
) -> None:
    """Write a benchmark as a plan of groups, which any number of machines can measure."""
    if output is None:
        raise UsageError("`output` is missing: it names the plan")
    refuse_contradictions(**options)
    _check_scenarios(options)
    check_writable(output)
    sources = _sources(options["artifact"], options["trust"], options["require_signature"])
    from resnext_bench.fleet.placement import check_wanted
    from resnext_bench.fleet.plan_file import make_plan

    wanted = [one for one in on if one != "each"]
    check_wanted(wanted)
    words, sent = _words(ctx)
    if sources and options["spec"] is None:
        words += ["--weights", str(sources[0])]
        sent.append(sources[0])
    titled = []
    for batch in [options["batch"]] if together else [(size,) for size in options["batch"]]:
        sizes = ",".join(map(str, batch))
        arguments = [*words, "--batch", sizes]
        titled.append((f"batch {sizes}", tuple(arguments)))
    made = make_plan(titled, sent, wanted, each="each" in on)
    write_text(str(output), made.model_dump_json(indent=1) + "\n")
    for index, group in enumerate(made.groups):
        echo(f"{index}  {group.id}  {group.title}", err=str(output) == "-")


def _check_scenarios(options: Mapping[str, Any]) -> None:
    """Refuse what the benchmark would; LoadGen need not be installed here."""
    names = ("load", "slo", "loadgen", "duration", "streams", "cache")
    with suppress(MissingRequirement):
        load_scenarios(**{name: options[name] for name in names}, loadgen_logs=None)
    pixels = {name: options[name] for name in _PIXELS}
    requested_preprocessing(pixels, options["input_size"], of_artifact=bool(options["artifact"]))


def _sources(
    paths: tuple[Path, ...], keys: tuple[Path, ...], require_signature: bool
) -> list[Path]:
    """Read the artifacts as the benchmark will, before they travel.

    Returns:
        Checkpoints that they were made from, which outputs are compared with.

    Raises:
        BadArtifact: one is broken, or refused by whoever is trusted.
        UsageError: a signature is asked for, and there is no artifact.
    """
    from resnext.artifact.files import read_artifact
    from resnext.artifact.trust import Trust, trusting

    if (keys or require_signature) and not paths:
        raise UsageError("weights are not signed, only artifacts; name one in `artifact`")
    sources = []
    with trusting(Trust(keys, require_signature)):
        for path in paths:
            if path.is_dir() or exists(path.parent / "manifest.json") or not exists(path):
                sources.append(Path(read_artifact(path).manifest.weights.source))
    return [source for source in sources if source.is_absolute() and exists(source)]


def _words(ctx: click.Context) -> tuple[list[str], list[Path]]:
    """The benchmark's options as they were typed, without batch sizes, in the order of its help,
    and the files that travel; paths are absolute.
    """
    given, _, _ = ctx.command.make_parser(ctx).parse_args(list(typed(ctx)))
    words: list[str] = []
    sent: list[Path] = []
    for option in options_of_bench():
        if option.name in given and option.name != "batch":
            words += _spelled(option, given, sent)
    return words, sent


def _spelled(option: click.Option, given: Mapping[str, Any], sent: list[Path]) -> Iterator[str]:
    value = given[str(option.name)]
    if option.is_flag:
        yield option.opts[-1] if value else option.secondary_opts[-1]
        return
    for one in value if option.multiple else [value]:
        path = _path(option, str(one))
        if path is not None and option.name in _SENT:
            if option.name == "artifact" and exists(path.parent / "manifest.json"):
                path = path.parent
            sent.append(path)
        yield option.opts[-1]
        yield str(one if path is None else path)


def _path(option: click.Option, text: str) -> Path | None:
    """The absolute path that a value is; None for any other value.

    Raises:
        BadInput: it is to be a path, and there is nothing.
    """
    if not (isinstance(option.type, click.Path) or option.name in _OR_PATH) or text in _NAMES:
        return None
    if exists(text):
        return Path(text).absolute()
    if option.name == "spec" and ":" in text:
        return None
    raise BadInput(f"cannot read {text}: there is no such file or folder")
