"""A real Ray cluster on the loopback address, for as long as a block runs."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
#: Ray takes this machine's outer address for 127.0.0.1, but leaves these alone.
HEAD, OTHER = "127.0.0.2", "127.0.0.3"


@contextmanager
def ray_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Ray's own `Cluster` with a head of one CPU; nothing of it is left."""
    paths = [ROOT, ROOT / "export", ROOT / "benchmarks", ROOT / "tests"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with warnings.catch_warnings():
        # Ray leaves pipes and log files open, in this process, too.
        warnings.simplefilter("ignore", ResourceWarning)
        cluster_utils = pytest.importorskip("ray.cluster_utils")
        head = {"num_cpus": 1, "include_dashboard": False, "node_ip_address": HEAD}
        made = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        session = Path(made.head_node.get_session_dir_path())
        try:
            yield made
        finally:
            made.shutdown()
            shutil.rmtree(session, ignore_errors=True)
            latest = session.with_name("session_latest")
            if latest.is_symlink() and not latest.exists():
                latest.unlink()
