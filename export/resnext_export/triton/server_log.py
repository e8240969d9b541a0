"""A Triton server's log: why a repository was not loaded, one line for each model."""

from __future__ import annotations

import re

from resnext.findings import Finding

#: Why a model failed, in the server's words; the first that matches a line counts.
_OF_MODELS = (
    re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.+?)\"?$"),
    re.compile(r"failed to load '(?P<model>[^']+)' version \d+: [A-Z][a-z ]+: (?P<reason>.+?)\"?$"),
    re.compile(r"\"(?P<reason>version \d+ is specified for model '(?P<model>[^']+)', but .+?)\"?$"),
    re.compile(r"[A-Z][a-z ]+: (?P<reason>ensemble '?(?P<model>[\w.-]+)'? .+?)\"?$"),
    re.compile(r"failed to load model '(?P<model>[^']+)': (?P<reason>.+?)\"?$"),
)
#: Of the line before a model's, which alone says where the config is wrong.
_SYNTAX = re.compile(r"Error parsing text-format inference\.ModelConfig: (\d+:\d+: .+)$")
_OF_THE_SERVER = re.compile(r"^error: creating server: [A-Z][a-z ]+ - (.+)$")


def failures(log: str, otherwise: str) -> tuple[Finding, ...]:
    """Why the server did not load each model, or one finding on the whole.

    Args:
        log: all that it wrote.
        otherwise: the reason if the log gives none.
    """
    found: dict[str, str] = {}
    syntax, whole = "", otherwise
    for line in log.splitlines():
        if match := _SYNTAX.search(line):
            syntax = match[1]
        elif match := _OF_THE_SERVER.match(line):
            whole = match[1]
        elif line.startswith("E"):
            for pattern in _OF_MODELS:
                if match := pattern.search(line):
                    reason = syntax if "failed to read text proto" in line else match["reason"]
                    found.setdefault(match["model"], _one_line(reason or match["reason"]))
                    syntax = ""
                    break
    if not found:
        return (Finding("server-start", whole),)
    return tuple(Finding("server-load", reason, where=model) for model, reason in found.items())


def port_taken(log: str) -> bool:
    """Whether the server ended because another process has one of its ports."""
    return re.search(r"^E.*failed to start \w+ service: .* already in use", log, re.M) is not None


def last_line(log: str) -> str:
    """The last line that is no part of a table or a printed config."""
    lines = [line for line in log.splitlines() if re.match(r"[IWEF]\d{4} |error|Traceback", line)]
    return lines[-1].partition("] ")[2].strip('"') or lines[-1] if lines else "it is empty"


def _one_line(reason: str) -> str:
    """Without the traceback of a Python model, and each part that is repeated only once."""
    reason = reason.partition("\\n\\nAt:")[0].replace("\\n", " ")
    reason = re.sub(r"^\[request id: [^\]]*\] |TritonModelException: ", "", reason.strip())
    return "; ".join(dict.fromkeys(part for part in reason.rstrip('; "').split("; ") if part))
