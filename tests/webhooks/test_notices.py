"""What a webhook says, and how its receiver knows who said it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from innkeeper.core.errors import SetupError
from innkeeper.core.runs import Run, RunError, RunStatus
from innkeeper.services.webhooks import notice, signed, signing_key
from tests.support.documents import fences

PAGE = Path(__file__).resolve().parents[2] / "docs" / "surfaces.md"


def test_notice_tells_what_became_of_the_run(run: Run) -> None:
    assert json.loads(notice(run)) == {
        "type": "run.ended",
        "timestamp": "1970-01-01T00:00:02.250000Z",
        "data": {
            "id": "run_1",
            "agent_name": "assistant",
            "session_id": "s1",
            "status": "completed",
            "output": "Grüße",
            "usage": {"input_tokens": 4, "output_tokens": 3, "total_tokens": 7},
            "error": None,
            "background": True,
            "attempt": 1,
            "created_at": "1970-01-01T00:00:01.000000Z",
            "started_at": "1970-01-01T00:00:01.500000Z",
            "ended_at": "1970-01-01T00:00:02.250000Z",
            "metadata": {"b": 1, "a": [None]},
        },
    }


def test_notice_of_a_run_that_failed_before_it_began_tells_why_and_invents_nothing(run: Run) -> None:
    failed = replace(
        run,
        status=RunStatus.FAILED,
        output=None,
        usage=None,
        started_at=None,
        error=RunError("RATE_LIMITED", "The session stayed busy."),
    )
    data = json.loads(notice(failed))["data"]
    assert (data["status"], data["error"]) == (
        "failed",
        {"code": "RATE_LIMITED", "message": "The session stayed busy."},
    )
    assert (data["output"], data["usage"], data["started_at"]) == (None, None, None)


def test_notice_of_the_same_run_is_the_same_bytes_whatever_is_in_it(run: Run) -> None:
    strange = replace(run, output="lone \ud800 and \x00", metadata={"n": float("nan"), "é": "☃"})
    assert notice(strange) == notice(replace(strange))
    data = json.loads(notice(strange))["data"]
    assert (data["output"], data["metadata"]) == ("lone \ud800 and \x00", {"n": None, "é": "☃"})


def test_notice_has_the_fields_that_the_page_shows(run: Run) -> None:
    shown = next(json.loads(fence.text) for fence in fences(PAGE) if '"run.ended"' in fence.text)
    told = json.loads(notice(run))
    assert list(shown) == list(told)
    assert list(shown["data"]) == list(told["data"])


def test_signature_is_that_of_the_standard_webhooks_specification() -> None:
    headers = signed(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.fixture(scope="module")
def is_genuine() -> Callable[[str, dict[str, str], bytes], bool]:
    """The receiver's part, as the page tells it."""
    names: dict[str, Any] = {}
    exec(next(fence.text for fence in fences(PAGE) if fence.file == "verifying.py"), names)
    verify: Callable[[str, dict[str, str], bytes], bool] = names["is_genuine"]
    return verify


@pytest.mark.parametrize("secret", ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "correct horse", "Schlüssel", "whsec"])
def test_page_shows_how_to_verify_and_nothing_else_is_genuine(
    is_genuine: Callable[[str, dict[str, str], bytes], bool], run: Run, secret: str
) -> None:
    now, body = int(time.time()), notice(run)
    headers = signed(secret, "msg_1", now, body)
    assert is_genuine(secret, headers, body)
    assert is_genuine(secret, {**headers, "webhook-signature": "v1,AAAA " + headers["webhook-signature"]}, body)
    assert not is_genuine(secret, headers, body + b" ")
    assert not is_genuine(secret, {**headers, "webhook-id": "msg_2"}, body)
    assert not is_genuine(secret, {**headers, "webhook-timestamp": str(now + 1)}, body)
    assert not is_genuine(secret, {**headers, "webhook-signature": "v1,ü"}, body)
    assert not is_genuine("another", headers, body)
    assert not is_genuine(secret, signed(secret, "msg_1", now - 301, body), body)


@pytest.mark.parametrize("secret", [None, ""])
def test_without_a_secret_there_are_no_webhooks(secret: str | None) -> None:
    with pytest.raises(SetupError, match=r"set webhook_secret \(WEBHOOK_SECRET\)"):
        signing_key(secret)


@pytest.mark.parametrize("encoded", ["", "abc", "not base64", "ü", "====", "\ud800"])
def test_a_secret_that_is_cut_off_is_an_error_that_does_not_show_it(encoded: str) -> None:
    with pytest.raises(SetupError, match="webhook_secret: what follows whsec_ must be base64") as refused:
        signing_key(f"whsec_{encoded}")
    assert not encoded or encoded not in refused.value.message
