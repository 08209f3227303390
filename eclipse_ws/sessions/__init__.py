"""One socket: its admission, its session, the commands, and the hub of all sessions.

`server` and above may import this package; it may import `application`, `delivery` and below.
"""
