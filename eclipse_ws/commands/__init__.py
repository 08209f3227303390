"""The larger commands: check, config, smoke, bench and chat, and the tokens that they need.

Only `cli` imports from here; these may import everything below: the server and its parts.
"""
