"""One socket: the session from upgrade to close, the rules of its commands, and the hub of all sessions.

`server` and above may import from here; these may import `application`, `delivery` and below.
"""
