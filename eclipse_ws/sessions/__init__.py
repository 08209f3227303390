"""One socket: its admission, its session, the commands, and the hub of all sessions.

`server` and above may import from here; these may import `application`, `delivery` and below.
"""
