"""The least that Flask can do, to measure against.

`app` is for granian's WSGI interface, the cheapest way to serve it; `python -m bench.hello PORT` serves it as Mayfly is
served, gate and all.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop
from flask import Flask
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from metrics import Metrics
from settings import Settings
from web.gate import Gate
from web.limits import Limits
from web.rsgi import RsgiServer

app = Flask("hello")


@app.get("/")
def hello() -> str:
    return "Hello, World!"


async def _serve(port: int) -> None:
    server = Server(
        RsgiServer(Gate(app, Settings(), Limits(0), Metrics()), Settings()),
        address="127.0.0.1",
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        log_enabled=False,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await server.serve()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
