"""Metrics: what is told apart is bounded, whatever clients and agents say, and counting costs next to nothing."""

from __future__ import annotations

import timeit
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from innkeeper.core.usage import Usage
from innkeeper.telemetry.books import Book
from innkeeper.telemetry.figures import BookFigures
from innkeeper.telemetry.metrics import DYNAMIC, MAX_NAMES, METRICS, OTHER, BookMeter

HOSTILE = ["", 'a"b', "a\\b", "a\nb", "\x00", "\ud800", "ü" * 5000, "{x='y'} 1", "# TYPE x gauge"]


def samples(figures: BookFigures) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of the text, by its name and labels."""
    families = text_string_to_metric_families(figures.text({}).decode())
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def labels_of(figures: BookFigures, name: str, label: str) -> set[str]:
    return {dict(labels)[label] for sample, labels in samples(figures) if sample == name}


def test_agents_that_nobody_registered_count_as_one() -> None:
    meter = BookMeter(Book(), {"echo"})
    for name in (*HOSTILE, *(f"agent-{number}" for number in range(10_000)), "echo"):
        meter.first_text(name, 0.1)
        meter.run_ended(name, "completed", 0.1, Usage(1, 1, None))
    figures = BookFigures(meter.book)
    for metric in ("innkeeper_runs_total", "innkeeper_tokens_total", "innkeeper_run_first_token_seconds_count"):
        assert labels_of(figures, metric, "agent") == {"echo", DYNAMIC}
    assert samples(figures)["innkeeper_runs_total", frozenset({("agent", "echo"), ("status", "completed")})] == 1


def test_there_are_only_so_many_names_of_agents_and_models() -> None:
    agents = {f"agent-{number}" for number in range(2 * MAX_NAMES)}
    meter = BookMeter(Book(), agents)
    for number, name in enumerate(sorted(agents)):
        meter.run_ended(name, "completed", None, Usage(1, 2, f"model-{number}"))
    for model in HOSTILE:
        meter.run_ended("agent-0", "completed", None, Usage(1, 2, model))
    figures = BookFigures(meter.book)
    assert len(labels_of(figures, "innkeeper_runs_total", "agent")) == MAX_NAMES + 1
    assert len(labels_of(figures, "innkeeper_tokens_total", "model")) <= MAX_NAMES + 2
    tokens = [value for (name, _), value in samples(figures).items() if name == "innkeeper_tokens_total"]
    assert sum(tokens) == 3 * (2 * MAX_NAMES + len(HOSTILE))


@pytest.mark.parametrize("model", HOSTILE[1:])
def test_a_model_that_cannot_be_read_is_no_name(model: str) -> None:
    meter = BookMeter(Book(), {"echo"})
    meter.run_ended("echo", "completed", None, Usage(1, 2, model))
    (label,) = labels_of(BookFigures(meter.book), "innkeeper_tokens_total", "model")
    assert label in (model, OTHER)
    assert label.isprintable()


@pytest.mark.parametrize("tokens", [-5, 10**400])
def test_tokens_that_cannot_be_do_no_harm(tokens: int) -> None:
    meter = BookMeter(Book(), {"echo"})
    meter.run_ended("echo", "completed", 0.1, Usage(tokens, 1, "m"))
    meter.run_ended("echo", "completed", 0.1, Usage(1, 1, "m"))
    told: Any = BookFigures(meter.book).summary({})["tokens"]
    assert told["output"] == 2
    assert 0 < told["input"] <= 2**53 + 1


def test_methods_that_nobody_has_heard_of_count_as_one() -> None:
    meter = BookMeter(Book(), ())
    for method in ("GET", "BREW", *HOSTILE):
        meter.answered(method, "/chat", 405, 0.001)
    assert labels_of(BookFigures(meter.book), "innkeeper_requests_total", "method") == {"GET", OTHER}


def test_percentiles_lie_in_the_bucket_in_which_they_were_counted() -> None:
    meter = BookMeter(Book(), {"echo"})
    for seconds in [0.003] * 90 + [0.2] * 9 + [5000.0]:
        meter.run_ended("echo", "completed", seconds, None)
    told: Any = BookFigures(meter.book).summary({})["latency"]
    assert told["run_ms"]["count"] == 100
    assert 2.5 <= told["run_ms"]["p50"] <= 5
    assert 100 < told["run_ms"]["p95"] <= 250
    assert 100 < told["run_ms"]["p99"] <= 250
    assert told["first_token_ms"] == {"p50": None, "p95": None, "p99": None, "count": 0}
    meter.first_text("echo", 5000.0)
    told = BookFigures(meter.book).summary({})["latency"]
    assert told["first_token_ms"]["p50"] == 600_000


def test_histograms_are_as_prometheus_wants_them() -> None:
    meter = BookMeter(Book(), ())
    for seconds in (0.0001, 0.00011, 0.3, 77.0):
        meter.committed(seconds)
    found = samples(BookFigures(meter.book))
    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in found.items()
        if name == "innkeeper_store_commit_seconds_bucket"
    }
    assert list(buckets.values()) == sorted(buckets.values())
    assert (buckets["0.0001"], buckets["0.00025"], buckets["0.5"], buckets["+Inf"]) == (1, 2, 3, 4)
    assert found["innkeeper_store_commit_seconds_count", frozenset()] == 4
    assert found["innkeeper_store_commit_seconds_sum", frozenset()] == pytest.approx(77.30021)


def test_every_metric_has_a_name_after_prometheus_custom() -> None:
    for metric in METRICS:
        assert metric.name.startswith("innkeeper_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.name.endswith("_seconds") == (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(set(metric.buckets))


def test_all_that_is_counted_of_a_turn_costs_less_than_ten_microseconds() -> None:
    meter, usage = BookMeter(Book(), {"echo"}), Usage(10, 5, "m")

    def turn() -> None:
        meter.running(1)
        meter.stream_opened("sse")
        meter.committed(0.0001)
        meter.first_text("echo", 0.001)
        meter.committed(0.0001)
        meter.run_ended("echo", "completed", 0.002, usage)
        meter.running(0)
        meter.stream_closed("sse")
        meter.answered("POST", "/chat", 200, 0.003)

    assert min(timeit.repeat(turn, number=2000, repeat=5)) / 2000 < 10e-6
