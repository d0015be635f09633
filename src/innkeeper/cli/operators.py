"""Operators: who acts when a command is run, as the audit log names them."""

from __future__ import annotations

import getpass

from innkeeper.core.identity import LOCAL_OWNER, Owner


def operator() -> Owner:
    """The user who runs this command."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may run as a user who has no name
        name = "unknown"
    return Owner(LOCAL_OWNER.organization, f"cli:{name}")
