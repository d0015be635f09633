"""Inventories: the settings as people may see them, each with where it comes from, and no secret among them.

What they are is `settings`' affair; here they are only shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from innkeeper.config import Settings
from innkeeper.origins import Origin
from innkeeper.yaml_keys import YAML_KEYS

SET, UNSET = "set", "unset"
SECRETS = frozenset(name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation))
"""The settings that nobody is shown."""
_ADDRESSES = frozenset({"database_url", "redis_url"})
"""Those of them that lead somewhere; others may look as if they did."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting. `key` is its place in a configuration file; `value` is as JSON has it."""

    name: str
    section: str
    key: str
    value: Any
    origin: Origin


def inventory(settings: Settings, *, shows_places: bool = False) -> list[Entry]:
    """Every setting, in the order of a configuration file.

    Secrets are `set` or `unset`; with `shows_places` those that are URLs show where they lead, without who goes there.
    """
    return [
        Entry(name, section, key, _shown(settings, name, shows_places), settings.origin(name))
        for section, keys in YAML_KEYS.items()
        for key, name in keys.items()
    ]


def nested(settings: Settings) -> Mapping[str, Mapping[str, Any]]:
    """The settings by section and key, as a configuration file has them."""
    told: dict[str, dict[str, Any]] = {}
    for entry in inventory(settings):
        told.setdefault(entry.section, {})[entry.key] = entry.value
    return told


def _shown(settings: Settings, name: str, shows_places: bool) -> Any:
    value = getattr(settings, name)
    if name in SECRETS:
        text = "" if value is None else value.get_secret_value()
        if shows_places and name in _ADDRESSES and "://" in text:
            return _without_credentials(text)
        return SET if text else UNSET
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, str) and "://" in value:
        return _without_credentials(value)
    return str(value) if isinstance(value, Path) else value


def _without_credentials(url: str) -> str:
    """A URL's scheme, host and path. A query may hold a password, and so may whatever stands before an `@`."""
    scheme, _, rest = url.partition("://")
    _, at, place = rest.rpartition("@")
    place, question, _ = place.partition("?")
    return f"{scheme}://{'***@' if at else ''}{place}{'?…' if question else ''}"
