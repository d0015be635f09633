"""The examples that the SDK was documented with: only the package has another name, and they do what they show."""

from __future__ import annotations

import pytest

from tests.client import documented
from tests.support.inns import Inn


@pytest.fixture(autouse=True)
def environment(inn: Inn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INNKEEPER_URL", inn.url)


def play(example: str, capsys: pytest.CaptureFixture[str], **replaced: str) -> str:
    """What the example prints."""
    example = example.replace("chatserver_sdk", "innkeeper.client")
    for old, new in replaced.items():
        assert old.replace("_", "-") in example
        example = example.replace(old.replace("_", "-"), new)
    exec(compile(example, "<example>", "exec"), {})
    return capsys.readouterr().out


def test_the_quick_start_lists_models_and_asks_one(inn: Inn, capsys: pytest.CaptureFixture[str]) -> None:
    example = documented.THE_QUICK_START.replace("http://localhost:3284", inn.url)
    printed = play(example, capsys)
    assert printed.startswith("Available models: ['claude-3-haiku', 'echo', ")
    assert printed.endswith("\nAssistant: An old pond, 2 frogs.\nTokens used: 20\n")


def test_the_context_manager_closes_the_client(capsys: pytest.CaptureFixture[str]) -> None:
    assert play(documented.THE_CONTEXT_MANAGER, capsys) == "An old pond, 1 frogs.\n"


def test_a_stream_gives_pieces_of_text_and_then_the_fingerprint(capsys: pytest.CaptureFixture[str]) -> None:
    printed = play(documented.STREAMING, capsys)
    assert printed.startswith("Streaming response:\nAn old pond, 1 frogs.\nSession fingerprint: ")
    assert not printed.endswith("None\n")


def test_a_conversation_goes_on_with_the_answer_that_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert play(documented.SEVERAL_TURNS, capsys) == "An old pond, 3 frogs.\n"


def test_a_session_is_resumed_listed_and_read(capsys: pytest.CaptureFixture[str]) -> None:
    text, recorded, loaded = play(documented.SESSION_HISTORY, capsys).splitlines()
    assert text == "An old pond, 3 frogs."
    assert recorded.startswith("Stream recorded under: ")
    assert loaded == "Loaded 4 stored messages"


def test_an_administrator_reads_figures_and_the_audit_log(admin_key: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = play(documented.ADMINISTRATION, capsys, admin_api_key=admin_key)
    assert printed.startswith("Total users: ")
    assert "\nPlatform admins: 0\n" in printed
    assert "] token.create: " in printed


def test_an_invalid_request_is_a_bad_request(capsys: pytest.CaptureFixture[str]) -> None:
    printed = play(documented.ERROR_HANDLING, capsys)
    assert printed.startswith("Bad request: messages: ")
    assert printed.endswith("\nStatus code: 400\n")


def test_messages_may_be_objects_dictionaries_and_strings(capsys: pytest.CaptureFixture[str]) -> None:
    setting = "from chatserver_sdk import ChatServerClient, Message, MessageRole\nclient = ChatServerClient()\n"
    asking = "print(client.create_completion('claude-3-haiku', messages).choices[0].message.content)\n"
    forms = documented.MESSAGE_FORMATS.replace("\n\n", f"\n{asking}\n")
    assert play(f"{setting}{forms}{asking}client.close()", capsys).splitlines() == ["An old pond, 2 frogs."] * 3
