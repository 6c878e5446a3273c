"""The benchmark: ours against a textbook version, against the hardware's limit, and what time and memory grow with.

python -m benchmarks SUBCOMMAND; `python -m benchmarks --help` lists them.
"""
