"""`python -m gnn_moe` is `gnn-moe`."""

from __future__ import annotations

import sys

from gnn_moe.cli import main

if __name__ == "__main__":
    sys.exit(main())
