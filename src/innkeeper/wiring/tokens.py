"""What tokens are made of: their vault, their digests, and who writes of them, over an open store."""

from __future__ import annotations

import secrets
from typing import Any

from innkeeper.config import Settings
from innkeeper.http.contexts import now
from innkeeper.services.tokens import Digests
from innkeeper.wiring.accounting import open_audit
from innkeeper.wiring.openings import Store, open_vault


def token_parts(settings: Settings, store: Store) -> dict[str, Any]:
    """What `Tokens` are made of, over an open store that need not be served.

    Raises: SetupError.
    """
    return {
        "vault": open_vault(settings, store),
        "sessions": store.tokens,
        "audit": open_audit(store),
        "digests": _digests(settings),
        "now": now,
        "random": secrets.token_bytes,
    }


def _digests(settings: Settings) -> Digests:
    key = settings.api_key_secret
    return Digests((key.get_secret_value() if key is not None else None) or None)
