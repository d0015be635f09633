"""`innkeeper runs`: what agents did, read in the store itself, beside a server or without one, and kept as tests."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from innkeeper.cli.commands import Config, DataDir, Debug, EnvFile
from innkeeper.cli.stores import with_store
from innkeeper.cli.tables import show
from innkeeper.config import use_command_line
from innkeeper.core.errors import Invalid, RunNotFound, SessionNotFound, SetupError
from innkeeper.core.events import shown_usage
from innkeeper.core.identity import Caller, Role
from innkeeper.core.runs import Run, RunStatus
from innkeeper.core.times import isoformat

if TYPE_CHECKING:
    from innkeeper.wiring import Store

T = TypeVar("T")

_PAGE = 200
_HEAD = ("RUN", "AGENT", "SESSION", "USER", "STATUS", "BEGUN", "STEPS", "TOKENS")

app = typer.Typer(
    name="runs",
    help="See what agents did, and keep a run as a test.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="The run, as answers and lists name it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_runs(
    session: Annotated[str | None, typer.Option(metavar="ID", help="Of this session.", show_default=False)] = None,
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="Of this agent.", show_default=False)] = None,
    status: Annotated[
        RunStatus | None, typer.Option(metavar="STATUS", help="In this state, such as failed.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most this many.", show_default=True)] = 50,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """List runs, newest first."""
    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    runs = _with_store(lambda store: _newest(store, session, agent, status, limit))
    if as_json:
        print(json.dumps([_told(run) for run in runs], indent=2, ensure_ascii=False))
        return
    show(_HEAD, [_row(run) for run in runs])


@app.command("show")
def show_run(
    run_id: RunId, config: Config = None, env_file: EnvFile = None, data_dir: DataDir = None, debug: Debug = False
) -> None:
    """Show a run as JSON, with what was said in it."""
    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    run = _with_store(lambda store: store.runs.find(_reader(), run_id))
    if run is None:
        raise RunNotFound(f"Run {run_id!r} does not exist.", param="run_id")
    said = {"input": [message.as_dict() for message in run.input], "output": run.output}
    print(json.dumps({**_told(run), **said}, indent=2, ensure_ascii=False))


@app.command("export")
def export_run(
    run_id: RunId,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to; - prints it. [RUN_ID.json]", show_default=False),
    ] = None,
    test: Annotated[bool, typer.Option("--test", help="Write a test for pytest beside it.")] = False,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET", help="With --test: where the agent is, as for serve. [that of serve]", show_default=False
        ),
    ] = None,
    config: Config = None,
    env_file: EnvFile = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Write a run that has ended to one JSON file, without what looks like a credential."""
    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    is_printed = output is not None and str(output) == "-"
    if test and is_printed:
        raise Invalid("--test: needs a file to stand beside; name it with -o.")
    if target is not None and not test:
        raise Invalid("--target: says where the agent of --test is; give both.")
    recording = _with_store(lambda store: _recording(store, run_id))
    text = json.dumps(recording, indent=2, ensure_ascii=False) + "\n"
    if is_printed:
        sys.stdout.write(text)
        return
    file = output or Path(f"{run_id}.json")
    case = _test_beside(file) if test else None
    if case is not None and case.exists():
        raise SetupError(f"{case} exists, and may have been edited; remove it, or choose another file with -o.")
    _write(file, text)
    if case is not None:
        _write(case, _test_of(file, target))
    print(f"Wrote {' and '.join(str(one) for one in (file, case) if one is not None)}.", file=sys.stderr)


def _with_store(work: Callable[[Store], Awaitable[T]]) -> T:
    return with_store(lambda settings, store: work(store))


def _reader() -> Caller:
    """Who runs this command sees what is in the store."""
    from innkeeper.cli.operators import operator

    return Caller(operator(), Role.ADMIN)


async def _newest(
    store: Store, session: str | None, agent: str | None, status: RunStatus | None, limit: int
) -> list[Run]:
    reader, key = _reader(), None
    if session is not None:
        found = await store.sessions.find(reader, session)
        if found is None:
            raise SessionNotFound(f"Session {session!r} does not exist.", param="session")
        key = found.key
    runs: list[Run] = []
    has_more = True
    while has_more and len(runs) < limit:
        page, has_more = await store.runs.page(
            reader,
            limit=min(_PAGE, limit - len(runs)),
            after=runs[-1].id if runs else None,
            session_key=key,
            agent_name=agent,
            status=status,
        )
        runs += page
    return runs


async def _recording(store: Store, run_id: str) -> dict[str, Any]:
    from innkeeper.services.recordings import Recordings

    return await Recordings(runs=store.runs, sessions=store.sessions).of(_reader(), run_id)


def _row(run: Run) -> tuple[str, ...]:
    begun = isoformat(run.created_at)[:19] + "Z"
    tokens = "-" if run.usage is None else str(run.usage.total_tokens)
    return run.id, run.agent_name, run.session_id, run.user_id, run.status.value, begun, str(run.steps), tokens


def _told(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "agent_name": run.agent_name,
        "session_id": run.session_id,
        "organization": run.owner.organization,
        "owner": run.owner.user,
        "user_id": run.user_id,
        "endpoint": run.endpoint,
        "status": run.status.value,
        "created_at": isoformat(run.created_at),
        "ended_at": None if run.ended_at is None else isoformat(run.ended_at),
        "steps": run.steps,
        "usage": shown_usage(run.usage),
        "error": None if run.error is None else {"code": run.error.code, "message": run.error.message},
    }


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SetupError(f"{file} cannot be written: {error.strerror}.") from error


def _test_beside(file: Path) -> Path:
    return file.with_name(f"test_{_word(file)}.py")


def _word(file: Path) -> str:
    """The file's name as part of a function's."""
    return re.sub(r"[^a-z0-9]+", "_", file.stem.lower()).strip("_") or "run"


def _test_of(file: Path, target: str | None) -> str:
    return f'''"""A run as `innkeeper runs export --test` wrote it down, and whether its agent still does the same."""

from pathlib import Path

from innkeeper.testing import agent_of, recorded

RECORDING = recorded(Path(__file__).with_name({_quoted(file.name)}))


def test_{_word(file)}() -> None:
    RECORDING.check(agent_of({"None" if target is None else _quoted(target)}, RECORDING.agent_name))
'''


def _quoted(text: str) -> str:
    return json.dumps(text)
