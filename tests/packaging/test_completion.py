"""Completion in shells: what is printed is what the shell asks the command with."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swapper_proxy import cli
from tests.waiting import LIMIT_S

INSTALLED = Path(sys.executable).parent / "swapper-proxy"


def printed(*arguments: str, **environment: str) -> str:
    return subprocess.run(
        [INSTALLED, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_S,
    ).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_the_command(shell: str) -> None:
    script = printed("completion", shell)
    assert f"_SWAPPER_PROXY_COMPLETE={shell}_complete" in script
    assert "swapper-proxy" in script


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("swapper-proxy ", list(cli.main.commands)),
        ("swapper-proxy unl", ["unload"]),
        ("swapper-proxy serve --sim", ["--simulate-if-unreachable"]),
        ("swapper-proxy completion ", ["bash", "zsh", "fish"]),
        ("swapper-proxy simulate w.json --policy f", ["fifo"]),
    ],
)
def test_bash_completes(line: str, offered: list[str]) -> None:
    bash = shutil.which("bash")
    assert bash, "bash is not installed"
    words = line.split(" ")
    script = f"""
eval "$(swapper-proxy completion bash)"
COMP_WORDS=({" ".join(words[:-1])} "{words[-1]}")
COMP_CWORD={len(words) - 1}
_swapper_proxy_completion swapper-proxy
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    environment = os.environ | {"PATH": f"{INSTALLED.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([bash, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == sorted(offered)
