"""What the documents and the image say is what is there."""

import re
from pathlib import Path
from unittest.mock import Mock

import pytest
from prometheus_client.parser import text_string_to_metric_families

from swapper_proxy import cli, config
from swapper_proxy.config import reference
from swapper_proxy.config.loading import NUM_PARALLEL
from swapper_proxy.config.settings import NOT_IN_FILES
from swapper_proxy.observe.metrics import Metrics
from swapper_proxy.runtime.board import Board, Snapshot

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIG = ROOT / "config" / "swapper_config.yaml"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def metric_names() -> list[str]:
    metrics = Metrics()
    metrics.watch(Mock(Board, snapshot=lambda: Snapshot(None, (), {}, {}, {}, True)))
    families = text_string_to_metric_families(metrics.exposition().decode())
    return [f"{m.name}_total" if m.type == "counter" else m.name for m in families]


def test_every_key_has_a_meaning_and_stands_in_the_shipped_file() -> None:
    paths = [key.path for key in reference.all_keys()]
    assert sorted(paths) == sorted(reference.MEANINGS)
    assert set(reference.DEFAULTS) <= set(paths)
    text = CONFIG.read_text(encoding="utf-8")
    assert [path for path in paths if f"{path.rpartition('.')[2]}:" not in text] == []


def test_no_section_is_forgotten() -> None:
    sections = {key.path.partition(".")[0] for key in reference.all_keys()}
    assert sections == set(config.Settings.__struct_fields__) - set(NOT_IN_FILES)


def test_the_configuration_page_is_what_the_settings_say() -> None:
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == reference.page(), "make docs"


@pytest.mark.parametrize(
    ("path", "takes", "default"),
    [
        ("server.port", "integer from 0 to 65535", "`8890`"),
        ("server.allowed_hosts", "list of text", "none"),
        ("upstream.url", "text", "`http://localhost:11434`"),
        ("swapper.mode", "`single-active`, `multi-active`", "`single-active`"),
        ("swapper.default_after", "number above 0 to 31536000", "none"),
        ("swapper.unload_settle", "number from 0 to 31536000", "`1.5`"),
        ("swapper.max_wait.high", "number above 0 to 31536000", "`15`"),
        ("swapper.keep_alive", "number or text", "Ollama's own timer"),
        ("models.NAME.path", "text", "required"),
        ("models.NAME.pinned", "true, false", "`false`"),
        ("routes.NAME.model", "text or list of text", "required"),
    ],
)
def test_what_a_key_takes_is_read_from_its_type(path: str, takes: str, default: str) -> None:
    assert f"| `{path}` | {takes} | {default} |" in reference.page()


@pytest.mark.parametrize("variable", [*config.ENVIRONMENT, NUM_PARALLEL, "SWAPPER_CONFIG_PATH", "SWAPPER_URL"])
def test_every_variable_is_described(variable: str) -> None:
    assert f"`{variable}`" in README + reference.page()


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
