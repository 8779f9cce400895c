"""The wheel and the source distribution: all that is needed, nothing else, and they work."""

import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from swapper_proxy import __version__
from tests.packaging.conftest import ROOT, Distributions, bare_environment, started

BYTES_OF_A_WHEEL = 2_000_000  # far above what it takes, far below what a model or a benchmark's record would


def sources() -> set[str]:
    """Every file of the package, data included."""
    files = (ROOT / "swapper_proxy").rglob("*")
    return {str(f.relative_to(ROOT)) for f in files if f.is_file() and "__pycache__" not in f.parts}


def test_the_wheel_holds_the_package_and_nothing_else(distributions: Distributions) -> None:
    with zipfile.ZipFile(distributions.wheel) as wheel:
        names = set(wheel.namelist())
    metadata = {name for name in names if name.startswith(f"swapper_proxy-{__version__}.dist-info/")}
    assert names - metadata == sources()
    assert distributions.wheel.name.endswith("-py3-none-any.whl")
    assert distributions.wheel.stat().st_size < BYTES_OF_A_WHEEL


def test_the_source_distribution_holds_no_tests(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert sources() <= names
    top = {name.partition("/")[0] for name in names} - {"PKG-INFO", ".gitignore"}
    assert top == {"swapper_proxy", "config", "docs", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}


def test_what_the_wheel_says_of_itself(distributions: Distributions) -> None:
    folder = f"swapper_proxy-{__version__}.dist-info"
    with zipfile.ZipFile(distributions.wheel) as wheel:
        said = HeaderParser().parsestr(wheel.read(f"{folder}/METADATA").decode())
        assert "swapper-proxy = swapper_proxy.cli:main" in wheel.read(f"{folder}/entry_points.txt").decode()
        assert wheel.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert (said["Name"], said["Version"], said["Requires-Python"]) == ("swapper-proxy", __version__, ">=3.11")
    assert said["License-Expression"] == "MIT"


@pytest.fixture(scope="module")
def installed(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an empty environment that got the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", str(distributions.wheel)]
    done = subprocess.run(install, capture_output=True, text=True, check=False, env=bare_environment())
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def test_the_installed_wheel_serves(installed: Path, tmp_path: Path) -> None:
    with started([str(installed / "swapper-proxy"), "serve", "--port", "0"], bare_environment(), tmp_path) as proxy:
        health = proxy.ask("/health")
        assert (health["status"], health["service"]) == ("healthy", "swapper-service")
        assert "simulated" in health["note"]
        answer = proxy.ask("/api/generate", {"model": "llama3.2", "prompt": "Hello", "stream": False})
        assert (answer["done"], bool(answer["response"])) == (True, True)
        assert proxy.ask("/health")["active_model"] == "llama3.2:latest"


def test_what_was_installed_fits_together(installed: Path) -> None:
    checked = subprocess.run([installed / "python", "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout.strip()) == (0, "No broken requirements found.")
