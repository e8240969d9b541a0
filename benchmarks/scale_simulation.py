"""Simulates a batch job on 10 to 10,000 workers: stragglers, losses, one driver, one store.

    python benchmarks/scale_simulation.py [--seed 0] [--json PATH]
    python benchmarks/scale_simulation.py --images 1e7 --rate 85 --workers 50 --life 86400

Without ``--images`` it prints the tables of ``docs/guides/scale.md``; with it, one row for a job of
yours. The driver hands out shards one after another and keeps up to ``in_flight`` of them at each
worker. A worker that is lost gives its shards back, to the front of the queue, and is replaced. The
shard that it was at has used up one of three tries; those that waited have not.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click
import numpy as np

#: What ImageNet's training set has, and the larger job of the tables.
IMAGENET, BILLION = 1_281_167, 10**9
#: Images in a shard of a folder, at most.
SHARD = 2048
#: Images per second of OpenVINO int8 at batch 8 on a 2-core EPYC with VNNI, as stored in
#: ``benchmarks/results/2026-11-23-epyc-25-17-vnni-2cores-resnext50-int8.md``.
CPU_RATE = 85.4
#: Of torch-compile fp16 at batch 64 on an H200, end to end, as stored in
#: ``benchmarks/results/2026-11-27-h200-resnext50-fp16.md``.
GPU_RATE = 5268.0
#: Bytes of an image, for the store: a photograph of 500x375 pixels, in round numbers.
IMAGE_BYTES = 100_000
HOUR = 3600.0


@dataclass(frozen=True)
class Job:
    """What there is to do; times in seconds.

    Attributes:
        shards: their number.
        shard_s: mean time of a shard on a worker that is not slow.
        spread: standard deviation of the logarithm of a shard's time; each try draws anew.
        store_s: what one shard takes of the whole store: its bytes over the store's bandwidth or
            its requests over the store's rate, whichever is more. The store serves shards in turn.
    """

    shards: int
    shard_s: float
    spread: float = 0.0
    store_s: float = 0.0


@dataclass(frozen=True)
class Crew:
    """Who does it; times in seconds.

    Attributes:
        workers: their number. One that is lost is replaced.
        start_s: mean time until a worker or its replacement is ready, from half to one and a half.
        life_s: mean life of a worker, exponential.
        fill_s: from a shard's arrival at a worker until the session can begin: its first batch read
            and decoded. Of one that waits it is hidden behind the shard before.
        slow: share of workers that take ``slowdown`` times as long.
        slowdown: see ``slow``.
    """

    workers: int
    start_s: float = 0.0
    life_s: float = math.inf
    fill_s: float = 0.0
    slow: float = 0.0
    slowdown: float = 2.0


@dataclass(frozen=True)
class Driver:
    """Who hands it out; times in seconds.

    Attributes:
        dispatch_s: what a shard takes of the driver: receipt, bookkeeping, next descriptor.
        handover_s: from the driver's hand to the worker. A shard that waits at its worker has this
            behind it.
        in_flight: most shards at a worker.
        tries: losses after which a shard is LOST.
    """

    dispatch_s: float = 0.0
    handover_s: float = 0.0
    in_flight: int = 2
    tries: int = 3


@dataclass(frozen=True)
class Outcome:
    """What a job came to.

    Attributes:
        makespan_s: until the last shard was settled, seconds.
        ideal_s: the mean work over the workers, seconds: no start-up, no loss, no remainder.
        busy: sessions' time over workers times makespan.
        repeated: share of the sessions' time that died with its worker.
        done: shards with a receipt.
        lost: shards given up.
        losses: workers lost.
        driver: share of the makespan in which the driver was at work.
        store: likewise of the store.
    """

    makespan_s: float
    ideal_s: float
    busy: float
    repeated: float
    done: int
    lost: int
    losses: int
    driver: float
    store: float

    @property
    def efficiency(self) -> float:
        """Ideal over makespan."""
        return self.ideal_s / self.makespan_s


@dataclass
class _Worker:
    """One place in the crew and the life that fills it; times are of the simulated clock."""

    life: int = 0  # number of the one that lives, so that events of earlier ones are known
    slowdown: float = 1.0
    asking: int = 0  # requests for shards that the driver has not answered
    held: deque[tuple[int, float]] = field(default_factory=deque)  # shard, when it can begin
    began: float = math.inf  # of the first of `held`
    works: float = 0.0  # what the session takes for it


class _Run:
    """The state of a simulation: events in order of time, handled one by one."""

    def __init__(self, job: Job, crew: Crew, driver: Driver, seed: int) -> None:
        self.job, self.crew, self.driver = job, crew, driver
        times, self.rng = (np.random.default_rng([seed, part]) for part in range(2))
        spread = times.lognormal(-(job.spread**2) / 2, job.spread, (job.shards, driver.tries))
        #: Each try of each shard, drawn beforehand: the same whoever takes it.
        self.times: list[list[float]] = (spread * job.shard_s).tolist()
        self.failed = [0] * job.shards
        self.queue = deque(range(job.shards))
        self.idle: deque[int] = deque()  # requests that found the queue empty
        self.workers = [_Worker() for _ in range(crew.workers)]
        self.events: list[tuple[float, int, str, int, int]] = []
        self.count = self.done = self.lost = self.losses = 0
        self.now = self.driver_free = self.store_free = 0.0
        self.busy = self.repeated = self.driver_busy = self.store_busy = 0.0

    def outcome(self) -> Outcome:
        """Run to the end."""
        for place in range(self.crew.workers):
            self.hire(place)
        while self.done + self.lost < self.job.shards:
            self.step()
        return Outcome(
            makespan_s=self.now,
            ideal_s=self.job.shards * self.job.shard_s / self.crew.workers,
            busy=self.busy / (self.crew.workers * self.now),
            repeated=self.repeated / self.busy if self.busy else 0.0,
            done=self.done,
            lost=self.lost,
            losses=self.losses,
            driver=self.driver_busy / self.now,
            store=self.store_busy / self.now,
        )

    def step(self) -> None:
        self.now, _, event, place, life = heapq.heappop(self.events)
        self.done += event == "receipt"  # also of a worker that has died since
        if life == self.workers[place].life:
            getattr(self, event)(place)

    def after(self, delay: float, event: str, place: int) -> None:
        self.count += 1  # equal times keep their order
        life = self.workers[place].life
        heapq.heappush(self.events, (self.now + delay, self.count, event, place, life))

    def hire(self, place: int) -> None:
        self.after(self.crew.start_s * self.rng.uniform(0.5, 1.5), "start", place)

    def start(self, place: int) -> None:
        worker = self.workers[place]
        worker.slowdown = self.crew.slowdown if self.rng.random() < self.crew.slow else 1.0
        if self.crew.life_s < math.inf:
            self.after(self.rng.exponential(self.crew.life_s), "loss", place)
        self.ask(place)

    def ask(self, place: int, event: str = "answer") -> None:
        """The driver comes to it when everything before is done."""
        self.workers[place].asking += 1
        self.driver_free = max(self.now, self.driver_free) + self.driver.dispatch_s
        self.after(self.driver_free - self.now, event, place)

    def receipt(self, place: int) -> None:
        self.answer(place)

    def answer(self, place: int) -> None:
        worker = self.workers[place]
        worker.asking -= 1
        self.driver_busy += self.driver.dispatch_s
        if not self.queue:
            self.idle.append(place)
            return
        worker.held.append((self.queue.popleft(), self.now + self.driver.handover_s))
        if len(worker.held) == 1:
            self.begin(place)
        if len(worker.held) + worker.asking < self.driver.in_flight:
            self.ask(place)  # whoever has none comes before whoever has one

    def begin(self, place: int) -> None:
        worker = self.workers[place]
        shard, ready = worker.held[0]
        worker.began = max(self.now, ready + self.crew.fill_s)
        worker.works = self.times[shard][self.failed[shard]] * worker.slowdown
        self.store_free = max(self.now, ready, self.store_free) + self.job.store_s
        self.store_busy += self.job.store_s
        ended = worker.began + worker.works
        self.after(max(ended, self.store_free) - self.now, "finish", place)

    def finish(self, place: int) -> None:
        worker = self.workers[place]
        self.busy += worker.works
        worker.held.popleft()
        self.ask(place, "receipt")
        if worker.held:
            self.begin(place)

    def loss(self, place: int) -> None:
        worker = self.workers[place]
        self.losses += 1
        worker.life += 1
        worker.asking = 0
        if worker.held:
            into = self.now - worker.began
            wasted = min(max(into, 0.0), worker.works)
            self.busy += wasted
            self.repeated += wasted
        for index, (shard, _) in reversed([*enumerate(worker.held)]):
            self.failed[shard] += index == 0  # the others only waited
            if self.failed[shard] == self.driver.tries:
                self.lost += 1
            else:
                self.queue.appendleft(shard)
        worker.held.clear()
        self.idle = deque(each for each in self.idle if each != place)
        for _ in range(min(len(self.queue), len(self.idle))):
            self.ask(self.idle.popleft())
        self.hire(place)


def simulate(job: Job, crew: Crew, driver: Driver | None = None, seed: int = 0) -> Outcome:
    """One job from the first start to the last receipt; the same seed gives the same outcome."""
    return _Run(job, crew, driver or Driver(), seed).outcome()


#: Assumptions of the tables, where a row says nothing else; no machine was asked for these.
CREW = Crew(workers=100, start_s=60, life_s=24 * HOUR, fill_s=0.5, slow=0.02, slowdown=2)
DRIVER = Driver(dispatch_s=0.005, handover_s=0.1)
SPREAD = 0.1


def planned(
    images: float, shard: int = SHARD, rate: float = CPU_RATE, bandwidth: float = math.inf
) -> Job:
    """A job of ``images``, ``shard`` of them in a shard, at ``rate`` images per second and worker,
    from a store of ``bandwidth`` bytes per second.
    """
    store_s = shard * IMAGE_BYTES / bandwidth
    return Job(math.ceil(images / shard), shard / rate, SPREAD, store_s)


@dataclass(frozen=True)
class Case:
    """A row of a table, before it is simulated."""

    name: str
    job: Job
    crew: Crew = CREW
    driver: Driver = DRIVER


def cases() -> dict[str, list[Case]]:
    """The tables by name."""
    jobs = {
        "1.28 million, shards of 2,048": (planned(IMAGENET), 1000),
        "1.28 million, shards of 256": (planned(IMAGENET, 256), 1000),
        "one billion, shards of 2,048": (planned(BILLION), 10_000),
    }
    large, ten = planned(BILLION, 32 * SHARD), 10**7
    lives = {"none": math.inf, "24 h": 24 * HOUR, "4 h": 4 * HOUR, "1 h": HOUR, "15 min": HOUR / 4}
    thousand = replace(CREW, workers=1000)
    most = replace(CREW, workers=10_000)
    return {
        "workers": [
            Case(name, job, replace(CREW, workers=workers))
            for name, (job, up_to) in jobs.items()
            for workers in (10, 30, 100, 300, 1000, 3000, 10_000)
            if workers <= up_to
        ],
        "losses": [
            Case(f"{kind}, mean life {life}", job, replace(thousand, life_s=seconds))
            for kind, job in (("2,048 images", planned(BILLION)), ("65,536 images", large))
            for life, seconds in lives.items()
        ],
        "stragglers": [
            Case(f"{shard:,} images, {name}", replace(planned(ten, shard), spread=spread), crew)
            for shard in (2048, 256)
            for name, spread, crew in (
                ("all alike", 0.0, replace(CREW, slow=0)),
                ("shards vary by half", 0.5, replace(CREW, slow=0)),
                ("2 % at half the speed", SPREAD, CREW),
                ("10 % at half the speed", SPREAD, replace(CREW, slow=0.1)),
                ("2 % at a tenth", SPREAD, replace(CREW, slowdown=10)),
            )
        ],
        "shards": [
            Case(f"{shard:,} images", planned(ten, shard))
            for shard in (16, 64, 256, 1024, 2048, 16_384, 65_536)
        ],
        "in flight": [
            Case(f"{name}, {count} in flight", job, CREW, replace(DRIVER, in_flight=count))
            for name, job in (
                ("ten million, 256", planned(ten, 256)),
                ("ten million, 2,048", planned(ten)),
                ("1.28 million, 2,048", planned(IMAGENET)),
            )
            for count in (1, 2)
        ],
        "driver": [
            Case(f"2,048 images, {ms} ms", planned(BILLION), most, replace(DRIVER, dispatch_s=s))
            for ms, s in ((1, 0.001), (5, 0.005), (20, 0.02))
        ]
        + [
            Case(f"H200, {shard:,} images, 5 ms", planned(BILLION, shard, GPU_RATE))
            for shard in (2048, 16_384, 65_536)
        ],
        "store": [
            Case(f"{giga:g} GB/s", planned(BILLION, bandwidth=giga * 1e9), thousand)
            for giga in (1.25, 5, 12.5)
        ],
    }


def duration(seconds: float) -> str:
    """``seconds`` in the unit that fits."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"


def table(rows: list[tuple[Case, Outcome]]) -> str:
    """``rows`` in Markdown, without columns that are zero throughout."""
    columns: dict[str, list[str]] = {}
    for case, outcome in rows:
        cells = {
            "": case.name,
            "workers": f"{case.crew.workers:,}",
            "shards": f"{case.job.shards:,}",
            "each": duration(case.job.shard_s),
            "ideal": duration(outcome.ideal_s),
            "makespan": duration(outcome.makespan_s),
            "efficiency": f"{outcome.efficiency:.1%}",
            "busy": f"{outcome.busy:.1%}",
            "repeated": f"{outcome.repeated:.1%}",
            "workers lost": f"{outcome.losses:,}",
            "shards LOST": f"{outcome.lost:,}",
            "driver": f"{outcome.driver:.0%}",
            "store": f"{outcome.store:.0%}",
        }
        for name, cell in cells.items():
            columns.setdefault(name, []).append(cell)
    kept = {name: each for name, each in columns.items() if set(each) - {"0", "0%", "0.0%"}}
    lines = [[*kept], ["---", *["---:"] * (len(kept) - 1)], *zip(*kept.values(), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--images", type=click.FloatRange(min=1), help="Simulate one job of so many images.")
@click.option("--shard", type=click.IntRange(min=1), default=SHARD, show_default=True)
@click.option("--rate", default=CPU_RATE, show_default=True, help="Images/s of a worker.")
@click.option("--workers", type=click.IntRange(min=1), default=CREW.workers, show_default=True)
@click.option("--life", default=CREW.life_s, show_default=True, help="Mean of a worker, s.")
@click.option("--start", default=CREW.start_s, show_default=True, help="Of a worker, s.")
@click.option(
    "--fill", default=CREW.fill_s, show_default=True, help="Until a shard's first batch, s."
)
@click.option("--slow", default=CREW.slow, show_default=True, help="Share, at half the speed.")
@click.option("--dispatch", default=DRIVER.dispatch_s, show_default=True, help="Of a shard, s.")
@click.option("--handover", default=DRIVER.handover_s, show_default=True, help="Of a shard, s.")
@click.option("--in-flight", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--bandwidth", default=math.inf, show_default=True, help="Of the store, bytes/s.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Also write the rows here.")
def main(
    images: float | None,
    shard: int,
    rate: float,
    workers: int,
    life: float,
    start: float,
    fill: float,
    slow: float,
    dispatch: float,
    handover: float,
    in_flight: int,
    bandwidth: float,
    seed: int,
    path: Path | None,
) -> None:
    """Simulate one job or all tables, and print them."""
    found = cases()
    if images is not None:
        crew = Crew(workers, start, life, fill, slow)
        job, driver = planned(images, shard, rate, bandwidth), Driver(dispatch, handover, in_flight)
        found = {"yours": [Case(f"{images:,.0f} images", job, crew, driver)]}
    stored = []
    for name, each in found.items():
        rows = [(case, simulate(case.job, case.crew, case.driver, seed)) for case in each]
        click.echo(table(rows) if name == "yours" else f"{name}:\n\n{table(rows)}\n")
        stored += [{"table": name, **asdict(case), **asdict(row)} for case, row in rows]
    if path is not None:
        path.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
