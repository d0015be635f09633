"""A client of Innkeeper and of servers that speak as it does: completions, sessions, runs and administration.

It stands apart from the server: it imports httpx2 and the standard library, and httpx2 only when a client is made.
"""

from __future__ import annotations

from innkeeper_client.clients import AsyncChatServerClient, ChatServerClient
from innkeeper_client.completions import ChatCompletionChoice, ChatCompletionRequest, ChatCompletionResponse, UsageInfo
from innkeeper_client.event_streams import RunEvent
from innkeeper_client.exceptions import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    ChatServerError,
    ConflictError,
    ForbiddenError,
    InternalServerError,
    NotFoundError,
    PaymentRequiredError,
    RateLimitError,
    UnauthorizedError,
)
from innkeeper_client.history import (
    ChatMessageRecord,
    ChatSessionDetailResponse,
    ChatSessionListResponse,
    ChatSessionSummary,
)
from innkeeper_client.messages import Message, MessageRole
from innkeeper_client.model_list import ModelInfo, ModelsResponse
from innkeeper_client.platform import AdminResponse, AuditLogEntry, AuditLogResponse, PlatformStats
from innkeeper_client.runs import Run
from innkeeper_client.session_events import SessionEvent
from innkeeper_client.streams import AsyncCompletionStream, AsyncRunStream, CompletionStream, RunStream
from innkeeper_client.version import __version__

__all__ = [
    "APIConnectionError",
    "APITimeoutError",
    "AdminResponse",
    "AsyncChatServerClient",
    "AsyncCompletionStream",
    "AsyncRunStream",
    "AuditLogEntry",
    "AuditLogResponse",
    "BadRequestError",
    "ChatCompletionChoice",
    "ChatCompletionRequest",
    "ChatCompletionResponse",
    "ChatMessageRecord",
    "ChatServerClient",
    "ChatServerError",
    "ChatSessionDetailResponse",
    "ChatSessionListResponse",
    "ChatSessionSummary",
    "CompletionStream",
    "ConflictError",
    "ForbiddenError",
    "InternalServerError",
    "Message",
    "MessageRole",
    "ModelInfo",
    "ModelsResponse",
    "NotFoundError",
    "PaymentRequiredError",
    "PlatformStats",
    "RateLimitError",
    "Run",
    "RunEvent",
    "RunStream",
    "SessionEvent",
    "UnauthorizedError",
    "UsageInfo",
    "__version__",
]
