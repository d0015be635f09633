"""What calls of the client may raise, as `innkeeper_client.exceptions`."""

from __future__ import annotations

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

__all__ = [
    "APIConnectionError",
    "APITimeoutError",
    "BadRequestError",
    "ChatServerError",
    "ConflictError",
    "ForbiddenError",
    "InternalServerError",
    "NotFoundError",
    "PaymentRequiredError",
    "RateLimitError",
    "UnauthorizedError",
]
