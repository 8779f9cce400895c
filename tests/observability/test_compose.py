"""compose.yaml and what it mounts fit together."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from swapper_proxy import config
from tests.observability.shipped import GRAFANA, PROMETHEUS, ROOT, dashboard, panels, read

COMPOSE = read(ROOT / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROXY = SERVICES["swapper-service"]
SOURCE = read(GRAFANA / "provisioning" / "datasources" / "prometheus.yaml")["datasources"][0]
BUILT_IN = {"row", "stat", "timeseries", "state-timeline", "bargauge"}  # panels that Grafana brings


def volumes() -> list[tuple[str, str]]:
    """From where to where, over all services."""
    return [tuple(volume.split(":")[:2]) for service in SERVICES.values() for volume in service.get("volumes", ())]


def mounted(path: str) -> Path:
    """What a file of a container is here."""
    here, there = next((ROOT / here, there) for here, there in volumes() if f"{path}/".startswith(f"{there}/"))
    return here / Path(path).relative_to(there)


def test_what_is_mounted_is_there() -> None:
    paths = [ROOT / here for here, _ in volumes() if here.startswith(".")]
    assert [path for path in paths if not path.is_dir()] == []
    assert {here for here, _ in volumes() if not here.startswith(".")} == COMPOSE["volumes"].keys()
    assert len(paths) == 4


def test_only_this_machine_reaches_the_ports() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports == ["127.0.0.1:8890:8890", "127.0.0.1:9090:9090", "127.0.0.1:3000:3000"]


def test_images_are_pinned() -> None:
    images = [service["image"] for service in SERVICES.values() if "image" in service]
    assert len(images) == len(SERVICES) - 1  # the proxy is built
    assert [image for image in images if not re.search(r":.*\d+\.\d+\.\d+", image)] == []


def test_observing_is_a_profile() -> None:
    profiles = {name: service.get("profiles", []) for name, service in SERVICES.items()}
    assert profiles == {"ollama": [], "swapper-service": [], "prometheus": ["observe"], "grafana": ["observe"]}
    for service in SERVICES.values():
        assert set(service.get("depends_on", ())) <= SERVICES.keys()


def test_the_proxy_writes_its_history_and_nothing_else() -> None:
    assert (PROXY["read_only"], PROXY["tmpfs"]) == (True, ["/tmp"])
    assert PROXY["security_opt"] == ["no-new-privileges:true"]
    (history,) = [there for here, there in volumes() if here == "history"]
    assert history == f"{PROXY['environment']['XDG_STATE_HOME']}/swapper-proxy"


def test_the_proxy_is_asked_for_its_health() -> None:
    assert PROXY["healthcheck"]["test"] == ["CMD", "swapper-proxy", "health"]
    assert {"http_proxy", "SWAPPER_PORT"}.isdisjoint(PROXY["environment"])  # the image says where it listens


def test_the_proxy_finds_its_ollama_and_stops_in_time(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("{}")
    environment = {name: value for name, value in PROXY["environment"].items() if name in config.ENVIRONMENT}
    settings = config.load(str(tmp_path / "c.yaml"), environment)
    assert settings.upstream.url == "http://ollama:11434"
    assert int(PROXY["stop_grace_period"].removesuffix("s")) > settings.server.shutdown_grace


def test_prometheus_is_mounted_and_scrapes_the_proxy() -> None:
    assert mounted("/etc/prometheus/prometheus.yml") == PROMETHEUS / "prometheus.yml"
    (job,) = read(PROMETHEUS / "prometheus.yml")["scrape_configs"]
    assert (job["job_name"], job["static_configs"]) == ("swapper-proxy", [{"targets": ["swapper-service:8890"]}])


def test_the_data_source_is_that_prometheus() -> None:
    assert mounted("/etc/grafana/provisioning/datasources/prometheus.yaml").is_file()
    assert SOURCE["url"] == "http://prometheus:9090"
    interval = read(PROMETHEUS / "prometheus.yml")["global"]["scrape_interval"]
    assert SOURCE["jsonData"]["timeInterval"] == interval


def test_the_dashboard_is_where_its_provider_looks() -> None:
    assert mounted("/etc/grafana/provisioning/dashboards/swapper-proxy.yaml").is_file()
    (provider,) = read(GRAFANA / "provisioning" / "dashboards" / "swapper-proxy.yaml")["providers"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/swapper-proxy.json"
    assert mounted(home) == GRAFANA / "dashboards" / "swapper-proxy.json"


def test_grafana_asks_nobody_outside_and_lets_nobody_change_what_is_provisioned() -> None:
    environment = SERVICES["grafana"]["environment"]
    asks = ("ANALYTICS_REPORTING_ENABLED", "ANALYTICS_CHECK_FOR_UPDATES", "ANALYTICS_CHECK_FOR_PLUGIN_UPDATES")
    assert {environment[f"GF_{name}"] for name in (*asks, "NEWS_NEWS_FEED_ENABLED")} == {"false"}
    assert environment["GF_PLUGINS_PREINSTALL_DISABLED"] == environment["GF_SECURITY_DISABLE_GRAVATAR"] == "true"
    assert "GF_AUTH_ANONYMOUS_ORG_ROLE" not in environment  # it is Viewer then
    assert SOURCE["editable"] is False


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_asks_the_provisioned_source_and_says_what_it_shows(panel: dict[str, Any]) -> None:
    for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
        assert (source["type"], source["uid"]) == (SOURCE["type"], SOURCE["uid"])
    assert panel["type"] in BUILT_IN
    assert panel["description"]


def test_panels_have_numbers_and_places_of_their_own() -> None:
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    places = [panel["gridPos"] for panel in everything]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_variable_is_the_model() -> None:
    (variable,) = dashboard()["templating"]["list"]
    assert (variable["name"], variable["datasource"]["uid"]) == ("model", SOURCE["uid"])
    assert (variable["allValue"], variable["includeAll"], variable["multi"]) == (".*", True, True)
    assert variable["query"]["query"] == "label_values(swapper_model_loaded, model)"


def test_compose_has_no_key_twice() -> None:
    """YAML readers take the last one and say nothing."""
    for path in (ROOT / "compose.yaml", *PROMETHEUS.glob("*.yml"), *GRAFANA.glob("provisioning/*/*.yaml")):
        for node in mappings(yaml.compose(path.read_text(encoding="utf-8"))):
            keys = [key.value for key, _ in node.value]
            assert len(set(keys)) == len(keys), (path, keys)


def mappings(node: Any) -> list[yaml.MappingNode]:
    """All in a document."""
    if isinstance(node, yaml.MappingNode):
        return [node] + [found for _, value in node.value for found in mappings(value)]
    return [found for item in node.value for found in mappings(item)] if isinstance(node, yaml.SequenceNode) else []
