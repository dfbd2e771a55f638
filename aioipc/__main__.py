"""``python -m aioipc`` is the command line."""

import sys

from aioipc.cli import main

if __name__ == "__main__":
    sys.exit(main())
