"""`python -m benchmarks`. Children import this file again, so it imports no torch."""

import sys

from benchmarks.cli import main

if __name__ == "__main__":
    sys.exit(main())
