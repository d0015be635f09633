"""Agents that are programs of the command line. What such a program may do, its callers may: see docs/programs.md.

innkeeper serve examples/program.py
innkeeper chat words
"""

import shutil

from innkeeper import Program, register_agent

register_agent("words", Program(["wc", "-w"], description="Counts the words of what it is told.", history="last"))

if shutil.which("claude"):
    register_agent("coder", Program.preset("claude", "--permission-mode", "plan", kept=True))
