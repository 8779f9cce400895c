"""What the documents and the image say is what is there."""

import re
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from swapper_proxy import cli, config
from swapper_proxy.config.loading import NUM_PARALLEL
from swapper_proxy.config.settings import NOT_IN_FILES
from swapper_proxy.observe.metrics import Metrics
from swapper_proxy.runtime.board import Board, Snapshot

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIG = ROOT / "config" / "swapper_config.yaml"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


# The sections whose keys stand under names that the operator chooses.
NAMED = {"models": config.Model, "routes": config.Route}


def keys() -> list[tuple[str, str]]:
    sections = [f for f in msgspec.structs.fields(config.Settings) if f.name not in NOT_IN_FILES]
    return [
        key
        for f in sections
        for key in keys_of(f"{f.name}.NAME" if f.name in NAMED else f.name, NAMED.get(f.name, f.type))
    ]


def keys_of(section: str, struct: type) -> list[tuple[str, str]]:
    found = []
    for field in msgspec.structs.fields(struct):
        found.append((section, field.name))
        if isinstance(field.type, type) and issubclass(field.type, config.Section):
            found += keys_of(f"{section}.{field.name}", field.type)
    return found


def metric_names() -> list[str]:
    metrics = Metrics()
    metrics.watch(Mock(Board, snapshot=lambda: Snapshot(None, (), {}, {}, {}, True)))
    families = text_string_to_metric_families(metrics.exposition().decode())
    return [f"{m.name}_total" if m.type == "counter" else m.name for m in families]


@pytest.mark.parametrize(("section", "key"), keys())
def test_every_key_is_described(section: str, key: str) -> None:
    assert f"`{section}.{key}`" in README
    assert f"{key}:" in CONFIG.read_text(encoding="utf-8")


@pytest.mark.parametrize("variable", [*config.ENVIRONMENT, NUM_PARALLEL, "SWAPPER_CONFIG_PATH", "SWAPPER_URL"])
def test_every_variable_is_described(variable: str) -> None:
    assert f"`{variable}`" in README


def test_every_command_is_described() -> None:
    usage = README.split("## Command line")[1].split("## ")[0]
    assert [name for name in cli.main.commands if name not in usage.split()] == []


def test_every_metric_is_described() -> None:
    assert [name for name in metric_names() if f"`{name}`" not in README] == []


def test_the_shipped_configuration_loads() -> None:
    assert config.load(str(CONFIG), {}).models


def test_the_examples_of_routes_can_be_used(tmp_path: Path) -> None:
    text = CONFIG.read_text(encoding="utf-8")
    example = re.search(r"^# routes:\n(#   .*\n)+", text, re.MULTILINE)
    assert example is not None
    uncommented = re.sub("^# ", "", example[0], flags=re.MULTILINE)
    in_readme = README.split("```\nroutes:")[1].split("```")[0]
    for routes in (uncommented, f"routes:{in_readme}"):
        (tmp_path / "c.yaml").write_text(text.replace(example[0], routes))
        settings = config.load(str(tmp_path / "c.yaml"), {})
        assert (len(settings.routes["auto"]), config.warnings(settings)) == (5, [])
        assert all(settings.configured(name) for rule in settings.routes["auto"] for name in rule.models)


def test_the_image_runs_the_real_thing_as_nobody_special() -> None:
    assert "simulate" not in DOCKERFILE
    user = next(line for line in DOCKERFILE.splitlines() if line.startswith("USER ")).split()[1]
    assert int(user.split(":")[0]) > 0
    for line in ("SWAPPER_HOST=0.0.0.0", "SWAPPER_PORT=8890", "EXPOSE 8890", 'CMD ["swapper-proxy", "serve"]'):
        assert line in DOCKERFILE
