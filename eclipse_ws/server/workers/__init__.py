"""Several workers on one machine: processes that share its ports, and the supervisor that runs them.

Each worker is a node with everything that one has. `supervisor` starts, watches, restarts and drains the
processes, `worker` is what one of them runs, `channel` carries their messages, and `totals` adds up what they
report. `cli` imports from here; these may import what the rest of `server` may, and `server` itself.
"""
