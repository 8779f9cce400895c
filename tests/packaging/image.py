"""The image without Docker: the Dockerfile's steps carried out in clean root file systems, in namespaces of Linux.

In place of the base image stands this machine's C library and the Python that runs the tests, at /usr/local as in that
image, both read-only; besides there is a shell, but neither a compiler nor anything of the checkout or of a user.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")
NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl", "/etc/pip.conf")
DEVICES = ("/dev/null", "/dev/urandom")
OF_PIP = re.compile(r"PIP_(?!FIND_LINKS)|SSL_CERT|REQUESTS_CA|(https?|no)_proxy", re.IGNORECASE)


class Step(NamedTuple):
    """One instruction of a Dockerfile and what follows it."""

    word: str
    rest: str


def read(text: str) -> list[Step]:
    """The instructions, each on one line, with the values of ARG put in."""
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    steps = [Step(*line.strip().split(maxsplit=1)) for line in lines if line.strip()]
    arguments = dict(step.rest.split("=", 1) for step in steps if step.word == "ARG")
    given = re.compile(r"\$\{(\w+)\}")
    return [Step(word, given.sub(lambda name: arguments.get(name[1], name[0]), rest)) for word, rest in steps]


@dataclass
class Stage:
    """What one FROM makes: a root file system, and what holds for the commands that run in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    folder: str = "/"
    user: str = "0:0"
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def shell(self, script: str) -> None:
        """As RUN: by root, in a root file system that can be written."""
        command = self.inside(["sh", "-c", script], user="0:0", writable=True)
        network = {name: value for name, value in os.environ.items() if OF_PIP.match(name)}
        done = subprocess.run(command, env=self.variables(network), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"RUN {script}: {done.stdout}{done.stderr}"

    def variables(self, more: Mapping[str, str]) -> dict[str, str]:
        return {**more, **self.environment, "LD_LIBRARY_PATH": "/usr/local/lib"}

    def inside(self, command: list[str], *, user: str = "", writable: bool = False) -> list[str]:
        """The command line that runs `command` in here, replaced by it in the end so that signals reach it."""
        number, group = (user or self.user).split(":")
        mounts = [_mounted(source, f"{self.root}{source}") for source in (*LIBRARIES, *NETWORK, *DEVICES, "/bin/sh")]
        mounts += [_mounted(sys.base_prefix, f"{self.root}/usr/local")]
        mounts += [f"mount --rbind /proc {self.root}/proc", f"mount -t tmpfs none {self.root}/tmp"] if writable else []
        lock = [] if writable else [f"mount -o remount,bind,ro {self.root}"]
        enter = [
            "unshare",
            f"--map-user={number}",
            f"--map-group={group}",
            f"--root={self.root}",
            f"--wd={self.folder}",
        ]
        run = f'exec {shlex.join(enter)} "$@"'
        bind = f"mount --bind {self.root} {self.root}"
        script = "\n".join(["set -e", bind, *filter(None, mounts), *lock, run])
        return ["unshare", "--map-root-user", "--mount", "/bin/sh", "-c", script, "sh", *command]


def _mounted(source: str, target: str) -> str:
    """The command that shows `source` at `target`, read-only; nothing if this machine has no such thing."""
    return f"mount --rbind {os.path.realpath(source)} {target}" if Path(source).exists() else ""


def _empty(root: Path) -> None:
    for name in (*LIBRARIES, "/etc/ssl", "/usr/local", "/proc", "/tmp"):
        (root / name[1:]).mkdir(parents=True, exist_ok=True)
    for name in (*NETWORK, *DEVICES, "/bin/sh"):
        place = root / name[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.touch()


def build(dockerfile: Path, context: Path, folder: Path) -> Stage:
    """Carry out all steps; the last stage, which is the image.  Unknown instructions raise KeyError."""
    stages: dict[str, Stage] = {}
    stage = Stage(folder)
    for step in read(dockerfile.read_text(encoding="utf-8")):
        if step.word == "FROM":
            name = step.rest.split()[-1]
            stage = stages[name] = Stage(folder / f"root{len(stages)}")
            _empty(stage.root)
        else:
            _STEPS[step.word](stage, step.rest, context, stages)
    return stage


def _copy(stage: Stage, rest: str, context: Path, stages: Mapping[str, Stage]) -> None:
    *options, target = rest.split()
    sources = [option for option in options if not option.startswith("--")]
    base = next((stages[o.removeprefix("--from=")].root for o in options if o.startswith("--from=")), context)
    for source in sources:
        place = stage.root / (Path(stage.folder) / target).as_posix().lstrip("/")
        found = base / source.lstrip("/")
        if found.is_dir():
            shutil.copytree(found, place, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place = place / found.name if target.endswith("/") else place
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, place)


def _workdir(stage: Stage, rest: str, *_: object) -> None:
    stage.folder = rest
    (stage.root / rest[1:]).mkdir(parents=True, exist_ok=True)


def _env(stage: Stage, rest: str, *_: object) -> None:
    for pair in shlex.split(rest):
        name, value = pair.split("=", 1)
        stage.environment[name] = value.replace(f"${name}", stage.environment.get(name, ""))


def _user(stage: Stage, rest: str, *_: object) -> None:
    stage.user = rest


def _cmd(stage: Stage, rest: str, *_: object) -> None:
    stage.command = json.loads(rest)


def _healthcheck(stage: Stage, rest: str, *_: object) -> None:
    stage.health = json.loads(rest.split(" CMD ", 1)[1])


def _nothing(*_: object) -> None:
    """Says something to Docker only."""


_STEPS = {
    "ARG": _nothing,
    "LABEL": _nothing,
    "EXPOSE": _nothing,
    "STOPSIGNAL": _nothing,
    "RUN": lambda stage, rest, *_: stage.shell(rest),
    "COPY": _copy,
    "WORKDIR": _workdir,
    "ENV": _env,
    "USER": _user,
    "CMD": _cmd,
    "HEALTHCHECK": _healthcheck,
}
