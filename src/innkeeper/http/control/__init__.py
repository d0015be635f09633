"""The control plane under /api: a module a noun."""
