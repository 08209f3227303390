"""The real-time server of a support centre's chat."""

__version__ = "0.1.0"
