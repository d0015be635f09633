"""Innkeeper with one agent, which costs something where `BENCH_PRICED` is set; for `bench.access`."""

from __future__ import annotations

import os
from typing import Any

from innkeeper import create_app, pricing, register_agent


async def instant(messages: list[dict[str, Any]]) -> str:
    return "Hello! How can I help you today?"


register_agent("instant", pricing(credits_per_request=0.001)(instant) if os.environ.get("BENCH_PRICED") else instant)

app = create_app()
