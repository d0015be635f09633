"""Sandboxes: where source code of clients is parsed and called, always in other processes than the server's.

`sources` is what every sandbox asks of source code; `monty` is the default, and `process` a full CPython.
"""
