"""The files under config/ and compose.yaml, read."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
PROMETHEUS = ROOT / "config" / "prometheus"
GRAFANA = ROOT / "config" / "grafana"
METRIC = re.compile(r"\b(?:swapper_\w+|up|ALERTS)\b")


def read(path: Path) -> Any:
    """A YAML file, or a JSON one."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


def alerts() -> list[dict[str, Any]]:
    """The alert rules."""
    return [rule for group in read(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    found: dict[str, Any] = read(GRAFANA / "dashboards" / "swapper-proxy.json")
    return found


def panels() -> list[dict[str, Any]]:
    """Those that show something: all but the headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """The title of a panel and what it asks Prometheus, once for each query."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def metrics(expression: str) -> set[str]:
    """The names of the metrics in a PromQL expression."""
    without_labels = re.sub(r"\{[^}]*\}", "", expression)
    without_grouping = re.sub(r"\b(?:by|on|without)\s*\([^)]*\)", "", without_labels)
    return set(METRIC.findall(without_grouping))
