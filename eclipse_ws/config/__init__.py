"""Settings: their sources, validation and problems, and the key material that they name.

Everything may import from here; these import nothing else of it.
"""
