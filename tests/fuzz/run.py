"""Fuzzes every reader with atheris; behind ``make fuzz``.

Each reader runs in a process of its own, with limits: 10 s and 2 GB for each input. A crash, an
error of another kind than a refusal, or a limit that is passed leaves the input in the folder
``--findings`` and ends with exit code 1.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

HERE = Path(__file__).parent


def repaired(data: bytes) -> bytes:
    """``data`` with checksums that fit again, if it is a PNG file or an archive."""
    raw = bytearray(data)
    if raw.startswith(b"\x89PNG\r\n\x1a\n"):
        at = 8
        while at + 12 <= len(raw):
            size = int.from_bytes(raw[at : at + 4], "big")
            end = at + 8 + size
            if end + 4 > len(raw):
                break
            raw[end : end + 4] = struct.pack(">I", zlib.crc32(raw[at + 4 : end]))
            at = end + 4
    for match in re.finditer(rb"PK\x01\x02", data):
        entry = match.start()
        if entry + 46 > len(raw):
            break
        size, start = (
            struct.unpack_from("<I", raw, entry + 24)[0],
            struct.unpack_from("<I", raw, entry + 42)[0],
        )
        if start + 30 > len(raw):
            continue
        name, extra = struct.unpack_from("<HH", raw, start + 26)
        begin = start + 30 + name + extra
        raw[entry + 16 : entry + 20] = struct.pack("<I", zlib.crc32(raw[begin : begin + size]))
    return bytes(raw)


def one(name: str, arguments: list[str]) -> None:
    """Fuzz one reader in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=["resnext", "zipfile", "PIL"]):
        from fuzz import harnesses

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        data = atheris.Mutate(data, most)
        return repaired(data)[:most] if seed % 2 else data

    def test(data: bytes) -> None:
        harnesses.run(name, data)

    atheris.Setup([sys.argv[0], *arguments], test, custom_mutator=mutate)
    atheris.Fuzz()


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Fuzz all readers, or those that are named, one after the other; prints a line for each."""
    from fuzz import harnesses

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", default=list(harnesses.HARNESSES))
    parser.add_argument("--runs", type=int, default=8000, help="cases for each reader")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    options = parser.parse_args()
    failed, total = [], 0
    options.findings.mkdir(parents=True, exist_ok=True)
    say("| reader | cases | seconds | findings |\n| --- | --- | --- | --- |")
    for name in options.readers:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as grown:
            seeds = shutil.copytree(HERE / "corpus" / name, Path(grown) / "seeds")
            limits = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=8192", "-seed=1"]
            prefix = f"-artifact_prefix={options.findings.resolve()}/{name}-"
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "fuzz.run",
                    "--one",
                    name,
                    f"-runs={options.runs}",
                    *limits,
                    prefix,
                    str(seeds),
                ],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                env={**os.environ, "TMPDIR": grown},
            )
        ran = re.findall(r"#(\d+)", done.stderr)
        cases = max(map(int, ran), default=0)
        total += cases
        found = 0 if done.returncode == 0 else 1
        seconds = time.perf_counter() - started
        say(f"| {name} | {cases} | {seconds:.0f} | {found} |")
        if found:
            failed.append(name)
            sys.stderr.write(f"{done.stdout[-3000:]}\n{done.stderr[-1000:]}\n")
    harnesses.clean()
    say(f"| all | {total} | | {len(failed)} |")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], sys.argv[3:])
    sys.exit(main())
