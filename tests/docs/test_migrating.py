"""The page on moving existing servers names things that exist, and all of those that were documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import innkeeper
from innkeeper.client import ChatServerClient, ChatServerError, CompletionStream
from innkeeper.config import Settings
from innkeeper.http.dispatching import Dispatcher
from innkeeper.http.problems import CODES, PROBLEMS
from innkeeper.yaml_keys import YAML_KEYS

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


# Paths, fields, flags, variables, headers and errors of the five documentations, as they spell them.
SPELLED = """
POST_/chat POST_/inject GET_/agents GET_/agents/{name} GET_/agents/{name}/workspace GET_/agents/{name}/workspace/{path}
POST_/sessions GET_/sessions GET_/sessions/{session_id} DELETE_/sessions/{session_id} GET_/stream WS_/ws/chat
agent_name input session_id stream output message status injected name model description tools max_steps metadata id
messages role content created_at type text done X-API-Key
POST_/{agent-name}/chat/completions GET_/{agent-name}/chat/completions POST_/{agent-name} GET_/{agent-name}
stream context request agent_data run run_streamed stream_events function_tool credits_per_request credits_per_token
max_credits track_usage credits reason usage total_credits original_response StreamingWrapper StreamingResponse object
created choices index delta finish_reason prompt_tokens completion_tokens total_tokens get_duration before_request
finalize_request OPENAI_API_KEY OPENAI_BASE_URL OPENAI_ORGANIZATION python-dotenv
oai-agent-server oai_agent_server.main --port -p --host --temperature -t --max-tokens -m --allowed-modes
AGENT_AUTH_ENABLED FORCE_AUTH AGENT_REINITIALIZE DB_LOGGING_ENABLED LOGGING_DB_HOST LOGGING_DB_PORT LOGGING_DB_NAME
LOGGING_DB_USER LOGGING_DB_PASSWORD REDIS_HOST REDIS_PORT POST_/chat/stream POST_/chat/with-files
POST_/chat/stream/with-files POST_/agent/initialize GET_/agent/info POST_/restart POST_/kill GET_/logs
GET_/logs/sessions/{session_id} GET_/logs/stats GET_/logs/stats/users GET_/health GET_/status GET_/prompts user_id
api-token api_token x-api-key Authorization
POST_/api/sessions GET_/api/sessions/{session_id} DELETE_/api/sessions/{session_id}
POST_/api/sessions/{session_id}/commands GET_/api/sessions/{session_id}/commands/{command_id}
POST_/api/sessions/{session_id}/commands/batch POST_/api/sessions/{session_id}/events
GET_/api/sessions/{session_id}/events GET_/api/sessions/{session_id}/events/{event_id}
WS_/api/sessions/{session_id}/events/stream POST_/api/engines GET_/api/engines GET_/api/engines/{engine_id}
DELETE_/api/engines/{engine_id} POST_/api/engines/{engine_id}/execute POST_/api/sessions/{session_id}/tools
GET_/api/sessions/{session_id}/tools POST_/api/sessions/{session_id}/tools/{tool_name}/execute
DELETE_/api/sessions/{session_id}/tools/{tool_name} POST_/api/sessions/{session_id}/handlers/commands
POST_/api/sessions/{session_id}/handlers/events DELETE_/api/sessions/{session_id}/handlers/commands/{command_type}
DELETE_/api/sessions/{session_id}/handlers/events/{event_type} GET_/api/observability/logs POST_/api/observability/logs
GET_/api/observability/metrics GET_/api/observability/traces/{trace_id} GET_/api/health GET_/api/status GET_/api/config
POST_/api/shutdown /docs /redoc /openapi.json command_type parameters priority timeout command_id result error commands
event_type data event_id limit offset engine_type model_name configuration engine_id prompt function_code arguments
handler_function level timestamp version uptime code details field issue request_id X-Session-Token
VALIDATION_ERROR SESSION_NOT_FOUND ENGINE_NOT_FOUND COMMAND_EXECUTION_FAILED TOOL_NOT_FOUND HANDLER_NOT_FOUND
INTERNAL_ERROR API_HOST API_PORT API_WORKERS DATABASE_URL LOG_LEVEL LOG_FILE API_KEY_SECRET CORS_ORIGINS ENABLE_METRICS
ENABLE_TRACING server.host server.port server.workers database.url logging.level logging.file security.api_key_secret
security.cors_origins observability.enable_metrics observability.enable_tracing
api_key base_url temperature max_tokens top_p user system_prompt organization_id workflow variables allowed_tools
setting_sources mcp_servers page page_size workos_id email admins count SYSTEM USER ASSISTANT system_fingerprint title
agent_type updated_at last_message_at message_count tokens_in tokens_out tokens_total archived sessions total has_more
session total_users active_users total_requests entries action resource
""".split()  # noqa: SIM905 - a list of two hundred literals is none the clearer


def test_every_path_field_flag_variable_and_error_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    missing = [
        symbol
        for symbol in SPELLED
        if not re.search(rf"(?<![\w/]){re.escape(symbol.replace('_/', ' /', 1))}(?![\w/])", text)
    ]
    assert not missing


def test_every_path_on_the_page_is_served() -> None:
    dispatcher = innkeeper.create_app().router.default
    assert isinstance(dispatcher, Dispatcher)
    routes: list[Any] = list(dispatcher.routes)
    served = {
        (method, re.sub(r"\{[^}]*\}", "{}", route.path))
        for route in routes
        for method in getattr(route, "methods", ("WS",))
    }
    named = re.findall(r"`(GET|POST|DELETE|WS) (/[^`]*)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 60
    assert not {(method, path) for method, path in named if (method, re.sub(r"\{[^}]*\}", "{}", path)) not in served}


def test_every_variable_and_every_key_on_the_page_is_a_setting() -> None:
    text = PAGE.read_text(encoding="utf-8")
    variables = {str(field.validation_alias) for field in Settings.model_fields.values()}
    rows = re.findall(r"^\| ((?:`[A-Z]+(?:_[A-Z]+)+`,? ?)+) \|(?: (`[\w.]+`(?:, `[\w.]+`)*) \|)?", text, re.MULTILINE)
    named = {name for names, _ in rows for name in re.findall(r"`(\w+)`", names)}
    others = {"OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORGANIZATION", "AGENT_REINITIALIZE"}
    others |= {"POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"} | {problem.code for problem in PROBLEMS.values()}
    assert not named - variables - others - {problem.code for problem in CODES.values()} - {"INTERNAL_ERROR"}
    for section, key in (name.split(".") for _, names in rows for name in re.findall(r"`([\w.]+)`", names)):
        assert key in YAML_KEYS[section]
