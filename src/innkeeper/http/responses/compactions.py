"""Compactions: a conversation as one item, which a client keeps in place of all others and sends back.

It holds the conversation word for word, made small; nothing is summed up, as no model is asked. It is no secret:
whoever sends it could have sent the messages.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec

from innkeeper.core.errors import InnkeeperError, Invalid
from innkeeper.core.messages import Message
from innkeeper.http.bodies import parse_json
from innkeeper.http.messages import ChatMessage, message

_VERSION = "ik1."
MAX_MESSAGES = 10_000
_MAX_BYTES = 10 * 1024 * 1024


def packed(messages: Sequence[Message]) -> str:
    """The `encrypted_content` of a compaction item; a server's own tool traffic is left out."""
    told = [said.as_dict() for said in messages if not said.is_internal]
    return _VERSION + base64.b64encode(zlib.compress(msgspec.json.encode(told))).decode()


class Unpacking:
    """Reads the compaction items of one request, which together hold no more than one item may.

    What is small on the way may be large here, so that a bound for each item alone would bound nothing.
    """

    def __init__(self) -> None:
        self._bytes = _MAX_BYTES
        self._messages = MAX_MESSAGES

    def messages(self, content: object, at: str) -> Sequence[Message]:
        """The messages of an item that a client sent. Raises: Invalid."""
        try:
            return self._read(content, at)
        except (ValueError, TypeError, binascii.Error, zlib.error, InnkeeperError) as error:
            if isinstance(error, Invalid) and error.param == at:
                raise
            raise Invalid(f"{at}: this is no compaction of this server's.", param=at) from None

    def _read(self, content: object, at: str) -> Sequence[Message]:
        if not isinstance(content, str) or not content.startswith(_VERSION):
            raise ValueError
        unzip = zlib.decompressobj()
        data = unzip.decompress(base64.b64decode(content[len(_VERSION) :], validate=True), self._bytes + 1)
        self._bytes -= len(data)
        if self._bytes < 0:
            raise Invalid(f"{at}: compactions may hold at most {_MAX_BYTES} bytes in all.", param=at)
        if not unzip.eof:
            raise ValueError
        told: Any = parse_json(data)
        self._messages -= len(told)
        if self._messages < 0:
            raise Invalid(f"{at}: compactions may hold at most {MAX_MESSAGES} messages in all.", param=at)
        return [message(ChatMessage.model_validate(one), "") for one in told]
