"""Apps in the tests' own process: what they must not share, and what they leave on disk."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper.apps.registration import default_agents


@pytest.fixture
def fresh_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the test were a program of its own: nothing registered, an empty working folder, its own data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INNKEEPER_DATA_DIR", str(tmp_path / "data"))
    for name in ("DATABASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    default_agents.clear()
    yield
    default_agents.clear()


def ledger(data_dir: Path) -> list[tuple[str, str, Any]]:
    """What has been booked: credits, reason and metadata, in order."""
    with closing(sqlite3.connect(data_dir / "innkeeper.db")) as database:
        rows = database.execute("SELECT credits, reason, metadata FROM credit_records ORDER BY created_at, id")
        return [(credits, reason, json.loads(metadata)) for credits, reason, metadata in rows]


def completion(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """The body of a chat completion with one user message."""
    return {"model": "gpt-4", "messages": [{"role": "user", "content": text}], **fields}


def content(response: httpx2.Response) -> str:
    """What a chat completion says."""
    assert response.status_code == 200, response.text
    said: str = response.json()["choices"][0]["message"]["content"]
    return said


def frames(text: str) -> list[Any]:
    """The data of an SSE body, without the end marker."""
    data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(one) for one in data[:-1]]


def streamed(text: str) -> str:
    """What the chunks of a streamed chat completion say together."""
    deltas = [chunk["choices"][0]["delta"] for chunk in frames(text) if chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)
