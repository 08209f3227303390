"""The application's API, where messages are saved and users looked up: over HTTP, or a store of our own.

`sessions` and above may import from here; these may import `delivery` and everything below.
"""
