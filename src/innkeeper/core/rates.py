"""Rates: so many in a while, the rules of which holds for whom, and what came of counting.

A rule is chosen by who asks (`KINDS`) and by the group of routes that they ask of. Who counts is the affair of
`ports.limits`; nothing here knows a clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

PERIODS: Mapping[str, int] = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
KINDS = ("anonymous", "read", "user", "admin")
"""Who may ask: nobody known, or a caller of one of the roles."""
OFF = "off"
_TEXT = re.compile(r"([0-9]{1,9})/([a-z]+)")


@dataclass(frozen=True, slots=True)
class Rate:
    """`amount` in a window of so many seconds, which begins with the first."""

    amount: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.amount}/{_PERIOD_OF[self.seconds]}"


_PERIOD_OF = {seconds: name for name, seconds in PERIODS.items()}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of counting one; `reset_after` is in seconds."""

    is_allowed: bool
    limit: int
    remaining: int
    reset_after: float


@dataclass(frozen=True, slots=True)
class Rule:
    """A rate under the name by which it is counted; without a rate nothing is."""

    name: str
    rate: Rate | None


@dataclass(frozen=True, slots=True)
class RateRules:
    """The rates of a server; `None` is no limit. `special` are by kind, by group, or by `kind/group`."""

    anonymous: Rate | None = None
    user: Rate | None = None
    websocket: Rate | None = None
    failed_auth: Rate | None = None
    special: Mapping[str, Rate | None] = field(default_factory=dict)

    def rule(self, kind: str, group: str) -> Rule:
        """The one that holds for requests: the most special, and of two equally special ones that of the group."""
        is_anonymous = kind == "anonymous"
        for name in (f"{kind}/{group}", group, kind):
            if name in self.special:
                return Rule(f"anonymous/{group}" if is_anonymous and name == group else name, self.special[name])
        return Rule("anonymous", self.anonymous) if is_anonymous else Rule("user", self.user)


def rate_of(text: str) -> Rate | None:
    """What `100/minute` says; `None` for `off`. Raises: ValueError that says how it must read."""
    if text == OFF:
        return None
    found = _TEXT.fullmatch(text)
    if found is None or int(found[1]) < 1 or found[2] not in PERIODS:
        raise ValueError(f"it must be a number from 1, a slash and one of {', '.join(PERIODS)}, or {OFF}: 100/minute")
    return Rate(int(found[1]), PERIODS[found[2]])


def special_rates(entries: Iterable[str], groups: Iterable[str]) -> Mapping[str, Rate | None]:
    """What entries such as `read/chat=100/minute` say. Raises: ValueError that names the wrong one."""
    groups, found = tuple(groups), dict[str, Rate | None]()
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals:
            raise ValueError(f"{entry}: it must be a role, a group or role/group, an equals sign and a rate")
        if name in found:
            raise ValueError(f"{name}: it is there twice")
        kind, slash, group = name.partition("/")
        is_known = (kind in KINDS and group in groups) if slash else (kind in KINDS or kind in groups)
        if not is_known:
            raise ValueError(f"{name}: roles are {', '.join(KINDS)}; groups are {', '.join(groups)}")
        try:
            found[name] = rate_of(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return found
