"""HTTP: the gate around everything, reading bodies, answering, pages. Flask lives here and in `server.py` only."""
