"""What examples start from: no agents left from elsewhere, a folder of their own, a model provider."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.apps import fresh_process
from tests.support.openai_upstream import Upstream, running_upstream

__all__ = ["fresh_process"]


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    """A provider that `openai:` models ask, because the environment names it."""
    with running_upstream() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-upstream")
        yield running
