"""Why a server did not load a repository, from its log: one line for each model."""

from __future__ import annotations

import pytest

from resnext_export.triton.server_log import failures, last_line, port_taken

_AT = "E1128 16:36:49.396234 31595"
_PARSER = "[libprotobuf ERROR /src/google/protobuf/text_format.cc:337]"

#: Lines as tritonserver 2.51.0 writes them, the model, and what is said of it.
LINES = {
    "syntax": (
        f"{_PARSER} Error parsing text-format inference.ModelConfig: 4:14: Message type"
        ' "inference.ModelConfig" has no field named "max_batchsize".\n'
        f"{_AT} model_repository_manager.cc:1460] \"Poll failed for model directory 'digits':"
        ' failed to read text proto from /r/digits/config.pbtxt"',
        '4:14: Message type "inference.ModelConfig" has no field named "max_batchsize".',
    ),
    "name": (
        f"{_AT} model_repository_manager.cc:1460] \"Poll failed for model directory 'digits':"
        " unexpected directory name 'digits' for model 'other', directory name must equal model"
        ' name"',
        "unexpected directory name 'digits' for model 'other', directory name must equal model"
        " name",
    ),
    "no version": (
        f"{_AT} model_lifecycle.cc:123] \"version 1 is specified for model 'digits', but the"
        ' version directory is not present"\n'
        f"{_AT} model_repository_manager.cc:724] \"failed to load model 'digits': at least one"
        " version must be available under the version policy of model 'digits'\"",
        "version 1 is specified for model 'digits', but the version directory is not present",
    ),
    "no GPU": (
        f"{_AT} model_lifecycle.cc:642] \"failed to load 'digits' version 1: Invalid argument:"
        ' instance group digits_0 of model digits has kind KIND_GPU but no GPUs are available"',
        "instance group digits_0 of model digits has kind KIND_GPU but no GPUs are available",
    ),
    "an ensemble": (
        f'{_AT} model_repository_manager.cc:703] "Invalid argument: ensemble digits allows maximum'
        ' batch size 8, but it contains model other which only allows maximum batch size to be 4"',
        "ensemble digits allows maximum batch size 8, but it contains model other which only allows"
        " maximum batch size to be 4",
    ),
    "a Python traceback": (
        f"{_AT} model_lifecycle.cc:642] \"failed to load 'digits' version 1: Internal:"
        " TritonModelException: the file has no input 'x', only input\\n\\nAt:\\n "
        ' /b/model.py(69): _compare\\n"',
        "the file has no input 'x', only input",
    ),
    "a reason again and again": (
        f"{_AT} model_lifecycle.cc:642] \"failed to load 'digits' version 1: Invalid argument:"
        " failed to run warmup sample 'one': batch size 9 for 'digits_0', max allowed is 8; batch"
        " size 9 for 'digits_0', max allowed is 8; batch size 9 for 'digits_0', max allowed is 8;"
        ' "',
        "failed to run warmup sample 'one': batch size 9 for 'digits_0', max allowed is 8; batch"
        " size 9 for 'digits_0', max allowed is 8",
    ),
    "an id of no request": (
        f"{_AT} model_lifecycle.cc:642] \"failed to load 'digits' version 1: Invalid argument:"
        " [request id: <id_unknown>] warmup setting expects 256 bytes, but the data provided from"
        ' one.bin only has 4 bytes"',
        "warmup setting expects 256 bytes, but the data provided from one.bin only has 4 bytes",
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_each_model_has_one_line(case: str) -> None:
    log, message = LINES[case]
    (finding,) = failures(
        f"I1128 1 a.cc:1] ok\n{log}\nerror: creating server: Internal - failed", ""
    )
    assert (finding.code, finding.where, finding.message) == ("server-load", "digits", message)


def test_every_model_that_fails_is_named() -> None:
    names = [name for name in LINES if name != "an ensemble"]
    log = "\n".join(LINES[name][0].replace("'digits'", f"'{name}'") for name in names)
    assert [finding.where for finding in failures(log, "")] == names


def test_what_concerns_the_server_is_said_of_the_whole() -> None:
    log = "error: creating server: Internal - failed to stat file /r"
    assert [(it.where, it.message) for it in failures(log, "ended")] == [
        ("", "failed to stat file /r")
    ]
    assert failures("", "the server ended with exit code 3")[0].message.endswith("exit code 3")


def test_a_port_of_another_process_is_told_from_other_ends() -> None:
    taken = f"{_AT} main.cc:257] \"failed to start HTTP service: Unavailable - Socket '127.0.0.1:9'"
    assert port_taken(f'{taken} already in use "')
    assert not port_taken(LINES["no GPU"][0])


def test_the_last_line_is_no_table() -> None:
    log = f'{_AT} a.cc:1] "the reason"\n+----+\n| x  |\n+----+\n\n'
    assert last_line(log) == "the reason"
    assert last_line("") == "it is empty"
