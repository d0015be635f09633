"""The child process behind local models: loads one file of weights and serves it on a loopback port.

It is run by its path, imports nothing of Innkeeper, and knows nothing of runs: `runtimes.local` starts it, is
its only client and stops it. The first line of stdin is a JSON object with what does not belong into a list of
processes (the API key) or is the model's own (its parameters); the first line of stdout is a JSON object
with the address, once questions are answered. Invariant: it ends when stdin does, and so with its parent.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1
_ERRORS_ONLY = 1
_PROMPT_CACHE_MIB = 256


def main() -> None:
    arguments = _arguments()
    _outlive_the_drain_but_not_the_parent()
    instructions = json.loads(sys.stdin.buffer.readline())
    # The library may print to file descriptor 1: what the parent reads gets a descriptor of its own.
    answer = os.dup(1)
    os.dup2(2, 1)
    parameters = _parameters(arguments, instructions)
    try:
        server = importlib.import_module("xllamacpp").Server(parameters)
    except RuntimeError:
        sys.exit(1)  # it has said on stderr what is wrong; its exception does not
    os.write(answer, json.dumps({"address": server.listening_address}).encode() + b"\n")
    sys.stdin.buffer.read()
    # Not `sys.exit`: the server's destructor would first wait for answers that nobody reads any more.
    os._exit(0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    return parser.parse_args()


def _outlive_the_drain_but_not_the_parent() -> None:
    """Ctrl-C and a service manager signal the whole group, while the server still finishes runs with this model."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":  # stdin ends everywhere, but is seen only once the weights are loaded
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _parameters(arguments: argparse.Namespace, instructions: dict[str, Any]) -> Any:
    params = importlib.import_module("xllamacpp").CommonParams()
    params.model.path = arguments.model
    params.model_alias = {instructions["alias"]}
    # The threads spin while they wait for each other: on a core shared with the server they get ten times
    # slower, and one core fewer costs a small model nothing but some speed in reading long prompts.
    threads = min(max((os.cpu_count() or 1) - 1, 1), 8)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    # Each slot has its share for itself: in a shared one, four long conversations would fail each other.
    params.n_ctx = arguments.context * arguments.slots
    params.n_parallel = arguments.slots
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    params.hostnames = ["127.0.0.1"]
    params.api_keys = [instructions["api_key"]]
    params.ui = params.endpoint_slots = False
    params.verbosity = _ERRORS_ONLY
    for name, value in instructions["parameters"].items():
        setattr(params, name, value)
    for name, value in instructions["sampling"].items():
        setattr(params.sampling, name, value)
    return params


if __name__ == "__main__":
    main()
