"""What `make bench-check` holds the relay to: ratios to nginx that may not get much worse, and limits.

The file (ratios.json) holds the ratios of one run, which another run replaces, and the limits, which people set.
"""

import json
from pathlib import Path
from typing import Any

BEARABLE = 1.25  # times the ratio kept: less is noise
RATIOS = (
    ("JSON answer, 32 connections", "cpu_us"),
    ("JSON answer, 1 connection", "cpu_us"),
    ("200 streams, a chunk each 20 ms", "cpu_us"),
    ("5,000 streams at once", "kb_per_stream"),
)
LIMITS = (
    ("JSON answer, 1 connection", "added_p50_ms"),
    ("5,000 streams at once", "kb_per_stream"),
    ("a body of 100 MB", "times_in_memory"),
    ("start", "start_s"),
)
Table = dict[str, dict[str, float]]  # scenario -> figure -> value


def worse(measured: dict[str, Any], kept: dict[str, Table]) -> list[str]:
    """What is worse than was kept, and what cannot be compared because it is not there."""
    ratios = {scenario: figures.get("ratio", {}) for scenario, figures in measured.items()}
    proxy = {scenario: figures["proxy"] for scenario, figures in measured.items()}
    return [
        *_over(RATIOS, "ratio to nginx", ratios, kept.get("ratios", {}), BEARABLE),
        *_over(LIMITS, "limit", proxy, kept.get("limits", {}), 1),
    ]


def _over(wanted: tuple[tuple[str, str], ...], of: str, measured: Table, kept: Table, bearable: float) -> list[str]:
    found = []
    for scenario, figure in wanted:
        name = f"{scenario}: {figure}"
        now, before = (table.get(scenario, {}).get(figure) for table in (measured, kept))
        if now is None:
            found.append(f"{name} was not measured")
        elif before is None:
            found.append(f"{name}: no {of} in the file")
        elif now > bearable * before:
            found.append(f"{name} is {now:g}, {now / before - 1:.0%} above the {of} of {before:g} in the file")
    return found


def keep(measured: dict[str, Any], machine: dict[str, Any], file: Path) -> None:
    """Put the ratios of this run into the file.  KeyError if one was not measured."""
    content: dict[str, Any] = json.loads(file.read_text())
    ratios: Table = {}
    for scenario, figure in RATIOS:
        ratios.setdefault(scenario, {})[figure] = measured[scenario]["ratio"][figure]
    file.write_text(json.dumps(content | {"ratios": ratios, "machine": machine}, indent=1) + "\n")
