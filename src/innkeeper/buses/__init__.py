"""Buses: how processes that serve one store wake each other; adapters of `innkeeper.ports.bus`.

`memory` is for a process alone. `postgres` and `redis` are kept connected by `connected`, and what they send is
made and read by `messages`.
"""
