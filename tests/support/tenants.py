"""Tenants: callers that fill a server with everything there is, marked by a text of their own, and what they see of it.

The text, a *canary*, stands wherever a client may say something, and in no id, so that who echoes an id tells nothing.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
from websockets.sync.client import connect

from innkeeper.config import Settings
from innkeeper.core.actions import Action
from innkeeper.core.agents import AgentDescription
from innkeeper.core.context import RunContext
from innkeeper.core.events import AgentEvent, Paused, ToolCalled
from innkeeper.core.runs import Turn
from tests.support.inns import Inn
from tests.support.tokens import a_token

Json = dict[str, Any]
_IDS = re.compile(r"(^|_)(id|key|next)$")
_ENOUGH = 5
"""Ids of requests, of which each request makes one."""
_PAGES = (
    "/sessions", "/runs", "/api/sessions", "/api/engines", "/api/observability/logs", "/credits/records",
    "/credits/usage", "/logs", "/actions", "/v1/files", "/v1/chat/sessions",
)  # fmt: skip


@dataclass
class Tenant:
    """One caller. `ids` are all that its answers told, by what they were called there."""

    inn: Inn
    user: str
    organization: str
    token: str
    canary: str = field(default_factory=lambda: f"kanari-{secrets.token_hex(16)}")
    ids: dict[str, list[str]] = field(default_factory=dict)
    room: str = ""
    running: str = ""

    @classmethod
    def of(cls, inn: Inn, settings: Settings, user: str, organization: str, **token: Any) -> Tenant:
        return cls(inn, user, organization, a_token(settings, user, organization=organization, **token).text)

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.inn.url, headers=self.headers, timeout=20, trust_env=False)

    def learn(self, answer: httpx2.Response) -> Any:
        """The answer's JSON, of which all ids are noted."""
        assert answer.is_success, f"{answer.request.method} {answer.request.url}: {answer.text}"
        told = answer.json()
        for name in ("x-run-id", "x-request-id"):
            if name in answer.headers:
                self._note(name.removeprefix("x-").replace("-", "_"), answer.headers[name])
        for name, value in _leaves(told):
            if _IDS.search(name) and self.canary not in value:
                self._note(name, value)
        return told

    def _note(self, name: str, value: str) -> None:
        known = self.ids.setdefault(name, [])
        if value not in known and (name != "request_id" or len(known) < _ENOUGH):
            known.append(value)

    def everything(self, http: httpx2.Client) -> Json:
        """All that it sees of its own, by path; what changes by itself is left out."""
        told: Json = {}
        for path in _PAGES:
            answer = http.get(path)
            if answer.status_code != 404:
                told[path] = self.learn(answer)
        paths = [f"/runs/{run['id']}" for run in told["/runs"]["runs"]]
        for session in told["/sessions"]["sessions"]:
            within = f"/api/sessions/{session['id']}"
            paths += [f"/sessions/{session['id']}", f"{within}/events?limit=200", f"{within}/tools"]
            paths += [f"{within}/handlers/commands", f"{within}/handlers/events"]
            paths += [f"/sessions/{session['id']}/workspace", f"/v1/chat/sessions/{session['id']}"]
        told |= {path: self.learn(http.get(path)) for path in paths}
        paths = [f"/injections/{one}" for one in self.ids.get("injection_id", ())]
        paths += [f"/v1/responses/{one}" for one in self.ids.get("response_id", ())]
        for one in self.ids.get("conversation_id", ()):
            paths += [f"/v1/conversations/{one}", f"/v1/conversations/{one}/items"]
        told |= {path: self.learn(http.get(path)) for path in paths}
        return {path: value for path, value in told.items() if not path.endswith("logs")}


def _leaves(told: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in an answer, with the name of what it stands in."""
    if isinstance(told, dict):
        for key, value in told.items():
            yield from _leaves(value, key)
    elif isinstance(told, list):
        for value in told:
            yield from _leaves(value, name)
    elif isinstance(told, str):
        yield name, told


class Asking:
    """The agent `asking`, which waits for people; what it asks about is what it was told."""

    def describe(self) -> AgentDescription:
        return AgentDescription("asking")

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent | str]:
        if turn.continuation is None:
            call_id, arguments = f"call_{secrets.token_hex(8)}", json.dumps({"text": turn.prompt})
            yield ToolCalled("do", call_id, arguments)
            yield Paused((Action(call_id, "approval", "do", arguments),), turn.prompt)
        else:
            yield turn.continuation.state


def fill(tenant: Tenant) -> None:
    """Everything that there is to make, with the canary in it; one run stays under way."""
    with tenant.client() as http:
        _talk(tenant, http)
        _control(tenant, http)
        _engine(tenant, http)
        _under_way(tenant, http)
        _responses(tenant, http)
        _files(tenant, http)
        _paused(tenant, http)
        tenant.everything(http)
    tenant._note("user_id", tenant.user)
    tenant._note("organization_id", tenant.organization)


def _talk(tenant: Tenant, http: httpx2.Client) -> None:
    canary, key = tenant.canary, f"key-{secrets.token_hex(8)}"
    tenant.room = f"room-{secrets.token_hex(8)}"
    tenant._note("idempotency_key", key)
    tenant._note("session_id", tenant.room)
    made = {"id": tenant.room, "title": canary, "metadata": {"note": canary}}
    tenant.learn(http.post("/sessions", json=made))
    tenant.learn(http.post(f"/sessions/{tenant.room}/messages", json={"role": "user", "content": canary}))
    turn = {"input": f"Hear {canary}", "session_id": tenant.room, "metadata": {"note": canary}}
    tenant.learn(http.post("/chat", json=turn, headers={"idempotency-key": key}))
    trace_id = secrets.token_hex(16)
    traced = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
    assert tenant.learn(http.post("/chat", json={"input": canary}, headers=traced))["trace_id"] == trace_id
    completion = {"model": "echo", "messages": [{"role": "user", "content": canary}], "metadata": {"note": canary}}
    tenant.learn(http.post("/v1/chat/completions", json=completion))
    with connect(f"{tenant.inn.url.replace('http', 'ws', 1)}/ws/chat", additional_headers=tenant.headers) as socket:
        socket.send(json.dumps({"input": canary, "session_id": f"socket-{secrets.token_hex(8)}"}))
        while (event := json.loads(socket.recv(20)))["type"] != "done":
            pass
        tenant._note("run_id", event["run_id"])


def _control(tenant: Tenant, http: httpx2.Client) -> None:
    canary = tenant.canary
    tenant.learn(http.post("/api/sessions", json={"name": canary, "metadata": {"note": canary}}))
    within = f"/api/sessions/{tenant.room}"
    asked = {"command_type": "DummyEngineCommand", "parameters": {"prompt": canary}, "metadata": {"note": canary}}
    tenant.learn(http.post(f"{within}/commands", params={"wait": 20}, json=asked))
    tenant.learn(http.post(f"{within}/commands/batch", json={"commands": [asked]}))
    tenant.learn(http.post(f"{within}/events", json={"event_type": "Said", "data": {"note": canary}}))
    name = f"tool_{secrets.token_hex(8)}"
    tool = {
        "name": name,
        "description": canary,
        "parameters": {},
        "function_code": f"def {name}():\n  return '{canary}'",
    }
    tenant.learn(http.post(f"{within}/tools", json=tool))
    tenant._note("tool_name", name)
    source = f"async def handle(command):\n  return '{canary}'"
    handler = {"command_type": "Mine", "handler_function": source}
    tenant.learn(http.post(f"{within}/handlers/commands", json=handler))
    asked = {"command_type": "Mine", "parameters": {}}
    done = tenant.learn(http.post(f"{within}/commands", params={"wait": 20}, json=asked))
    assert done["result"] == canary, done
    record = {"level": "error", "message": canary, "metadata": {"note": canary}, "session_id": tenant.room}
    tenant.learn(http.post("/api/observability/logs", json=record))


def _engine(tenant: Tenant, http: httpx2.Client) -> None:
    made = {"engine_type": "DummyEngine", "configuration": {"variables": {"note": tenant.canary}}}
    engine = tenant.learn(http.post("/api/engines", json=made))
    tenant.learn(http.post(f"/api/engines/{engine['engine_id']}/execute", json={"prompt": tenant.canary}))


def _under_way(tenant: Tenant, http: httpx2.Client) -> None:
    """A run that goes on, with a message for it, and a message that waits."""
    prompt = f"conduct {tenant.canary}"
    performance = tenant.inn.conduct(prompt)
    performance.say(tenant.canary)
    turn = {"agent_name": "conducted", "input": prompt, "background": True}
    tenant.running = tenant.learn(http.post("/chat", json=turn))["run_id"]
    assert performance.began.wait(20)
    tenant.learn(http.post("/inject", json={"message": tenant.canary, "run_id": tenant.running}))
    waiting = {"message": tenant.canary, "session_id": tenant.room}
    tenant.learn(http.post("/inject", json=waiting))


def _responses(tenant: Tenant, http: httpx2.Client) -> None:
    canary = tenant.canary
    said = {"type": "message", "role": "user", "content": canary}
    made = tenant.learn(http.post("/v1/conversations", json={"items": [said], "metadata": {"note": canary}}))
    tenant._note("conversation_id", made["id"])
    tenant._note("conversation", made["id"])
    asked = {"model": "echo", "input": canary, "metadata": {"note": canary}, "conversation": made["id"]}
    told = tenant.learn(http.post("/v1/responses", json=asked))
    for name in ("response_id", "previous_response_id"):
        tenant._note(name, told["id"])
    for item in tenant.learn(http.get(f"/v1/conversations/{made['id']}/items"))["data"]:
        tenant._note("item_id", item["id"])


def _files(tenant: Tenant, http: httpx2.Client) -> None:
    canary = tenant.canary
    upload = (f"{canary}.txt", canary.encode(), "text/plain")
    made = tenant.learn(http.post("/v1/files", files={"file": upload}, data={"purpose": "user_data"}))
    tenant._note("file_id", made["id"])
    talk = {"message": canary, "agent_name": "echo", "session_id": f"files-{secrets.token_hex(8)}"}
    tenant.learn(http.post("/chat/with-files", data=talk, files={"files": upload}))
    path = f"notes/{secrets.token_hex(8)}.txt"
    tenant._note("path", path)
    tenant.learn(http.put(f"/sessions/{tenant.room}/workspace/{path}", content=canary.encode()))


def _paused(tenant: Tenant, http: httpx2.Client) -> None:
    told = tenant.learn(http.post("/chat", json={"agent_name": "asking", "input": tenant.canary}))
    assert told["status"] == "requires_action"
    tenant._note("action_run_id", told["run_id"])
    tenant._note("action_id", told["actions"][0]["id"])
    tenant.learn(http.get(f"/runs/{told['run_id']}/actions"))
