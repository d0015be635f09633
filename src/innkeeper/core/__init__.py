"""Frozen values and rules. Invariant: standard library only, no I/O, no clock, no minted ids."""
