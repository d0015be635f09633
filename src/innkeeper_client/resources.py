"""Resources: the operations of a client, grouped by their noun. `Blocking` and `Awaiting` clients share them."""

from __future__ import annotations

from innkeeper_client import (
    actions,
    chats,
    commands,
    history,
    logs,
    model_list,
    platform,
    runs,
    session_events,
    sessions,
    tokens,
)
from innkeeper_client.operations import Operation
from innkeeper_client.streams import CompletionOperation, StreamOperation


class ClientOperations:
    """What a client itself can do."""

    create_completion = CompletionOperation()
    list_models = Operation(model_list.list_models)
    list_sessions = Operation(history.list_sessions)
    get_session = Operation(history.get_session)
    get_platform_stats = Operation(platform.get_platform_stats)
    list_admins = Operation(platform.list_admins)
    add_admin = Operation(platform.add_admin)
    remove_admin = Operation(platform.remove_admin)
    get_audit_log = Operation(platform.get_audit_log)
    chat = Operation(chats.chat)
    stream = StreamOperation(chats.streamed_chat)
    inject = Operation(chats.inject)
    get_injection = Operation(chats.get_injection)
    list_events = Operation(session_events.list_events)
    publish_event = Operation(session_events.publish_event)


class RunOperations:
    list = Operation(runs.list_runs)
    get = Operation(runs.get_run)
    wait = Operation(runs.wait_for_run)
    actions = Operation(actions.list_actions)
    cancel = Operation(runs.cancel_run)
    resume = Operation(runs.resume_run)
    resume_stream = StreamOperation(runs.resumed_stream)


class SessionOperations:
    create = Operation(sessions.create_session)
    list = Operation(sessions.list_sessions)
    get = Operation(sessions.get_session)
    update = Operation(sessions.update_session)
    delete = Operation(sessions.delete_session)
    messages = Operation(sessions.list_messages)
    append = Operation(sessions.append_messages)


class CommandOperations:
    send = Operation(commands.send_command)
    batch = Operation(commands.send_batch)
    get = Operation(commands.get_command)
    wait = Operation(commands.wait_for_command)
    cancel = Operation(commands.cancel_command)


class TokenOperations:
    create = Operation(tokens.create_token)
    list = Operation(tokens.list_tokens)
    get = Operation(tokens.get_token)
    revoke = Operation(tokens.revoke_token)


class LogOperations:
    list = Operation(logs.list_chat_logs)
    of_session = Operation(logs.list_session_chat_logs)
    statistics = Operation(logs.get_statistics)
    user_statistics = Operation(logs.list_user_statistics)
    records = Operation(logs.list_records)
    add = Operation(logs.add_record)
