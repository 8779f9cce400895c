"""A test in which Ollama lost a port to another program is run once more: it says nothing about the proxy.

See `tests.ports`: two Ollamas with a load under way may still be given the same port.
"""

from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from tests.real.server import OllamaServer

LOST = b"bind: address already in use"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run a test as pytest does, and again if it failed and a log of Ollama's says why."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    before = {log: log.stat().st_size for log in _logs()}
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    if any(report.failed for report in reports) and any(_lost(log, before.get(log, 0)) for log in _logs()):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _logs() -> list[Path]:
    return [log for log in OllamaServer.logs if log.exists()]


def _lost(log: Path, since: int) -> bool:
    with log.open("rb") as written:
        written.seek(since)
        return LOST in written.read()
