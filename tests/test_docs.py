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
from swapper_proxy.runtime.board import Board, ModelState, Snapshot
from swapper_proxy.runtime.ledger import Ledger, Residence, Totals
from swapper_proxy.runtime.ports import Usage
from swapper_proxy.runtime.shown import Facts

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIG = ROOT / "config" / "swapper_config.yaml"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def shown_metrics() -> dict[str, tuple[str, frozenset[str]]]:
    """The type and the labels of each, once everything has happened once."""
    metrics = Metrics()
    count, totals = {("m", "/api/chat", 200): 1}, Totals()
    model = ModelState("m", "m", "m", "llm", 1.0, "low", True, Facts(), 0, 0, 0, "", totals, Residence())
    metrics.watch(Mock(Board, snapshot=lambda: Snapshot("m", (model,), count, count, {"m": totals}, True)), Ledger())
    for hook in (metrics.waited, metrics.drained, metrics.first_byte, metrics.first_token):
        hook("m", 1.0)
    metrics.rejected("queue_full")
    metrics.keyed("k", 200)
    metrics.loaded("m", 1.0, 1.0, "", "idle")
    metrics.load_failed("m", 1.0, 500)
    metrics.unloaded("m", 1.0, "idle")
    metrics.held("m", 1.0, True)
    metrics.reloaded("m", 1.0, "gone")
    metrics.answered("m", 1.0, Usage(generated_tokens=1, generation_s=1.0))
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        f"{m.name}_total" if m.type == "counter" else m.name: (
            m.type,
            frozenset(label for sample in m.samples for label in sample.labels) - {"le"},
        )
        for m in families
    }


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
        ("server.allowed_hosts", "list of texts", "none"),
        ("upstream.url", "text", "`http://localhost:11434`"),
        ("swapper.mode", "`single-active`, `multi-active`", "`single-active`"),
        ("swapper.default_after", "number above 0 to 31536000", "none"),
        ("swapper.unload_settle", "number from 0 to 31536000", "`1.5`"),
        ("swapper.max_wait.high", "number above 0 to 31536000", "`15`"),
        ("swapper.keep_alive", "number or text", "Ollama's own timer"),
        (
            "models.NAME.path",
            '"ollama:" and the name that Ollama knows the model by, as in "ollama:llama3.2:3b"',
            "required",
        ),
        ("models.NAME.pinned", "true, false", "`false`"),
        ("routes.NAME.model", "text or list of texts", "required"),
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


def test_every_metric_is_described_as_it_is() -> None:
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(swapper_\w+)` \| (\w+) \| ([\w, ]*)\|", page, re.MULTILINE)
    described = {name: (kind, frozenset(labels.replace(",", " ").split())) for name, kind, labels in rows}
    assert described == shown_metrics()
    assert len(described) == len(rows)


def test_the_queries_ask_for_what_there_is() -> None:
    page = (DOCS / "metrics.md").read_text(encoding="utf-8").split("## Questions and queries")[1]
    asked = {re.sub("_(bucket|sum|count)$", "", name) for name in re.findall(r"swapper_\w+", page)}
    assert asked
    assert asked <= set(shown_metrics())


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


PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_what_pages_speak_of_is_there(page: Path) -> None:
    """Keys in full, metrics and variables; and the examples of configurations can be used."""
    text = page.read_text(encoding="utf-8")
    assert page.name in README
    keys = {key.path for key in reference.all_keys()}
    sections = "|".join({key.partition(".")[0] for key in keys})
    spoken = re.findall(rf"`((?:{sections})\.[\w.]+\w)`", text.replace("config/swapper_config.yaml", ""))
    assert [key for key in spoken if key not in keys] == []
    metrics = {
        re.sub("_(bucket|sum|count)$", "", name) for name in re.findall(r"swapper_\w+_(?:total|seconds)\b", text)
    }
    assert metrics <= set(shown_metrics())


@pytest.mark.parametrize("page", ["coming-from-the-old-service.md", "behind-open-webui.md"])
def test_configurations_in_pages_can_be_used(page: str, tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "c.yaml").write_text(example)
    settings = config.load(str(tmp_path / "c.yaml"), {})
    assert (len(settings.models), config.warnings(settings)) == (2, [])


def test_what_reliability_names_is_tested() -> None:
    """Of each row the files, and the beginnings of the names of their tests."""
    rows = [
        line for line in (DOCS / "reliability.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")
    ]
    named = [row.rstrip(" |").rpartition("| ")[2] for row in rows if "Test" not in row]
    assert len(named) > 30
    for name, begun in (found for cell in named for found in re.findall(r"([\w/]+\.py)(?:: ([\w*, ]+))?", cell)):
        file = ROOT / name if "/" in name else ROOT / "tests" / "e2e" / name
        tests = re.findall(r"^(?:async )?def test_(\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        for beginning in filter(None, begun.replace("*", "").split(", ")):
            assert any(test.startswith(beginning.strip()) for test in tests), (name, beginning)


def test_what_security_names_is_there() -> None:
    named = re.findall(r"tests/[\w./]+", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name.rstrip(".")).exists()] == []
