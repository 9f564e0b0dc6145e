"""Programs a test needs and a machine may lack: skipped there, with what to install, but failing where all tests are required."""

from __future__ import annotations

import os
import shutil

import pytest


def require(met: object, what: str) -> None:
    """Skip the test unless `met`; with TESTS_REQUIRE_ALL set, fail it. `what` says what is needed and how to get it."""
    if met:
        return
    if os.environ.get("TESTS_REQUIRE_ALL"):
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}")


def require_program(name: str, package: str = "") -> str:
    """The path of a program; `package` is what to install where it has another name (apt-get install …)."""
    path = shutil.which(name)
    require(path, f"{name} (apt-get install {package or name})")
    return str(path)
