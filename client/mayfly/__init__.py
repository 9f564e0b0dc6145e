"""The command-line client of Mayfly: `mayfly send`, `open`, `status`, `burn`."""

__version__ = "0.1.0"
