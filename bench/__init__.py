"""The benchmark: `make bench`. Mayfly as users start it against SnapPass and a Flask hello-world, interleaved in one run."""
