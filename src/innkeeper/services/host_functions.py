"""Host functions: what stands around every function of the server that clients' code may call.

Code is told what was meant for it, and not what went wrong inside of the server. What the functions do is
`services.source_code`'s affair; here are their arguments and their failures.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from functools import wraps

from innkeeper.core.errors import CommandFailed, InnkeeperError, Invalid
from innkeeper.ports.sandbox import HostFunction

_logger = logging.getLogger(__name__)


def guarded(name: str, function: HostFunction) -> HostFunction:
    """The function as code sees it. Raises: Invalid, CommandFailed, whatever is a sentence for users."""
    signature = inspect.signature(function)

    @wraps(function)
    async def guarding(*positional: object, **named: object) -> object:
        try:
            signature.bind(*positional, **named)
        except TypeError as error:
            raise Invalid(f"{name}: {error}.") from None
        try:
            return await function(*positional, **named)
        except InnkeeperError:
            raise
        except Exception as error:
            _logger.exception("the host function %s failed", name)
            raise CommandFailed(f"{name}: The server failed to do this.") from error

    return guarding


def text_of(value: object, param: str) -> str:
    """Raises: Invalid."""
    if not isinstance(value, str):
        raise Invalid(f"{param}: must be a text.", param=param)
    return value


def members_of(value: object, param: str) -> Mapping[str, object]:
    """Raises: Invalid."""
    if not isinstance(value, dict | None):
        raise Invalid(f"{param}: must be a dict.", param=param)
    return value or {}


def state_name_of(name: object) -> str:
    """Raises: Invalid."""
    if not isinstance(name, str) or not 0 < len(name) <= 128:
        raise Invalid("The name of a state is a text of 1 to 128 characters.", param="name")
    return name
