"""Real database servers for tests, each in a folder of its own on a free port of loopback, and a TLS authority made at run time."""
