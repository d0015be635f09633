"""The command line: thin, and each command imports what it needs when it runs."""
