"""The page on moving existing servers names things that exist, and all of those that were documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import innkeeper
from innkeeper.client import ChatServerClient, ChatServerError, CompletionStream

PAGE = Path(__file__).resolve().parents[2] / "docs" / "migrating.md"
ROWS = re.findall(r"^\| (`.+`) \| `([^`]+)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
IMPORTS = [(old.strip("`"), new) for old, new in ROWS if new.startswith("from ")]
MEMBERS = [new for _, new in ROWS if not new.startswith("from ")]
DOCUMENTED = """
Agent ChatRequest ChatResponse MockAgent RequestState RobutlerServer Server ServerBase TokenManager agent_router
create_app create_test_client get_context pricing register_agent session_router stream_router
AdminResponse AuditLogResponse BadRequestError ChatCompletionChoice ChatCompletionRequest ChatCompletionResponse
ChatMessageRecord ChatServerClient ChatServerError ChatSessionDetailResponse ChatSessionListResponse ChatSessionSummary
ForbiddenError InternalServerError Message MessageRole ModelsResponse NotFoundError PlatformStats UnauthorizedError
UsageInfo
DummyEngineCommand DummyEngineStatusUpdate bus
"""

pytestmark = pytest.mark.usefixtures("fresh_process")


@pytest.mark.parametrize(("old", "line"), IMPORTS)
def test_each_documented_name_is_imported_by_the_line_that_the_page_shows(old: str, line: str) -> None:
    found: dict[str, Any] = {}
    exec(line, found)
    name = line.rpartition(" ")[2]
    assert found[name] is not None
    assert name == old.rpartition(".")[2] or old == "robutler.RobutlerServer"


@pytest.mark.parametrize("member", MEMBERS)
def test_each_documented_member_exists(member: str) -> None:
    names: dict[str, object] = {
        "ServerBase": innkeeper.ServerBase,
        "RequestState": innkeeper.RequestState,
        "ChatServerClient": ChatServerClient,
        "ChatServerError": ChatServerError,
        "CompletionStream": CompletionStream,
        "bus": innkeeper.bus,
    }
    owner, _, name = member.rpartition(".")
    assert hasattr(eval(owner, names), name)


def test_every_documented_name_is_on_the_page() -> None:
    assert {old.rpartition(".")[2] for old, _ in IMPORTS} == set(DOCUMENTED.split())
    assert len(MEMBERS) == 25
