"""The command-line client of Mayfly: `mayfly send`, `open`, `status`, `burn`."""
