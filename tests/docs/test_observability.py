"""The page on observability tells of every metric, as it is."""

from __future__ import annotations

import re
from pathlib import Path

from innkeeper.telemetry.metrics import METRICS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "observability.md"


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    cells = [
        line.strip("|").split("|")
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `innkeeper_")
    ]
    shown = {
        (name.strip(" `"), kind.strip(), tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, *_ in cells
        if name.startswith(" `innkeeper_")
    }
    assert shown == {(metric.name, metric.kind, metric.labels) for metric in METRICS}
