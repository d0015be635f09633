"""Presets: how programs that are known are started, and how what they print is read.

Each is what the program's own documentation and source say of its use by other programs. None lets it do more than it
does by itself: whether it may change files or run commands is for the operator's arguments to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from innkeeper.runtimes.programs_claude import ClaudeLines
from innkeeper.runtimes.programs_codex import CodexLines
from innkeeper.runtimes.programs_formats import MakeTeller, Told
from innkeeper.runtimes.programs_gemini import GeminiLines

TELLERS: Mapping[str, MakeTeller] = {
    "jsonl": lambda prefix: Told(),
    "claude": ClaudeLines,
    "codex": CodexLines,
    "gemini": GeminiLines,
}
FORMATS = ("text", *TELLERS)


@dataclass(frozen=True, slots=True)
class Preset:
    """`resume` follows the arguments where the program goes on with a conversation of its own, `tail` follows that;
    `kept` are arguments for a process that answers many prompts, and empty where there is none. `typed` are its last
    words where it has a terminal, for a program that reads no prompt from one: it is an argument then.
    """

    command: tuple[str, ...]
    output: str
    remedy: str
    resume: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    typed: tuple[str, ...] = ()
    roams: bool = False
    environment: tuple[str, ...] = ()


PRESETS: Mapping[str, Preset] = {
    "claude": Preset(
        # What lies in the session's folder must not configure it: hooks in there would be commands of its author.
        command=(
            *("claude", "-p", "--output-format", "stream-json", "--verbose", "--include-partial-messages"),
            *("--setting-sources=user", "--strict-mcp-config"),
        ),
        output="claude",
        remedy="Install it with: npm install -g @anthropic-ai/claude-code",
        resume=("--resume={session}",),
        kept=("--input-format", "stream-json"),
        typed=("--", "{prompt}"),
        environment=(
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_AUTH_TOKEN",
            "ANTHROPIC_BASE_URL",
            "ANTHROPIC_MODEL",
            "CLAUDE_CODE_OAUTH_TOKEN",
            "CLAUDE_CONFIG_DIR",
        ),
    ),
    "codex": Preset(
        command=("codex", "exec", "--json", "--skip-git-repo-check"),
        output="codex",
        remedy="Install it with: npm install -g @openai/codex",
        resume=("resume", "{session}"),
        tail=("-",),
        roams=True,
        environment=("CODEX_API_KEY", "CODEX_HOME", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    ),
    "gemini": Preset(
        command=("gemini", "--output-format", "stream-json"),
        output="gemini",
        remedy="Install it with: npm install -g @google/gemini-cli",
        resume=("--resume={session}",),
        typed=("--prompt={prompt}",),
        environment=(
            "GEMINI_API_KEY",
            "GEMINI_CLI_TRUST_WORKSPACE",
            "GEMINI_MODEL",
            "GOOGLE_API_KEY",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GOOGLE_CLOUD_LOCATION",
            "GOOGLE_CLOUD_PROJECT",
            "GOOGLE_GEMINI_BASE_URL",
            "GOOGLE_GENAI_USE_GCA",
            "GOOGLE_GENAI_USE_VERTEXAI",
        ),
    ),
}
