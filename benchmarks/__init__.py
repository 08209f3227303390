"""Benchmarks side by side with peers: `make bench`, or `python -m benchmarks --help`."""
