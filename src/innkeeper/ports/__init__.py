"""Short protocols between the use cases and the adapters. Each is defined by its contract suite."""
