"""The OpenAPI document against its server: whatever a client may send by it, the answer is one that it tells of.

Schemathesis makes the requests out of `/openapi.json`, over HTTP and with an admin's token; nothing is left out but
`POST /api/shutdown`, `/restart` and `/kill`, which would end the server. The agent answers at once, so that no stream
is waited for.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.servers import ServerFactory, clean_environment
from tests.support.sizes import IS_FULL, sized

AGENTS = """
from innkeeper import register_agent

async def echo(messages):
    \"\"\"Says what it heard.\"\"\"
    yield "You said: "
    yield str(messages[-1]["content"])

register_agent("echo", echo)
"""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "use_after_free",
    "ensure_resource_availability",
)
PHASES = "examples,coverage,fuzzing,stateful" if IS_FULL else "examples,fuzzing,stateful"
EXAMPLES = sized(30, 3)
CASES = sized(2000, 200)

Json = dict[str, Any]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", ["sqlite", "postgres"] if IS_FULL else ["sqlite"])
def test_every_answer_is_one_that_the_document_tells_of(
    innkeeper_server: ServerFactory, tmp_path: Path, request: pytest.FixtureRequest, store: str
) -> None:
    if store == "sqlite":
        _examined(innkeeper_server, tmp_path, {})
        return
    server = request.getfixturevalue("postgres_url")
    with a_copy_of(a_migrated_database(server), server) as url:
        _examined(innkeeper_server, tmp_path, {"DATABASE_URL": url})


def _examined(innkeeper_server: ServerFactory, folder: Path, store: dict[str, str]) -> None:
    environment = {**store, "FORCE_AUTH": "true", "CODE_EXECUTION": "monty", "RATE_LIMIT_USER": "off"}
    token = _a_token(clean_environment(innkeeper_server.folder / "data", environment))
    server = innkeeper_server(innkeeper_server.write("agents.py", AGENTS), env=environment)
    document = folder / "openapi.json"
    document.write_text(json.dumps(_strict(server.url, token)))
    told, report = _schemathesis(document, server.url, token, folder)
    assert report["exit_code"] == 0, f"{told}\n{server.log[-5000:]}"
    assert (report["failures"], report["errors"]) == ([], []), told
    operations, cases = report["operations"], report["test_cases"]
    assert operations["tested"] == operations["selected"] == operations["total"] - 3, operations
    assert cases["generated"] >= CASES, cases
    assert "Traceback" not in server.log
    assert server.terminate() == 0


def _a_token(environment: dict[str, str]) -> str:
    """What `innkeeper tokens create` prints."""
    command = [sys.executable, "-m", "innkeeper", "tokens", "create", "--role", "admin", "--scope", "code"]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return made.stdout.strip()


def _strict(url: str, token: str) -> Json:
    """The document without its `default` answers, which would excuse any status."""
    answer = httpx2.get(f"{url}/openapi.json", headers={"authorization": f"Bearer {token}"}, timeout=20)
    document: Json = answer.raise_for_status().json()
    for operations in document["paths"].values():
        for operation in operations.values():
            del operation["responses"]["default"]
    return document


def _schemathesis(document: Path, url: str, token: str, folder: Path) -> tuple[str, Json]:
    """What it prints, and its report."""
    options = ["--url", url, "--header", f"Authorization: Bearer {token}"]
    options += ["--exclude-path-regex", "^/(api/shutdown|restart|kill)$"]
    options += ["--checks", ",".join(CHECKS), "--phases", PHASES, "--max-examples", str(EXAMPLES)]
    options += [
        "--generation-with-security-parameters",
        "false",
        "--generation-deterministic",
        "--no-shrink",
        "--no-color",
    ]
    options += ["--continue-on-failure", "--request-timeout", "20", "--warnings", "off"]
    options += ["--report", "json", "--report-json-path", str(folder / "report.json")]
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(document), *options]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=800)
    assert ended.returncode in (0, 1), ended.stderr or ended.stdout
    report: Json = json.loads((folder / "report.json").read_text())
    return f"{ended.stdout}\n{ended.stderr}", report
