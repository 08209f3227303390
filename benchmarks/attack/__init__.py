"""100 honest pairs chat while a few thousand sockets attack the same node: `python -m benchmarks.attack`."""
