"""Find or prepare a real Ollama: `$SWAPPER_TEST_OLLAMA`, else a wheel from PyPI, else `ollama` on PATH.

The wheel `bigdl-core-cpp` carries Ollama 0.9.3, server and command line in one binary, built for Intel GPUs.
It serves on the CPU once a stub that reports "no device" stands in place of its `libggml-sycl.so`.

`python -m tests.real.install` prepares it ahead of the tests and prints what will be used.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Installed without their dependencies: those would bring in several GB of torch and CUDA that Ollama never opens.
WHEELS = (
    "bigdl-core-cpp==2.7.0b20260110",
    "intel-sycl-rt==2025.0.5",
    "intel-openmp==2025.0.5",
    "intel-cmplr-lib-rt==2025.0.5",
    "intel-cmplr-lib-ur==2025.0.5",
    "umf==0.9.1",
)

# What `libggml-sycl.so` must define for the loader; "0 devices" makes Ollama fall back to its CPU backend.
STUB = """
#include <stddef.h>
int ggml_backend_sycl_get_device_count(void) { return 0; }
void *ggml_backend_sycl_buffer_type(int device) { (void)device; return NULL; }
void *ggml_backend_sycl_init(int device) { (void)device; return NULL; }
"""


@dataclass(frozen=True)
class Binary:
    """An executable Ollama, the folder to start it in, and the library path it needs (empty: none)."""

    path: Path
    cwd: Path
    library_path: str = ""

    def environment(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": self.library_path} if self.library_path else {}


class NoOllama(RuntimeError):
    """No real Ollama can be had on this machine; the message says what to install."""


def find() -> Binary:
    """The Ollama to test with, prepared if need be.  Raises NoOllama."""
    if named := os.environ.get("SWAPPER_TEST_OLLAMA"):
        path = Path(named).resolve()
        if not os.access(path, os.X_OK):
            raise NoOllama(f"SWAPPER_TEST_OLLAMA={named} is not an executable file")
        return Binary(path, path.parent)
    if sys.platform == "linux" and platform.machine() == "x86_64":
        return _from_wheel()
    if found := shutil.which("ollama"):
        return Binary(Path(found), Path(found).parent)
    raise NoOllama(
        "the tests need a real Ollama: install one from https://ollama.com so that `ollama` is on PATH, "
        "or set SWAPPER_TEST_OLLAMA to its binary"
    )


def cache_home() -> Path:
    """Where prepared things outlive a clone."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "swapper-proxy"


def _from_wheel() -> Binary:
    recipe = hashlib.sha256("\n".join((*WHEELS, STUB)).encode()).hexdigest()[:12]
    home = cache_home() / f"ollama-{recipe}"
    with locked(home.with_suffix(".lock")):
        if not (home / "ready").exists():
            shutil.rmtree(home, ignore_errors=True)
            _prepare(home)
            (home / "ready").touch()
    server = home / "server"
    return Binary(server / "ollama-lib", server, f"{home / 'env' / 'lib'}:{server}")


def _prepare(home: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoOllama("the tests build one small library for the real Ollama: install a C compiler (Debian: gcc)")
    print(f"preparing a real Ollama in {home} (about 190 MB to fetch, once)", file=sys.stderr)
    env, server = home / "env", home / "server"
    venv.create(env)
    pip = [sys.executable, "-m", "pip", "--python", str(env / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--pre", *WHEELS], check=True)
    libraries = next(env.glob("lib/python*/site-packages/bigdl/cpp/libs/ollama"))
    shutil.copytree(libraries, server, ignore=shutil.ignore_patterns("libggml-sycl.so", "ollama"))
    (server / "ollama-lib").chmod(0o755)
    build = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(server / "libggml-sycl.so")]
    subprocess.run(build, input=STUB.encode(), check=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Two test runs at once prepare it once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    print(f"real Ollama: {find().path}")
