"""The seed's entry point: `python run_gnn_moe.py FLAGS` is `gnn-moe train FLAGS`."""

from __future__ import annotations

import sys

from gnn_moe.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
