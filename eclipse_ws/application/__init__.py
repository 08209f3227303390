"""Clients of the application's API, which saves messages and looks users up: over HTTP, or embedded.

`sessions` and above may import from here; these may import `delivery` and everything below.
"""
