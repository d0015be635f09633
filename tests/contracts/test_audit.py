"""The audit log in every store: a chain in order, of which whatever is changed, taken out or cut off is found."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import asyncpg
import pytest

from innkeeper.core.administration import Audited, WriteAudit
from innkeeper.core.audit import AuditEntry, audit_digest
from innkeeper.core.control_changes import RevokeToken
from innkeeper.core.identity import Owner
from innkeeper.core.outcomes import Missing
from innkeeper.core.times import Instant
from innkeeper.services.audit_chain import Break, Verdict, verified
from innkeeper.storage.programs.proofs import proof
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import ANN, Store, new_id, now


def entry(action: str = "token.create", metadata: Mapping[str, object] | None = None) -> WriteAudit:
    return WriteAudit(AuditEntry(new_id(), ANN.owner, action, "token", "ik1", now(), dict(metadata or {})))


async def written(store: Store, count: int) -> list[AuditEntry]:
    made = []
    for number in range(count):
        (outcome,) = await store.journal.commit((entry(metadata={"number": number}),))
        assert isinstance(outcome, Audited)
        made.append(outcome.entry)
    return made


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """The store that is made fastest, for what does not depend on which it is."""
    opened = SqliteStore(tmp_path / "innkeeper.db")
    await opened.open()
    yield opened
    await opened.close()


async def executed(store: Store, statement: str) -> None:
    """By hand, past everything that this program would allow."""
    if isinstance(store, SqliteStore):
        with closing(sqlite3.connect(store.database, timeout=10)) as by_hand, by_hand:
            by_hand.execute(statement)
        return
    connection = await asyncpg.connect(store._address.url)
    await connection.execute(statement)
    await connection.close()


async def broken(store: Store) -> Break:
    verdict = await verified(store.audit, batch=3)
    assert verdict.broken is not None
    return verdict.broken


async def test_entries_are_numbered_from_one_and_each_vouches_for_the_one_before(store: Store) -> None:
    assert await store.audit.head() == (0, "")
    made = await written(store, 3)
    assert [one.number for one in made] == [1, 2, 3]
    assert [one.previous for one in made] == ["", made[0].digest, made[1].digest]
    assert await store.audit.head() == (3, made[2].digest)
    told = await store.audit.chain(0, 10)
    assert [one for one, _ in told] == made
    for one, metadata in told:
        assert audit_digest(one, one.number, one.previous, metadata) == one.digest


async def test_pages_are_the_newest_first_with_the_count_of_all(store: Store) -> None:
    made = (await written(store, 5))[::-1]
    assert await store.audit.page(limit=2) == (made[:2], 5)
    assert await store.audit.page(limit=2, offset=3) == (made[3:], 5)
    assert await store.audit.page(limit=200) == (made, 5)
    assert await store.audit.page(limit=2, offset=5) == ([], 5)
    assert await store.audit.page(limit=2, offset=2**53) == ([], 5)


async def test_a_part_of_the_chain_begins_behind_a_number(store: Store) -> None:
    made = await written(store, 5)
    assert [one for one, _ in await store.audit.chain(2, 2)] == made[2:4]
    assert await store.audit.chain(5, 10) == []


async def test_fifty_at_a_time_make_one_chain(store: Store) -> None:
    await asyncio.gather(*(store.journal.commit((entry(),)) for _ in range(50)))
    verdict = await verified(store.audit, batch=7)
    assert verdict == Verdict(50, (await store.audit.head())[1])


async def test_nothing_is_told_of_what_found_nothing_to_change(store: Store) -> None:
    outcomes = await store.journal.commit((RevokeToken("ik" + "9" * 16, now()), entry("token.revoke")))
    assert outcomes == (Missing(), Missing())
    assert await store.audit.head() == (0, "")


async def test_what_no_text_can_hold_is_replaced_and_the_digest_is_of_what_is_stored(store: Store) -> None:
    odd = "a\0b\ud800c"
    told = AuditEntry(new_id(), Owner(odd, odd), odd, odd, odd, now(), {odd: [odd, 1.5, None, {"ü": "\N{SNOWMAN}"}]})
    await store.journal.commit((WriteAudit(told),))
    ((stored, _),) = await store.audit.chain(0, 1)
    assert (
        stored.resource_id
        == stored.action
        == stored.actor.user
        == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    )
    assert (await verified(store.audit)).broken is None


async def test_an_empty_log_holds(store: Store) -> None:
    assert await verified(store.audit) == Verdict(0, "")


@pytest.mark.parametrize(
    "change",
    [
        "action = 'other'",
        "owner = 'bob'",
        "organization = ''",
        "resource = 'x'",
        "resource_id = NULL",
        "metadata = '{}'",
        "metadata = metadata || ' '",
        "created_at = created_at + 1",
        "id = 'other'",
        "digest = 'other'",
    ],
)
async def test_an_entry_that_was_changed_is_named(file: SqliteStore, change: str) -> None:
    made = await written(file, 6)
    await executed(file, f"UPDATE audit_entries SET {change} WHERE number = 4")
    entry_id = "other" if change.startswith("id") else made[3].id
    assert await broken(file) == Break(4, entry_id, f"entry 4 ({entry_id}) was changed")


async def test_an_entry_that_was_replaced_with_its_digest_is_named_with_its_successor(file: SqliteStore) -> None:
    made = await written(file, 6)
    forged = replace(made[3], action="other")
    digest = audit_digest(forged, 4, forged.previous, '{"number":3}')
    await executed(file, f"UPDATE audit_entries SET action = 'other', digest = '{digest}' WHERE number = 4")
    told = f"entry 5 ({made[4].id}) does not follow on entry 4 ({made[3].id}): one of them was replaced"
    assert await broken(file) == Break(5, made[4].id, told)


async def test_a_last_entry_that_was_replaced_with_its_digest_is_named(file: SqliteStore) -> None:
    made = await written(file, 6)
    forged = replace(made[5], action="other")
    digest = audit_digest(forged, 6, forged.previous, '{"number":5}')
    await executed(file, f"UPDATE audit_entries SET action = 'other', digest = '{digest}' WHERE number = 6")
    told = f"entry 6 ({made[5].id}) is not the one that the head tells of: it was replaced"
    assert await broken(file) == Break(6, made[5].id, told)


@pytest.mark.parametrize(
    ("removed", "number", "told"),
    [
        ("number = 1", 1, "entry 1 is missing"),
        ("number = 4", 4, "entry 4 is missing"),
        ("number BETWEEN 3 AND 5", 3, "entries 3–5 are missing"),
        ("number = 6", 6, "the head says 6, but the last entry is 5: entry 6 is missing"),
        ("number > 3", 4, "the head says 6, but the last entry is 3: entries 4–6 are missing"),
        ("number > 0", 1, "the head says 6, but the last entry is 0: entries 1–6 are missing"),
    ],
)
async def test_entries_that_were_taken_out_or_cut_off_are_named(
    file: SqliteStore, removed: str, number: int, told: str
) -> None:
    await written(file, 6)
    await executed(file, f"DELETE FROM audit_entries WHERE {removed}")
    assert await broken(file) == Break(number, None, told)


async def test_a_tail_that_was_cut_off_with_its_head_is_found_by_a_head_that_was_noted(file: SqliteStore) -> None:
    made = await written(file, 6)
    await executed(file, "DELETE FROM audit_entries WHERE number > 4")
    await executed(file, f"UPDATE audit_head SET number = 4, digest = '{made[3].digest}'")
    assert await verified(file.audit) == Verdict(4, made[3].digest)
    assert await verified(file.audit, made[5].digest) == Verdict(4, made[3].digest, None, has_noted=False)
    assert (await verified(file.audit, made[1].digest)).has_noted


@pytest.mark.parametrize("change", ["number = 2", "digest = 'other'"])
async def test_a_head_that_was_changed_is_found(file: SqliteStore, change: str) -> None:
    made = await written(file, 3)
    await executed(file, f"UPDATE audit_head SET {change}")
    found = await broken(file)
    assert (found.number, found.entry_id) == (3, made[2].id)


@pytest.mark.parametrize("number", [0, -5, -(2**63) + 1])
async def test_an_entry_that_was_put_in_before_all_others_is_shown_to_nobody_and_named(
    store: Store, number: int
) -> None:
    made = await written(store, 2)
    columns = "'odd', organization, owner, 'forged', resource, resource_id, metadata, created_at, previous, 'odd'"
    await executed(store, f"INSERT INTO audit_entries SELECT {number}, {columns} FROM audit_entries WHERE number = 1")
    assert await store.audit.page(limit=50) == (made[::-1], 2)
    assert await broken(store) == Break(number, "odd", f"entry {number} (odd) was put in")


@pytest.mark.parametrize("moment", ["'long ago'", "-1", "9223372036854775807", "X'ff00'"])
async def test_a_moment_that_was_made_none_hides_no_other_entry(file: SqliteStore, moment: str) -> None:
    made = await written(file, 2)
    await executed(file, f"UPDATE audit_entries SET created_at = {moment} WHERE number = 2")
    (odd, first), _ = await file.audit.page(limit=50)
    assert (odd, first) == (replace(made[1], created_at=Instant(0)), made[0])
    assert (await broken(file)).number == 2


@pytest.mark.parametrize("column", ["id", "organization", "owner", "action", "resource", "resource_id", "metadata"])
async def test_bytes_where_text_was_hide_no_other_entry(file: SqliteStore, column: str) -> None:
    made = await written(file, 2)
    await executed(file, f"UPDATE audit_entries SET {column} = X'ff00' WHERE number = 2")
    page, _ = await file.audit.page(limit=50)
    assert page[1] == made[0]
    assert json.dumps(asdict(page[0])), "it can be shown"
    assert (await broken(file)).number == 2


@pytest.mark.parametrize("value", ["'x'", "X'ff00'", "2.5"])
async def test_an_entry_whose_number_is_none_any_more_is_named(file: SqliteStore, value: str) -> None:
    made = await written(file, 2)
    await executed(file, f"UPDATE audit_entries SET number = {value} WHERE number = 2")
    found = await broken(file)
    assert (found.number, found.entry_id) == (2, made[1].id)
    assert found.told.startswith("entry 2 is missing, and one has ")


async def test_a_head_whose_number_is_none_any_more_is_told(file: SqliteStore) -> None:
    await written(file, 2)
    await executed(file, "UPDATE audit_head SET number = 'x'")
    assert (await broken(file)).told == "the head says 'x', which is no number"


async def test_every_store_shows_what_was_done_to_it(store: Store) -> None:
    made = await written(store, 6)
    await executed(store, "DELETE FROM audit_entries WHERE number = 6")
    assert (await broken(store)).told == "the head says 6, but the last entry is 5: entry 6 is missing"
    await executed(store, "DELETE FROM audit_entries WHERE number = 4")
    assert (await broken(store)).told == "entry 4 is missing"
    await executed(store, "UPDATE audit_entries SET metadata = 'no JSON' WHERE number = 2")
    assert await broken(store) == Break(2, made[1].id, f"entry 2 ({made[1].id}) was changed")
    assert [one.number for one in (await store.audit.page(limit=10))[0]] == [5, 3, 2, 1]


async def test_a_log_that_grows_while_it_is_verified_holds(store: Store) -> None:
    async def grow() -> None:
        for _ in range(60):
            await store.journal.commit((entry(),))

    growing = asyncio.create_task(grow())
    while not growing.done():
        assert (await verified(store.audit, batch=2)).broken is None
    assert (await verified(store.audit)).count == 60


async def test_the_proof_of_an_entry_is_its_own_row(store: Store) -> None:
    change = entry()
    query = proof((change,), await store.journal.commit((change,)))
    assert query is not None
    assert query.values == {"by_id": change.entry.id}
    assert proof((change,), (Missing(),)) is None
