"""The systemd unit."""

import shlex
import shutil
import subprocess
from pathlib import Path

from click.testing import CliRunner

from swapper_proxy import cli, config
from tests.packaging.conftest import ROOT

UNIT = ROOT / "config" / "swapper-proxy.service"
LINES = [line for line in UNIT.read_text(encoding="utf-8").splitlines() if line and not line.startswith(("#", "["))]
SETTINGS = dict(line.split("=", 1) for line in LINES)


def test_systemd_takes_it(tmp_path: Path) -> None:
    """Where there is a systemd; what it says of the program, which is not installed here, is avoided."""
    command = SETTINGS["ExecStart"].split()[0]
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text(encoding="utf-8").replace(command, "/bin/true"))
    if analyze := shutil.which("systemd-analyze"):
        done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert all("=" in line and line[0].isupper() for line in LINES)


def test_it_is_locked_in_and_comes_back() -> None:
    wanted = {
        "DynamicUser": "yes",
        "StateDirectory": "swapper-proxy",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "Restart": "on-failure",
        "RestartForceExitStatus": "SIGHUP",
    }
    assert {name: SETTINGS[name] for name in wanted} == wanted
    assert int(SETTINGS["LimitNOFILE"]) >= 65536


def test_it_waits_for_the_answers_that_are_under_way() -> None:
    assert int(SETTINGS["TimeoutStopSec"]) > config.Server().shutdown_grace


def test_its_command_is_one_of_ours() -> None:
    program, name, *options = shlex.split(SETTINGS["ExecStart"])
    assert (Path(program).name, name, options[0]) == ("swapper-proxy", "serve", "--config")
    help_text = CliRunner().invoke(cli.main, [name, "--help"]).output
    assert options[0] in help_text
