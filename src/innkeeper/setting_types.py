"""What values of settings may be: the types of `settings.Settings` that are more than a number or a text.

Each takes what a variable, a flag or a configuration file has for it. What is wrong with it is told as the end of a
sentence whose subject is the setting, and may quote the value: no secret has such a type.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from innkeeper.core.rates import OFF, rate_of, special_rates

MODES = ("chat", "agent", "logs", "health", "api", "platform", "console")
"""The groups of routes that a server may have."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_ADDRESSES = ("_BASE_URL", "_ENDPOINT", "_INFERENCE_URL")


def _capitals(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_capitals)]


def _web_address(text: str) -> str:
    if not text.startswith(("http://", "https://")) or not text.partition("://")[2].strip("/") or " " in text:
        raise ValueError("it must be a URL such as http://localhost:4318")
    return text


def _safe_address(text: str) -> str:
    """An address at which nobody on the way can exchange what is read."""
    parts = urlsplit(_web_address(text))
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("it must have no user, query or fragment")
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError("it must begin with https://, because whoever is on the way could let anybody in")
    return text


def _listed(value: object) -> object:
    """Names separated by commas or spaces, as a list."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _port(value: object) -> object:
    """The port of `tcp://10.0.0.1:6379`, which Kubernetes puts into `REDIS_PORT` for a service called redis."""
    return value.rpartition(":")[2] if isinstance(value, str) and value.startswith("tcp://") else value


def _known_modes(names: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in names if name not in MODES]
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is none of {', '.join(MODES)}")
    return names


def _own_variables(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names that clients may set, for a request of theirs alone."""
    for name in names:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name} is no name of a variable: letters, digits and _")
        if name.upper().endswith(_ADDRESSES):
            raise ValueError(f"{name} says where model clients connect to, which is not for clients to choose")
    if len({name.upper() for name in names}) < len(names):
        raise ValueError("two of its names differ in capitals only, or not at all")
    return names


def _networks(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        try:
            ip_network(entry)
        except ValueError:
            raise ValueError(f"{entry} is no address and no network such as 10.0.0.0/8") from None
    return entries


def _a_rate(text: str) -> str:
    rate_of(text)
    return text


def _a_limit(value: object) -> object:
    """`off` is none."""
    return None if value == OFF else value


def _entries(value: object) -> object:
    """The keys and values of a configuration file's mapping, as the variable has them."""
    return [f"{key}={one}" for key, one in value.items()] if isinstance(value, dict) else value


def _special_rates(entries: tuple[str, ...]) -> tuple[str, ...]:
    special_rates(entries, MODES)
    return entries


RateText = Annotated[str, AfterValidator(_a_rate)]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Modes = Annotated[Names, AfterValidator(_known_modes)]
VariableNames = Annotated[Names, AfterValidator(_own_variables)]
Networks = Annotated[Names, AfterValidator(_networks)]
RateEntries = Annotated[Names, BeforeValidator(_entries), AfterValidator(_special_rates)]
Limit = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_a_limit)]
PortNumber = Annotated[int, BeforeValidator(_port)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
SafeAddress = Annotated[str, AfterValidator(_safe_address)]
