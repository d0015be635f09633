"""One server for the tests of a module, and a plain client of it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.support.inns import Inn, running_inn


@pytest.fixture(scope="module")
def inn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    with running_inn(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def http(inn: Inn) -> Iterator[httpx2.Client]:
    inn.seen.clear()
    with httpx2.Client(base_url=inn.url, timeout=20) as client:
        yield client
