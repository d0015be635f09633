"""What every runtime is handed from the configuration; read at each run, never from `os.environ`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """`environment` is the process environment with `.env` merged in; keys for model clients come from it.

    `temperature` and `max_tokens` override an agent's own settings, and a request's override both.
    `cache_dir` holds downloaded model weights. `max_threads` bounds the synchronous calls of one agent at once.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    temperature: float | None = None
    max_tokens: int | None = None
    cache_dir: Path | None = None
    max_threads: int = 64
