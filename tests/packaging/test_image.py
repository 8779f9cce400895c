"""The Dockerfile: linted, its steps carried out, and what they make is started as Docker would start it."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging import image
from tests.packaging.conftest import ROOT, started
from tests.real.server import free_port

DOCKERFILE = ROOT / "Dockerfile"
STEPS = image.read(DOCKERFILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> image.Stage:
    return image.build(DOCKERFILE, ROOT, tmp_path_factory.mktemp("image"))


def of(word: str) -> list[str]:
    return [step.rest for step in STEPS if step.word == word]


def test_hadolint_is_content() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_pinned_and_small() -> None:
    bases = {rest.split()[0] for rest in of("FROM")}
    assert len(bases) == 1
    name, _, tag = bases.pop().partition(":")
    assert (name, tag.count("."), "-slim-" in tag) == ("python", 2, True)


def test_there_is_no_compiler_in_it() -> None:
    assert "apt-get" not in "".join(of("RUN"))
    assert all("--only-binary :all:" in line for run in of("RUN") for line in run.split("&&") if "pip install" in line)


def test_what_it_says_of_itself() -> None:
    (labels,) = of("LABEL")
    for name in ("title", "description", "licenses"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert of("STOPSIGNAL") == ["SIGTERM"]
    assert of("ENTRYPOINT") == []


def test_docker_is_sent_what_is_copied_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = [source for copy in of("COPY") if not copy.startswith("--from=") for source in copy.split()[:-1]]
    assert (lines[0], {source.split("/")[0] for source in copied}) == ("*", sent)


def test_everybody_can_read_what_was_built_and_nobody_change_it(built: image.Stage) -> None:
    files = [f for f in (built.root / "opt" / "swapper").rglob("*") if f.is_file() and not f.is_symlink()]
    assert (built.root / "opt/swapper/bin/swapper-proxy") in files
    modes = {stat.S_IMODE(f.stat().st_mode) for f in files}
    assert [mode for mode in modes if not mode & stat.S_IROTH or mode & stat.S_IWOTH] == []
    assert not (built.root / "opt/swapper/bin/pip").exists()
    assert [f for f in files if "tests" in f.parts and "swapper_proxy" in f.parts] == []


def test_it_runs_as_nobody_special_where_nothing_can_be_written(built: image.Stage) -> None:
    who = "import os, sys; print(os.getuid(), os.getgid(), sys.prefix)\ntry: open('/opt/swapper/x', 'w')\n"
    who += "except OSError as e: print(e.strerror)"
    inside = built.inside(["/opt/swapper/bin/python", "-c", who])
    done = subprocess.run(inside, env=built.variables({}), capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (["10001 10001 /opt/swapper", "Read-only file system"], "")


def test_it_serves_and_its_health_check_tells_and_sigterm_ends_it(built: image.Stage, tmp_path: Path) -> None:
    port = str(free_port())
    environment = built.variables({}) | {"SWAPPER_PORT": port, "http_proxy": f"http://127.0.0.1:{free_port()}"}
    health = built.inside(built.health)
    assert subprocess.run(health, env=environment, capture_output=True, check=False).returncode == 3  # unhealthy, too
    with started(built.inside(built.command), environment, tmp_path) as proxy:
        assert proxy.url == f"http://0.0.0.0:{port}"
        answer = proxy.ask("/api/generate", {"model": "llama3.2:3b", "prompt": "Hello", "stream": False})
        assert answer["response"]
        assert proxy.ask("/health")["active_model"] == "llama3.2-3b"
        done = subprocess.run(health, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
