"""The server as users start it, but for its clock: a file says how far the store's time is ahead of the real one.

    python -m tests.clocked                     granian, as `python server.py` does it
    gunicorn 'tests.clocked:app()'              gunicorn, with gunicorn.conf.py

MAYFLY_… variables work as ever; TEST_CLOCK names the file, which holds milliseconds as a 64-bit integer.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys

import server
from database import Clock, boot_clock, wall_clock
from errors import StartRefused
from records import Millis
from settings import Settings


def shifted_clock(settings: Settings) -> Clock:
    base = boot_clock() if settings.embedded else wall_clock
    with open(os.environ["TEST_CLOCK"], "rb") as file:
        offset = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    return lambda: Millis(base() + struct.unpack("<q", offset[:8])[0])


def app() -> object:
    settings = Settings.from_environ(os.environ)
    return server.create_app(settings, shifted_clock(settings))


def main() -> None:
    try:
        settings = Settings.from_environ(os.environ)
        server.serve(settings, shifted_clock(settings))
    except StartRefused as refusal:
        sys.exit(f"mayfly: {refusal}")


if __name__ == "__main__":
    main()
