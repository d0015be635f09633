"""`innkeeper audit`: read the audit log and verify its chain, in the store itself, beside a server or without one."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated

import typer

from innkeeper.cli.commands import Config, DataDir, Debug, EnvFile
from innkeeper.cli.failures import FAILED
from innkeeper.cli.stores import with_store
from innkeeper.cli.tables import show
from innkeeper.config import use_command_line
from innkeeper.core.audit import AuditEntry
from innkeeper.core.errors import Invalid
from innkeeper.core.times import isoformat

if TYPE_CHECKING:
    from innkeeper.ports.accounts import AuditReader

_DIGEST = re.compile(r"[0-9a-f]{64}")
_HEAD = ("NUMBER", "TIME", "USER", "ORGANIZATION", "ACTION", "RESOURCE", "ID")
_PAGE = 500

app = typer.Typer(
    name="audit",
    help="Read the audit log, and see whether it is as it was written.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("verify")
def verify(
    head: Annotated[
        str | None,
        typer.Option(
            metavar="DIGEST", help="A head that was noted earlier and must still be in the chain.", show_default=False
        ),
    ] = None,
    config: Config = None,
    env_file: EnvFile = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Walk the whole chain; name the first broken link, or print the head, to be noted elsewhere."""
    from innkeeper.services.audit_chain import verified

    if head is not None and _DIGEST.fullmatch(head) is None:
        raise Invalid("--head: must be a digest of 64 hexadecimal digits, as innkeeper audit verify prints it.")
    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    verdict = with_store(lambda settings, store: verified(store.audit, head))
    if verdict.broken is not None:
        print(f"The chain is broken: {verdict.broken.told}. What stands before holds: {_counted(verdict.count)}.")
    elif not verdict.has_noted:
        print(f"The chain was written anew: of {_counted(verdict.count)} none has the digest that was noted.")
    else:
        print(f"The chain holds: {_counted(verdict.count)}.")
        if verdict.count:
            print(f"Head: {verdict.head}")
        return
    raise typer.Exit(FAILED)


@app.command("list")
def list_entries(
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most this many.", show_default=True)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all that an entry says.")] = False,
    config: Config = None,
    env_file: EnvFile = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """List entries, newest first."""
    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    entries = with_store(lambda settings, store: _newest(store.audit, limit))
    if as_json:
        print(json.dumps([_told(entry) for entry in entries], indent=2, ensure_ascii=False))
        return
    show(_HEAD, [_row(entry) for entry in entries])


def _counted(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


async def _newest(audit: AuditReader, limit: int) -> list[AuditEntry]:
    found: list[AuditEntry] = []
    while len(found) < limit:
        page, _ = await audit.page(limit=min(_PAGE, limit - len(found)), offset=len(found))
        if not page:
            break
        found += page
    return found


def _row(entry: AuditEntry) -> tuple[str, ...]:
    moment = isoformat(entry.created_at)[:19] + "Z"
    actor = entry.actor
    cells = (actor.user or "-", actor.organization or "-", entry.action, entry.resource, entry.resource_id or "-")
    return str(entry.number), moment, *cells


def _told(entry: AuditEntry) -> dict[str, object]:
    return {
        "number": entry.number,
        "id": entry.id,
        "timestamp": isoformat(entry.created_at),
        "user_id": entry.actor.user or None,
        "org_id": entry.actor.organization or None,
        "action": entry.action,
        "resource": entry.resource,
        "resource_id": entry.resource_id,
        "metadata": dict(entry.metadata),
        "digest": entry.digest,
    }
