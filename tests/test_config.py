"""Settings: what is read, and one line for each mistake."""

from pathlib import Path

import pytest

from swapper_proxy import config
from swapper_proxy.core.types import Limits

OLD = """
swapper: {mode: single-active, max_concurrent_models: 1, model_swap_timeout: 30, gpu_enabled: true,
          metal_acceleration: true, default_model: deepseek-r1-70b}
models:
  deepseek-r1-70b: {path: "ollama:deepseek-r1:70b", type: llm, size_gb: 42, priority: high}
"""


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **options):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    return config.load(str(file), environ or {}, options.get("options"))


def test_the_old_service_s_file_works_unchanged(tmp_path: Path) -> None:
    settings = load(tmp_path, OLD)
    assert settings.models["deepseek-r1-70b"].ollama_name == "deepseek-r1:70b"
    assert settings.swapper.model_swap_timeout == 30
    assert settings.limits == Limits(max_resident=1)


def test_environment_goes_before_the_file_and_options_before_both(tmp_path: Path) -> None:
    environ = {
        "OLLAMA_BASE_URL": "http://box:1",
        "SWAPPER_MODE": "multi-active",
        "MAX_CONCURRENT_MODELS": "3",
        "MODEL_SWAP_TIMEOUT": "12.5",
        "SWAPPER_HOST": "0.0.0.0",
        "SWAPPER_PORT": "99",
        "OLLAMA_NUM_PARALLEL": "2",
    }
    settings = load(tmp_path, OLD, environ, options={("server", "port"): 7})
    assert settings.upstream.url == "http://box:1"
    assert settings.limits.max_resident == 3
    assert settings.swapper.model_swap_timeout == 12.5
    assert (settings.server.host, settings.server.port) == ("0.0.0.0", 7)
    assert settings.swapper.parallel == 2


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("server: {port: 5}")
    settings = config.load(environ={"SWAPPER_CONFIG_PATH": str(file)})
    assert (settings.server.port, settings.source) == (5, str(file))


def test_without_a_file_at_the_default_place_the_defaults_hold(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = config.load(environ={})
    assert (settings.source, settings.server.port, settings.server.host) == ("defaults", 8890, "127.0.0.1")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("swapper: {mod: x}", "swapper.mod: unknown key"),
        ("nope: 1", "nope: unknown key"),
        ("swapper: {mode: both}", "swapper.mode: invalid enum value 'both'"),
        ("swapper: {max_concurrent_models: 0}", "swapper.max_concurrent_models: expected int >= 1"),
        ("swapper: {max_concurrent_models: two}", "swapper.max_concurrent_models: expected int, got str"),
        ("swapper: {model_swap_timeout: 0}", "swapper.model_swap_timeout: expected float > 0.0"),
        ("swapper: {gpu_enabled: 1}", "swapper.gpu_enabled: expected bool, got int"),
        ("swapper: {default_model: a}", "swapper.default_model: 'a' is not one of the models"),
        ("server: {port: 70000}", "server.port: expected int <= 65535"),
        ("upstream: {url: localhost}", "upstream.url: expected a URL like http://localhost:11434, got 'localhost'"),
        ("models: {a: {type: llm}}", "models.a.path: is required"),
        ("models: {a: {path: 'x'}}", 'models.a.path: expected "ollama:" and the name'),
        ("models: {a: {path: 'ollama:x', size: 3}}", "models.a.size: unknown key"),
        ("models: {a: {path: 'ollama:x'}, b: {path: 'ollama:X:latest'}}", "models.b: 'x:latest' already means"),
        ("models: {a: {path: 'ollama:x'}, a: {path: 'ollama:y'}}", "key 'a' is given twice"),
        ("- a", "expected a mapping of sections, got list"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "c.yaml"))
    assert complaint in message
    assert "\n" not in message


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(
        config.ConfigError, match=r"^MAX_CONCURRENT_MODELS: swapper.max_concurrent_models: expected int"
    ):
        load(tmp_path, "", {"MAX_CONCURRENT_MODELS": "many"})


def test_a_named_file_must_exist() -> None:
    with pytest.raises(config.ConfigError, match=r"^/nope.yaml: no such file$"):
        config.load("/nope.yaml", {})
