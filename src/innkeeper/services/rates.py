"""Rates: which rule counts a request, and who is too fast.

A request counts once: those of a known caller for its user, all others for the address that they come from. The local
user is outside. Credentials that open nothing are counted by their address alone, and what they may no longer do
is make the store look them up: of an address that has sent too many, few are looked up at a time, so that right
ones still get through.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

from innkeeper.core.errors import RateLimited
from innkeeper.core.identity import Caller
from innkeeper.core.rates import RateRules, Rule, Verdict
from innkeeper.ports.limits import Limiter

MOST_SUSPECTS = 10_000
MOST_LOOKED_UP = 4
"""So many credentials of addresses that have sent too many wrong ones are looked up at a time."""


class Rates:
    """What the gate asks. `clock` counts seconds and never goes back."""

    def __init__(self, rules: RateRules, limiter: Limiter, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._limiter = limiter
        self._clock = clock
        self._chosen: dict[tuple[str, str], Rule] = {}
        self._suspects: OrderedDict[str, float] = OrderedDict()
        self._looked_up = 0

    def count(
        self, caller: Caller | None, address: str, group: str, *, connects: bool = False
    ) -> Verdict | Awaitable[Verdict] | None:
        """Count a request, or with `connects` a new WebSocket; `None` where nothing is counted."""
        if caller is None:
            kind, who = "anonymous", network_of(address)
        elif caller.is_local:
            return None
        else:
            kind, who = caller.role.value, f"{caller.owner.organization}\x1f{caller.owner.user}"
        if connects:
            rule = Rule("websocket/anonymous" if caller is None else "websocket", self._rules.websocket)
        else:
            rule = self._chosen.get((kind, group)) or self._choose(kind, group)
        return None if rule.rate is None else self._limiter.hit(rule.name, who, rule.rate)

    def _choose(self, kind: str, group: str) -> Rule:
        rule = self._chosen[kind, group] = self._rules.rule(kind, group)
        return rule

    # credentials that open nothing

    def failed(self, address: str) -> Verdict | Awaitable[Verdict] | None:
        """Count a credential that opened nothing; tell `suspect` of a verdict that does not allow it."""
        rate = self._rules.failed_auth
        return None if rate is None else self._limiter.hit("failed", network_of(address), rate)

    def suspect(self, address: str, verdict: Verdict) -> None:
        """This address has sent too many."""
        network = network_of(address)
        self._suspects[network] = self._clock() + verdict.reset_after
        self._suspects.move_to_end(network)
        if len(self._suspects) > MOST_SUSPECTS:
            self._suspects.popitem(last=False)

    @property
    def has_suspects(self) -> bool:
        return bool(self._suspects)

    @contextlib.contextmanager
    def looking_up(self, address: str) -> Iterator[None]:
        """While a credential is looked up that nobody has been known by.

        Raises: RateLimited if the address has sent too many wrong ones, and enough of such are looked up already.
        """
        network = network_of(address)
        left = self._suspects.get(network, 0.0) - self._clock()
        if left <= 0:
            self._suspects.pop(network, None)
            yield
            return
        if self._looked_up >= MOST_LOOKED_UP:
            raise RateLimited(_TOO_MANY_FAILED, retry_after=seconds(left))
        self._looked_up += 1
        try:
            yield
        finally:
            self._looked_up -= 1


_TOO_MANY_FAILED = "Too many credentials that open nothing came from this address. Try again later."


def refusal(verdict: Verdict, caller: Caller | None) -> RateLimited:
    """What those are told who are too fast."""
    whose = "of this address, which send no token" if caller is None else "of this user"
    wait = seconds(verdict.reset_after)
    return RateLimited(
        f"Too many requests {whose}: {verdict.limit} are allowed at a time. Try again in {wait} s.", retry_after=wait
    )


def refusal_of_credentials(verdict: Verdict) -> RateLimited:
    """What those are told who have sent too many credentials that open nothing."""
    return RateLimited(_TOO_MANY_FAILED, retry_after=seconds(verdict.reset_after))


def seconds(left: float) -> int:
    """Whole seconds after which something is over for certain; at least one."""
    return max(1, math.ceil(left))


@lru_cache(maxsize=10_000)
def network_of(address: str) -> str:
    """Whom an address belongs to: itself, and of IPv6 its /64, of which one customer has all."""
    if ":" not in address:
        return address
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ip_network((found.packed[:8] + bytes(8), 64)))
