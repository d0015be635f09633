"""First tokens: a server that strangers can reach is never without one.

Where none was ever made, an admin's is made and shown, this one time. Several servers that start at once make one.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from ipaddress import ip_address

from innkeeper.config import Settings

_WORDS = """\
No token has been made yet, and this server can be reached from other machines. Here is an admin's; only its digest is
kept, so it is shown this one time:

  {text}

Make others with `innkeeper tokens create`, and revoke this one with `innkeeper tokens revoke {id}`.
"""


def ensure(settings: Settings, listener: socket.socket) -> None:
    """Have a token, if strangers can reach this port and need one.

    Raises: SetupError where the store cannot be used.
    """
    if not settings.auth_enabled or ip_address(listener.getsockname()[0]).is_loopback:
        return
    made = asyncio.run(_make(settings))
    if made is not None:
        print(_WORDS.format(text=made[0], id=made[1]), file=sys.stderr, flush=True)


async def _make(settings: Settings) -> tuple[str, str] | None:
    from innkeeper.apps.tokens import TokenManager

    async with TokenManager.open(settings, through="cli") as tokens:
        made = await tokens.create_first()
    return None if made is None else (made.text, made.token.id)
