"""What the tests stand on: services from wheels, and real servers."""
