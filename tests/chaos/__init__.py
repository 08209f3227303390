"""Faults put on real processes: two nodes, a Redis, a stand-in for the application, 200 clients."""
