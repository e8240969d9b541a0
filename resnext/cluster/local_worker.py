"""A worker of `LocalCrew`, in its process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from resnext.machine.parent import end_with_parent

from .worker import failure_of, heard_by, make


def main(descriptor: int) -> None:
    """Make the worker, then do units until there are no more.

    Args:
        descriptor: of the connection to the parent.
    """
    end_with_parent()
    link: Connection[Any, Any] = Connection(descriptor)
    talking = threading.Lock()

    def send(*message: Any) -> None:
        with talking:
            link.send(message)

    heard_by(lambda line: send("beat", line))
    try:
        factory, args, depth = link.recv()
        work = make(factory, args)
    except Exception as exc:
        send("refused", failure_of(exc))
        return
    send("ready")

    def do(id: str, payload: Any) -> None:
        receipt, failure = None, None
        try:
            receipt = work(payload)
        except Exception as exc:
            failure = failure_of(exc)
        try:
            send("answer", id, receipt, failure)
        except OSError:  # the parent is gone
            pass
        except Exception as exc:  # a receipt that cannot be pickled
            send("answer", id, None, failure_of(exc))

    with ThreadPoolExecutor(depth) as pool:
        while True:
            try:
                id, payload = link.recv()
            except (EOFError, OSError):
                return
            if depth > 1:
                pool.submit(do, id, payload)
            else:  # one alone stays on the main thread
                do(id, payload)
