"""What was measured, as text: the figures beside their targets, then the details, the machine and the versions."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

PACKAGES = ("innkeeper", "starlette", "fastapi", "uvicorn", "uvloop", "httptools", "sqlalchemy", "pydantic-ai-slim")


@dataclass(slots=True)
class Rates:
    """One side's rounds."""

    requests: list[float] = field(default_factory=list)
    frames: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    load_cpu: list[float] = field(default_factory=list)

    def add(self, result: Mapping[str, Any], cpu_seconds: float) -> None:
        self.requests.append(result["requests_per_second"])
        self.frames.append(result["frames_per_second"])
        self.p50.append(result["p50"])
        self.p99.append(result["p99"])
        self.cpu.append(cpu_seconds / max(result["total"], 1) * 1e6)
        self.load_cpu.append(result["load_cpu"])

    def forget(self) -> None:
        for values in (self.requests, self.frames, self.p50, self.p99, self.cpu, self.load_cpu):
            values.clear()


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. A target is of `ratio` where there is one, else of `product`, which is in `unit`."""

    name: str
    unit: str
    floor: float | None
    product: float
    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    rates: tuple[Rates, Rates] | None = None

    @classmethod
    def of_rates(cls, name: str, floor: Rates, product: Rates, *, at_least: float, by_frames: bool = False) -> Figure:
        below = floor.frames if by_frames else floor.requests
        above = product.frames if by_frames else product.requests
        ratio = median(mine / theirs for mine, theirs in zip(above, below, strict=True))
        return cls(name, "/s", median(below), median(above), ratio, at_least, rates=(floor, product))

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g} ×"
        return "" if self.at_most is None else f"≤ {self.at_most:g} {self.unit}"

    @property
    def verdict(self) -> str:
        if self.at_least is not None and self.ratio is not None:
            return "met" if self.ratio >= self.at_least else "**missed**"
        if self.at_most is None:
            return ""
        return "met" if self.product <= self.at_most else "**missed**"


def report(figures: Iterable[Figure], command: str, folder: Path) -> str:
    """Markdown; `folder` is where the store was, whose disk is told about."""
    figures = list(figures)
    rows = [
        (
            figure.name,
            "" if figure.floor is None else _number(figure.floor, figure.unit),
            _number(figure.product, figure.unit),
            "" if figure.ratio is None else f"{figure.ratio:.2f} ×",
            figure.target,
            figure.verdict,
        )
        for figure in figures
    ]
    details = [row for figure in figures if figure.rates for row in _details(figure.name, *figure.rates)]
    return "\n".join(
        [
            "# Measured",
            "",
            "Innkeeper, every run stored durably, against a bare Starlette app that sends the same bytes and stores",
            "nothing; both on uvicorn with one worker, on the same machine, in rounds that alternate. Ratios are",
            "medians over the rounds. Trust the ratios; the absolute figures are this machine's.",
            "",
            *_table(("", "floor", "Innkeeper", "ratio", "target", ""), rows),
            "",
            "## Under load",
            "",
            *_table(("", "side", "p50", "p99", "CPU a request", "CPU of the load", "rounds"), details),
            "",
            "## Where and when",
            "",
            *_surroundings(command, folder),
            "",
        ]
    )


def with_section(text: str, heading: str, figures: Iterable[Figure], told: Iterable[str]) -> str:
    """`text` with a section of figures that have no floor, in the place of the one of that name, or else at its end."""
    rows = [(one.name, _number(one.product, one.unit), one.target, one.verdict) for one in figures]
    lines = [f"## {heading}", "", *_table(("", "Innkeeper", "target", ""), rows), "", *told]
    return _joined({**_sections(text), lines[0]: "\n".join(lines)})


def with_others(text: str, before: str) -> str:
    """`text`, and the sections that `before` has beside those of it."""
    return _joined({**_sections(text), **{name: one for name, one in _sections(before).items() if name not in text}})


def _sections(text: str) -> dict[str, str]:
    return {one.partition("\n")[0]: one for one in re.split(r"(?m)^(?=## )", text)}


def _joined(sections: Mapping[str, str]) -> str:
    return "\n\n".join(one.strip("\n") for one in sections.values()) + "\n"


def _details(name: str, floor: Rates, product: Rates) -> list[tuple[str, ...]]:
    return [
        (
            name,
            side,
            f"{median(rates.p50):.1f} ms",
            f"{median(rates.p99):.1f} ms",
            f"{median(rates.cpu):.0f} µs" if any(rates.cpu) else "unknown",
            f"{median(rates.load_cpu):.0%}",
            str(len(rates.requests)),
        )
        for side, rates in (("floor", floor), ("Innkeeper", product))
    ]


def _number(value: float, unit: str) -> str:
    if unit == "/s":
        return f"{value:,.0f}"
    return f"{value:.0f} {unit}" if unit == "MB" else f"{value:.2f} {unit}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return [line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)]


def _surroundings(command: str, folder: Path) -> list[str]:
    return [
        f"- `{command}`, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"- {_processor()}, {os.cpu_count()} cores; {platform.system()} {platform.release()}",
        f"- a write and fsync on the store's disk: {_sync_milliseconds(folder):.2f} ms",
        f"- {platform.python_implementation()} {platform.python_version()}; "
        + ", ".join(f"{package} {_version(package)}" for package in PACKAGES),
    ]


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except FileNotFoundError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _sync_milliseconds(folder: Path) -> float:
    times = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(50):
            began = time.monotonic_ns()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            times.append(time.monotonic_ns() - began)
    return median(times) / 1e6


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "from source"
