"""Classifies the pictures of an input, shard by shard."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.artifact.files import Artifact
from resnext.artifact.trust import current_trust
from resnext.errors import BadInput, MissingRequirement, SessionFailed, UsageError
from resnext.images.shards.find import find_shards
from resnext.images.shards.shard import plain
from resnext.machine.faults import FULL
from resnext.machine.threads import thread_budget
from resnext.progress import Amount, Step
from resnext.runtimes.registry import SessionOptions, natural_runtime, open_session, runtime_named
from resnext.storage import held, remove_left_behind
from resnext.timing.clock import now_ns
from resnext.verify.accuracy import fitting_batch

from .parts import check_format
from .pipeline import PATIENCE_S, Failed, Progress
from .plan import Plan, Planned, plan_for
from .receipt import RECEIPTS, Receipt
from .request import Format, Request, hold_to, request_for
from .summary import ShardLine, Summary, bound_of, total, write_summary
from .worker import Job, Worker
