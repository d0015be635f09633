"""Composing: what Compose makes of our compose.yaml, without Compose."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.support.images import ROOT

TEXT = (ROOT / "compose.yaml").read_text()
PASSWORDS = {"POSTGRES_PASSWORD": "p" * 48, "REDIS_PASSWORD": "r" * 48}


def filled_in(environment: Mapping[str, str]) -> str:
    """What Compose makes of `${NAME}`, `${NAME:-default}` and `${NAME:?message}`. Raises: KeyError with the message."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if environment.get(name):
            return environment[name]
        if kind == ":?":
            raise KeyError(rest)
        return rest

    return re.sub(r"\$\{(\w+)(:-|:\?|)([^}]*)\}", value, TEXT).replace("$$", "$")


def services(**environment: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(filled_in({**PASSWORDS, **environment}))["services"]
    return found
