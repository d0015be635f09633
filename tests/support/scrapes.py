"""Scrapes: what a server tells Prometheus, as Prometheus reads it."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx2
from prometheus_client.parser import text_string_to_metric_families

FORMAT = "text/plain; version=0.0.4; charset=utf-8"


class Scrape:
    """One scrape: the types of all metrics, and their samples."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.types = {family.name: family.type for family in families}
        self.labels = {one.name: frozenset(one.labels) for family in families for one in family.samples}
        self.samples = {
            (one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples
        }

    def get(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that have these labels, among others."""
        wanted = frozenset(labels.items())
        return sum(value for (one, its), value in self.samples.items() if one == name and wanted <= its)

    def values(self, name: str, label: str) -> set[str]:
        """What a label says in the samples of a metric."""
        return {dict(its)[label] for one, its in self.samples if one == name}


def scrape(http: httpx2.Client) -> Scrape:
    answer = http.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == FORMAT
    return Scrape(answer.text)


def scraped_until(http: httpx2.Client, holds: Callable[[Scrape], bool], *, timeout: float = 30) -> Scrape:
    """The first scrape of which that holds."""
    deadline = time.monotonic() + timeout
    while not holds(found := scrape(http)):
        assert time.monotonic() < deadline, found.samples
    return found
