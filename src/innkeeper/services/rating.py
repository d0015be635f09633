"""Rating: what the tokens of past runs cost by the prices that hold now, put in the place of what was booked.

A model without a price keeps what it has: taking it out of the list forgets nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from innkeeper.core.administration import RateUsage
from innkeeper.core.changes import Change
from innkeeper.core.credits import UsageRecord
from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant, isoformat
from innkeeper.core.usage import Usage
from innkeeper.ports.accounts import CreditReader
from innkeeper.ports.journal import Journal
from innkeeper.services.audit import Audit

_AT_ONCE = 500


@dataclass(slots=True)
class Rated:
    """One model: how many runs used it, how many of them cost something else now, and the sums; in billionths."""

    model: str
    runs: int = 0
    changed: int = 0
    before: int = 0
    after: int = 0
    is_priced: bool = False


class Rating:
    """Rates the usage of a period anew. `cost` is as for `services.settlements`."""

    def __init__(
        self,
        *,
        journal: Journal,
        credits: CreditReader,
        audit: Audit,
        cost: Callable[[Usage], int | None],
        at_once: int = _AT_ONCE,
    ) -> None:
        self._journal = journal
        self._credits = credits
        self._audit = audit
        self._cost = cost
        self._at_once = at_once

    async def rerate(self, actor: Owner, since: Instant, until: Instant, *, is_dry: bool = False) -> Sequence[Rated]:
        """What became of the runs that were accepted in that time, by model; with `is_dry`, what would.

        It commits as it goes, so that one that was cut off is begun again. Raises: StorageUnavailable.
        """
        found: dict[str, Rated] = {}
        period = {"since": isoformat(since), "until": isoformat(until)}
        told = self._audit.entry(actor, "usage.rerate", "usage", None, period)
        after, pending = ("", ""), (told,) if not is_dry else ()
        while records := await self._credits.usage_between(since, until, limit=self._at_once, after=after):
            costs = tuple(cost for record in records if (cost := self._rate(record, found)) is not None)
            if costs and not is_dry:
                changes: tuple[Change, ...] = (RateUsage(costs), *pending)
                await self._journal.commit(changes)
                pending = ()
            after = records[-1].run_id, records[-1].model
        if pending:
            await self._journal.commit(pending)
        return [found[model] for model in sorted(found)]

    def _rate(self, record: UsageRecord, found: dict[str, Rated]) -> tuple[str, str, int] | None:
        """Count it in, and tell what is to be written of it, if anything."""
        rated = found.setdefault(record.model, Rated(record.model))
        cost = self._cost(Usage(record.input_tokens, record.output_tokens, record.model or None))
        before = record.cost or 0
        rated.runs += 1
        rated.before += before
        rated.after += before if cost is None else cost
        rated.is_priced |= cost is not None
        if cost is None or cost == record.cost:
            return None
        rated.changed += 1
        return record.run_id, record.model, cost
