"""Commands: the arguments and options of each, as help shows them. What a command does is in a module of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from innkeeper.version import __version__

DEFAULT_URL = "http://127.0.0.1:8000"

cli = typer.Typer(
    name="innkeeper",
    help="Serve AI agents over the protocols that clients already speak.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_TARGETS_HELP = (
    "What to serve: a Python file, an agent's name (agents/NAME.yaml), a folder of such files, or module:attribute."
    " Without any: every agent in agents/."
)
Targets = Annotated[list[str] | None, typer.Argument(metavar="TARGET", help=_TARGETS_HELP, show_default=False)]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings from a YAML file.", show_default=False)
]
EnvFile = Annotated[
    Path | None,
    typer.Option("--env-file", metavar="FILE", help="Variables from this file instead of ./.env.", show_default=False),
]
DataDir = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where state is kept.", show_default=False)]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks, and the text of exceptions to clients.")]
Url = Annotated[str, typer.Option(metavar="URL", envvar="INNKEEPER_URL", help="The server.", show_default=DEFAULT_URL)]
Key = Annotated[
    str | None,
    typer.Option("--api-key", envvar="INNKEEPER_API_KEY", metavar="TOKEN", help="The token, where one is needed."),
]


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"innkeeper {__version__}")
        raise typer.Exit


@cli.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Serve AI agents over the protocols that clients already speak."""


@cli.command()
def serve(
    targets: Targets = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on. [127.0.0.1]", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", "-p", metavar="N", min=0, max=65535, help="Port to listen on; 0 takes a free one. [8000]"
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", "-t", metavar="X", min=0, max=2, help="Overrides the agents' own.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", "-m", metavar="N", min=1, help="Overrides the agents' own.")
    ] = None,
    allowed_modes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODE...",
            help="Serve only these groups of routes: chat agent logs health api platform console. [all]",
            show_default=False,
        ),
    ] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Start anew when a file changes.")] = False,
    config: Config = None,
    env_file: EnvFile = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="debug, info, warning, error or critical. [info]", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    workers: Annotated[int | None, typer.Option(metavar="N", min=1, max=64, help="Processes that serve. [1]")] = None,
    debug: Debug = False,
) -> None:
    """Serve agents until Ctrl-C or SIGTERM."""
    from innkeeper.cli.serve import Order
    from innkeeper.cli.serve import serve as run

    flags = {
        "host": host,
        "port": port,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "allowed_modes": ",".join(allowed_modes) if allowed_modes else None,
        "log_level": log_level,
        "data_dir": data_dir,
        "workers": workers,
        "debug": debug or None,
    }
    run(Order(tuple(targets or ()), flags, config, env_file, reload))


@cli.command()
def chat(
    agent: Annotated[
        str | None, typer.Argument(metavar="AGENT", help="Whom to talk to; the server's default agent.")
    ] = None,
    url: Url = DEFAULT_URL,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on with this session.", show_default=False)
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="The end user on whose behalf to ask.", show_default=False)
    ] = None,
    message: Annotated[
        str | None,
        typer.Option("--message", metavar="TEXT", help="Say this, print the answer and leave.", show_default=False),
    ] = None,
    api_key: Key = None,
) -> None:
    """Talk to an agent of a running server, here in the terminal."""
    from innkeeper.cli.chat import Conversation, ask, talk
    from innkeeper.cli.clients import Connection

    with Connection(url, api_key) as connection:
        conversation = Conversation(connection, agent, session, user)
        raise typer.Exit(talk(conversation) if message is None else ask(conversation, message))


@cli.command()
def agents(
    targets: Targets = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Ask this running server instead.", show_default=False)
    ] = None,
    config: Config = None,
    env_file: EnvFile = None,
    api_key: Key = None,
    debug: Debug = False,
) -> None:
    """List agents: of targets, or of a running server."""
    from innkeeper.cli.agents import show_served, show_targets

    if url is not None:
        show_served(url, api_key)
    else:
        show_targets(targets or [], config, env_file, debug=debug)


@cli.command()
def migrate(
    config: Config = None,
    env_file: EnvFile = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Bring the tables of the store (DATABASE_URL) up to date."""
    from innkeeper.cli.migrate import migrate as run
    from innkeeper.config import use_command_line

    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    run()


@cli.command("config")
def show_config(
    config: Config = None,
    env_file: EnvFile = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every setting and where it comes from; of secrets only whether they are set."""
    from innkeeper.cli.settings import show_settings

    show_settings(config, env_file, as_json=json)


def mount_tokens() -> None:
    """Add `innkeeper tokens`, likewise."""
    from innkeeper.cli import tokens

    cli.add_typer(tokens.app, name="tokens")


def mount_audit() -> None:
    """Add `innkeeper audit`, likewise."""
    from innkeeper.cli import audit

    cli.add_typer(audit.app, name="audit")


def mount_credits() -> None:
    """Add `innkeeper credits` and `innkeeper usage`, likewise."""
    from innkeeper.cli import credits, usage

    cli.add_typer(credits.app, name="credits")
    cli.add_typer(usage.app, name="usage")


def mount_users() -> None:
    """Add `innkeeper users`, likewise."""
    from innkeeper.cli import users

    cli.add_typer(users.app, name="users")


def mount_runs() -> None:
    """Add `innkeeper runs`, likewise."""
    from innkeeper.cli import runs

    cli.add_typer(runs.app, name="runs")


def mount_models() -> None:
    """Add `innkeeper models`, which is kept out of the way of the other commands' start."""
    from innkeeper.cli import models

    cli.add_typer(models.app, name="models")
