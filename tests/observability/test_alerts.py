"""The alert rules are what Prometheus takes, and fire when they should: promtool says so."""

import re

import pytest

from tests.observability import binaries
from tests.observability.binaries import PrometheusMissing, promtool
from tests.observability.shipped import PROMETHEUS, alerts, read


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "--lint-fatal", "prometheus.yml"),
        ("check", "rules", "--lint-fatal", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    status, said = promtool(*arguments, cwd=PROMETHEUS)
    assert status == 0, said


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_how_bad(rule) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert re.fullmatch(r"\d+m", rule["for"])
    assert rule["annotations"].keys() == {"summary", "description"}
    assert all(rule["annotations"].values())


def test_each_alert_is_tested_both_ways() -> None:
    cases = [case for test in read(PROMETHEUS / "alerts_test.yml")["tests"] for case in test["alert_rule_test"]]
    tested = {(case["alertname"], bool(case["exp_alerts"])) for case in cases}
    assert tested == {(rule["alert"], fires) for rule in alerts() for fires in (True, False)}


def test_what_is_missing_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries.shutil, "which", lambda _: None)
    with pytest.raises(PrometheusMissing, match="apt-get install prometheus"):
        promtool("--version")
