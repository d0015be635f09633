"""The package: what importing it loads, and that both clients and both names are the same."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import innkeeper.client
import innkeeper.client.exceptions
import innkeeper_client
import innkeeper_client.exceptions
from innkeeper import __version__
from innkeeper.client import AsyncChatServerClient, ChatServerClient

ROOT = Path(__file__).resolve().parents[2]
SLOW = "asyncio ssl socket email.utils http.client logging uuid"


def loaded(program: str) -> set[str]:
    """The modules of a process that has run this."""
    program += "; import sys; print('\\n'.join(sys.modules))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    return set(told.stdout.split())


@pytest.mark.parametrize("package", ["innkeeper.client", "innkeeper_client"])
def test_importing_the_client_loads_no_server_and_nothing_slow(package: str) -> None:
    modules = loaded(f"import sys; before = set(sys.modules); import {package}; [sys.modules.pop(m) for m in before]")
    ours = {name for name in modules if name.split(".")[0] == "innkeeper"}
    assert ours <= {"innkeeper", "innkeeper.version", "innkeeper.client"}
    assert modules.isdisjoint(SLOW.split())
    others = {name.split(".")[0] for name in modules} - sys.stdlib_module_names
    assert others <= {"innkeeper", "innkeeper_client", "__main__"}


def test_making_a_client_loads_httpx2_and_no_server() -> None:
    modules = loaded("import innkeeper_client; innkeeper_client.ChatServerClient().close()")
    assert "httpx2" in modules
    assert "innkeeper" not in modules


@pytest.mark.parametrize("noun", ["", "runs", "sessions", "commands", "tokens", "logs"])
def test_both_clients_can_do_the_same(noun: str) -> None:
    clients = ChatServerClient(base_url="http://127.0.0.1:1"), AsyncChatServerClient(base_url="http://127.0.0.1:1")
    one, other = (getattr(client, noun) if noun else client for client in clients)
    names = [{name for name in dir(owner) if not name.startswith("_")} - {"do", "do_async"} for owner in (one, other)]
    assert names[0] == names[1]
    for name in names[0]:
        if callable(getattr(one, name)):
            signatures = [inspect.signature(getattr(owner, name)) for owner in (one, other)]
            assert signatures[0].parameters == signatures[1].parameters, name
            assert getattr(one, name).__doc__, name
    clients[0].close()


def test_both_names_of_the_package_mean_the_same() -> None:
    for server, alone in (
        (innkeeper.client, innkeeper_client),
        (innkeeper.client.exceptions, innkeeper_client.exceptions),
    ):
        for name in server.__all__:
            assert getattr(server, name) is getattr(alone, name), name
    assert innkeeper.client.__all__ == innkeeper_client.__all__
    assert innkeeper_client.__version__ == __version__


def test_every_public_name_is_told_in_the_documentation() -> None:
    told = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
    nouns = ("runs", "sessions", "commands", "tokens", "logs")
    with ChatServerClient(base_url="http://127.0.0.1:1") as client:
        methods = [name for name in dir(client) if not name.startswith("_") and name != "do"]
        methods += [f"{noun}.{name}" for noun in nouns for name in dir(getattr(client, noun)) if name[0] != "_"]
    for name in (*innkeeper_client.__all__, *methods):
        if name.startswith("__") or name.endswith(".do"):
            continue
        assert re.search(rf"`[^`]*\b{re.escape(name)}\b", told), f"docs/client.md does not tell of {name}"


def test_the_types_are_there_for_checkers() -> None:
    assert (ROOT / "src" / "innkeeper_client" / "py.typed").exists()
