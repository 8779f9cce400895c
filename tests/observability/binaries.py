"""Prometheus and promtool, as Debian's package `prometheus` installs them."""

import shutil
import subprocess
from pathlib import Path

from tests.waiting import LIMIT_S


class PrometheusMissing(Exception):
    """Not installed; the message says how to install it."""


def find(name: str) -> str:
    """Where the program is.  Raises PrometheusMissing."""
    path = shutil.which(name)
    if path is None:
        raise PrometheusMissing(f"no {name} on PATH: apt-get install prometheus")
    return path


def promtool(*arguments: str, cwd: Path | None = None, text: str = "") -> tuple[int, str]:
    """Its exit status and all that it says about `text`, or about the files that are named."""
    done = subprocess.run(
        [find("promtool"), *arguments],
        cwd=cwd,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    return done.returncode, done.stdout + done.stderr
