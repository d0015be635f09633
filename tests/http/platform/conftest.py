"""A server with an administrator's token, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.support.inns import Inn
from tests.support.tokens import a_token


def headers(inn: Inn, user: str, role: str = "user", **fields: object) -> dict[str, str]:
    return {"x-api-key": a_token(inn.app.kernel.settings, user, role, organization="acme", **fields).text}


@pytest.fixture(scope="module")
def root_key(inn: Inn) -> dict[str, str]:
    return headers(inn, "root", "admin")


@pytest.fixture
def root(inn: Inn, root_key: dict[str, str]) -> Iterator[httpx2.Client]:
    """A client with an administrator's token."""
    with httpx2.Client(base_url=inn.url, headers=root_key, timeout=20) as client:
        yield client
