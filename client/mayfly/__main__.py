"""The entry point. Before anything else it takes the arguments out of the process list: a link is a secret."""

from __future__ import annotations

import sys

from setproctitle import setproctitle


def main() -> None:
    setproctitle("mayfly")
    from mayfly.commands import cli

    cli(prog_name="mayfly", args=sys.argv[1:])


if __name__ == "__main__":
    main()
