"""Settings: where they come from, what is wrong with them, and the key material that they name.

Everything may import from here; these import nothing else of it.
"""
