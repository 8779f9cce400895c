"""What the tests need of the system: a browser, Prometheus with promtool, and network namespaces.

`python -m tests.real.tools` has apt-get install what is missing, where it may, else says what to install.
"""

import os
import shutil
import subprocess
import sys

PACKAGES = {  # of Debian, by command
    "chromium": "chromium",
    "ip": "iproute2",
    "prometheus": "prometheus",
    "promtool": "prometheus",
}


def missing() -> list[str]:
    """The packages of the commands that are not there."""
    return sorted({package for command, package in PACKAGES.items() if shutil.which(command) is None})


def main() -> None:
    packages = missing()
    if packages and shutil.which("apt-get") and os.geteuid() == 0:
        quietly = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", "-q", *command], env=quietly, check=True, stdout=subprocess.DEVNULL)
    if still := missing():
        sys.exit(f"the tests need these packages (names of Debian): {' '.join(still)}")


if __name__ == "__main__":
    main()
