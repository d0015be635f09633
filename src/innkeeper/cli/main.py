"""`innkeeper`: runs one command, and turns what goes wrong into one line and an exit code."""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Sequence

from innkeeper.version import __version__


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and end the process with its exit code: 0, 1 for a failure, 2 for wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(f"innkeeper {__version__}")
        return
    gc.set_threshold(50_000, 20, 50)  # looking again and again through what has been loaded takes a seventh of a start
    from innkeeper.cli.failures import FAILED, INTERRUPTED, tell
    from innkeeper.core.errors import InnkeeperError

    try:
        _run(words)
    except InnkeeperError as error:
        sys.exit(tell(error, debug="--debug" in words))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # whoever read along has left: nothing more can be said, nor need be
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(tell(InnkeeperError(f"{os.strerror(errno.ENOSPC)}.")))


def _run(words: list[str]) -> None:
    from innkeeper.cli.commands import (
        cli,
        mount_audit,
        mount_credits,
        mount_models,
        mount_runs,
        mount_tokens,
        mount_users,
    )

    if words[:1] == ["serve"]:
        from innkeeper.cli.arguments import gather_modes
        from innkeeper.config import MODES

        words = gather_modes(words, MODES)
    if not words or words[0] in ("audit", "credits", "models", "runs", "tokens", "usage", "users", "-h", "--help"):
        mount_audit()
        mount_credits()
        mount_models()
        mount_runs()
        mount_tokens()
        mount_users()
    cli(args=words, prog_name="innkeeper")
