"""Figures: what was measured by the processes that serve one port, for Prometheus and as JSON.

The client library is imported when somebody asks for its format. Gauges count what is under way, so a process that
has ended has none; what it had counted stays.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from innkeeper.telemetry.books import Book, Entry, ForeignBook, Shelf
from innkeeper.telemetry.metrics import (
    COMMAND_SECONDS,
    COMMANDS,
    COMMIT_SECONDS,
    FIRST_TOKEN_SECONDS,
    INFO,
    METRICS,
    QUEUE_DEPTH,
    REQUEST_SECONDS,
    REQUESTS,
    RUN_SECONDS,
    RUNS,
    RUNS_ACTIVE,
    STREAMS,
    TOKENS,
    WORKERS,
    Metric,
)
from innkeeper.version import __version__

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

_GAUGES = frozenset(one.name for one in METRICS if one.kind == "gauge")
_PERCENTILES = (50, 95, 99)

Labels = tuple[str, ...]


class Snapshot:
    """The sums over all books, and who writes them."""

    def __init__(self, books: Iterable[tuple[int, Book | ForeignBook]], queues: Mapping[str, int]) -> None:
        self.processes: dict[int, int] = {}
        self._sums: dict[str, dict[Labels, list[float]]] = defaultdict(dict)
        for number, book in books:
            if book.process:
                self.processes[number] = book.process
            for entry in book.entries():
                if book.process or entry.name not in _GAUGES:
                    self._add(entry)
        self._add(Entry(WORKERS.name, (), (float(len(self.processes)),)))
        self._add(Entry(INFO.name, (__version__,), (1.0,)))
        for queue, depth in queues.items():
            self._add(Entry(QUEUE_DEPTH.name, (queue,), (float(depth),)))

    def _add(self, entry: Entry) -> None:
        sums = self._sums[entry.name].setdefault(entry.labels, [0.0] * len(entry.cells))
        for index, value in enumerate(entry.cells):
            sums[index] += value

    def of(self, metric: Metric) -> Mapping[Labels, Sequence[float]]:
        return self._sums.get(metric.name, {})

    def total(self, metric: Metric, **wanted: str) -> int:
        """The sum over what has these labels."""
        places = {metric.labels.index(name): value for name, value in wanted.items()}
        fits = (cells for labels, cells in self.of(metric).items() if all(labels[n] == v for n, v in places.items()))
        return round(sum(cells[0] for cells in fits))

    def by(self, metric: Metric, label: str) -> dict[str, int]:
        """The sums by one label."""
        place, sums = metric.labels.index(label), Counter[str]()
        for labels, cells in self.of(metric).items():
            sums[labels[place]] += round(cells[0])
        return dict(sums)


class BookFigures:
    """Implements `ports.meters.FigureReader` over the own book and those on the shelf, where there are more."""

    def __init__(self, book: Book, shelf: Shelf | None = None, number: int = 1) -> None:
        self._book = book
        self._shelf = shelf
        self._number = number

    def _snapshot(self, queues: Mapping[str, int]) -> Snapshot:
        others = () if self._shelf is None else self._shelf.others(self._number)
        return Snapshot(((self._number, self._book), *others), queues)

    def text(self, queues: Mapping[str, int]) -> bytes:
        from prometheus_client.exposition import generate_latest

        snapshot = self._snapshot(queues)
        registry: Any = _Collected([*_families(snapshot), *_process_families(snapshot.processes)])
        return generate_latest(registry)

    def summary(self, queues: Mapping[str, int]) -> Mapping[str, object]:
        snapshot = self._snapshot(queues)
        active = snapshot.by(RUNS_ACTIVE, "state")
        return {
            "version": __version__,
            "workers": len(snapshot.processes),
            "requests": {
                "total": snapshot.total(REQUESTS),
                "by_status": snapshot.by(REQUESTS, "status"),
                "by_route": snapshot.by(REQUESTS, "route"),
            },
            "runs": {
                "active": active,
                "total": snapshot.total(RUNS),
                "by_status": snapshot.by(RUNS, "status"),
                "by_agent": snapshot.by(RUNS, "agent"),
            },
            "commands": {"total": snapshot.total(COMMANDS), "by_status": snapshot.by(COMMANDS, "status")},
            "latency": {
                "request_ms": _percentiles(snapshot, REQUEST_SECONDS),
                "first_token_ms": _percentiles(snapshot, FIRST_TOKEN_SECONDS),
                "run_ms": _percentiles(snapshot, RUN_SECONDS),
                "command_ms": _percentiles(snapshot, COMMAND_SECONDS),
            },
            "tokens": _tokens(snapshot),
            "queue": {"turns": active.get("queued", 0), **queues},
            "streams": snapshot.by(STREAMS, "kind"),
            "store": {"commit_ms": _percentiles(snapshot, COMMIT_SECONDS)},
        }


def _tokens(snapshot: Snapshot) -> dict[str, object]:
    sides = {side: snapshot.total(TOKENS, direction=side) for side in ("input", "output")}
    return {**sides, "total": sum(sides.values()), "by_agent": snapshot.by(TOKENS, "agent")}


def _percentiles(snapshot: Snapshot, metric: Metric) -> dict[str, float | int | None]:
    """Milliseconds, over all labels, as exact as the buckets; `None` where nothing was measured."""
    sums = [sum(column) for column in zip(*snapshot.of(metric).values(), strict=True)]
    counts = [round(value) for value in sums[:-1]]
    told: dict[str, float | int | None] = {
        f"p{percent}": _percentile(counts, metric.buckets, percent / 100) for percent in _PERCENTILES
    }
    return {**told, "count": sum(counts)}


def _percentile(counts: Sequence[int], bounds: Sequence[float], part: float) -> float | None:
    """Where in its bucket that part of all lies, were they spread evenly; what is beyond the last bound, at it."""
    wanted, below = sum(counts) * part, 0
    for index, count in enumerate(counts):
        if count and below + count >= wanted:
            if index == len(bounds):
                break
            low = bounds[index - 1] if index else 0.0
            return round(1000 * (low + (bounds[index] - low) * (wanted - below) / count), 3)
        below += count
    return None if not sum(counts) else round(1000 * bounds[-1], 3)


class _Collected:
    """What the client library asks for: something to collect from."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> list[Family]:
        return self._families


def _families(snapshot: Snapshot) -> Iterator[Family]:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    for metric in METRICS:
        family: Any
        if metric.kind == "histogram":
            family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, (*counts, total) in snapshot.of(metric).items():
                family.add_metric(labels, list(_cumulated(counts, metric.buckets)), total)
        else:
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for labels, (value,) in snapshot.of(metric).items():
                family.add_metric(labels, value)
        yield family


def _cumulated(counts: Sequence[float], bounds: Sequence[float]) -> Iterator[tuple[str, float]]:
    so_far = 0.0
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        so_far += count
        yield "+Inf" if bound == float("inf") else repr(bound), so_far


def _process_families(processes: Mapping[int, int]) -> Iterator[Family]:
    """Memory, processor time and files of each process, by its number; nothing where there is no /proc."""
    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.process_collector import ProcessCollector

    families: dict[str, Family] = {}
    for number, pid in processes.items():
        for told in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
            family = families.setdefault(told.name, Family(told.name, told.documentation, told.type))
            for sample in told.samples:
                family.add_sample(sample.name, {**sample.labels, "worker": str(number)}, sample.value)
    yield from families.values()
