"""A row of a served model: the server's own times beside the client's."""

from __future__ import annotations

from collections.abc import Mapping

from resnext.artifact.specs import Strict
from resnext.runtimes.session import Counters

from .measure import Samples


class ServerTimes(Strict):
    """What the server counted in the undisturbed rounds. Times are means of a request, nanoseconds.

    Attributes:
        sent: requests of this row.
        requests: requests that the server answered meanwhile, those of others among them.
        executions: runs of the network for them.
        late: requests of the row before that may be among them, because a server counts a request
            a little after its answer: one for each stream and round.
        cached: requests that a cache answered.
        batch: images in a run of the network, mean; None without runs.
        client_ns: from sending to the answer, by the one clock.
        server_ns: of that, in the server.
        queue_ns: of that, waiting for an instance or for other requests of a batch.
        input_ns: gathering inputs.
        infer_ns: running the network.
        output_ns: handing out outputs.
    """

    sent: int
    requests: int
    executions: int
    late: int = 0
    cached: int = 0
    batch: float | None = None
    client_ns: float
    server_ns: float
    queue_ns: float
    input_ns: float
    infer_ns: float
    output_ns: float

    @property
    def overhead_ns(self) -> float:
        """What the client waits for beyond the server: network, serialization, HTTP or gRPC."""
        return self.client_ns - self.server_ns

    @property
    def others(self) -> int:
        """Requests that can only be other clients'."""
        return max(0, self.requests - self.sent - self.late)


class ServedRecord(Strict):
    """A model that a server ran.

    Attributes:
        server: its name and version.
        confirmed: it says that it runs the artifact's file, by its sha256; False if it says
            nothing.
        times: None if it does not count, or counted nothing.
    """

    server: str
    confirmed: bool
    times: ServerTimes | None = None


def served_record(
    samples: Samples, streams: int, notes: Mapping[str, str], *, confirmed: bool
) -> ServedRecord:
    """The record of a row.

    Args:
        samples: with the server's counters, if it has some.
        streams: requests in flight.
        notes: of the session.
        confirmed: as in the record.
    """
    times = server_times(samples, streams)
    server = notes.get("server", "unknown")
    return ServedRecord(server=server, confirmed=confirmed, times=times)


def server_times(samples: Samples, streams: int = 1) -> ServerTimes | None:
    """The server's times over the undisturbed rounds, or over all if there are none; None if it
    counted nothing.
    """
    if len(samples.counted) != len(samples.host_ns):
        return None
    rounds = [index for index in range(len(samples.counted)) if index not in samples.disturbed]
    chosen = rounds or list(range(len(samples.counted)))
    total = Counters()
    for index in chosen:
        total += samples.counted[index]
    times = [time for index in chosen for time in samples.host_ns[index]]
    if total.requests <= 0 or not times:
        return None

    def mean(nanoseconds: int) -> float:
        return nanoseconds / total.requests

    return ServerTimes(
        sent=total.sent,
        requests=total.requests,
        executions=total.executions,
        late=len(chosen) * streams,
        cached=total.cached,
        batch=total.images / total.executions if total.executions > 0 else None,
        client_ns=sum(times) / len(times),
        server_ns=mean(total.server_ns),
        queue_ns=mean(total.queue_ns),
        input_ns=mean(total.input_ns),
        infer_ns=mean(total.infer_ns),
        output_ns=mean(total.output_ns),
    )
