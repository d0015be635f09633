"""`python -m innkeeper` is `innkeeper`."""

import sys

if __name__ == "__main__":
    # Python has put the working folder first, where a user's file could stand in for a package that we need.
    if not sys.flags.safe_path:
        del sys.path[0]

    from innkeeper.cli.main import main

    main()
