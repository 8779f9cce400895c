"""Settings: what is read, and one line for each mistake."""

import re
import socket
from pathlib import Path

import pytest

from swapper_proxy import config
from swapper_proxy.core.types import Limits, Priority, Rules

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


def one(model: str, swapper: str = "") -> str:
    return f"{{swapper: {{{swapper}}}, models: {{a: {{path: 'ollama:x', {model}}}}}}}"


def two(model: str, swapper: str = "") -> str:
    return f"{{swapper: {{{swapper}}}, models: {{a: {{path: 'ollama:x', {model}}}, b: {{path: 'ollama:y', {model}}}}}}}"


def routed(rules: str, swapper: str = "") -> str:
    """Two models, `a` over `x` and `b` over `y`, and the route `auto`."""
    models = "{a: {path: 'ollama:x'}, b: {path: 'ollama:y'}}"
    return f"{{swapper: {{{swapper}}}, models: {models}, routes: {{auto: {rules}}}}}"


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
    assert settings.ollama_num_parallel == 2


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
        ("swapper: {mode: both}", "swapper.mode: expected single-active or multi-active, got the text 'both'"),
        (
            "swapper: {max_concurrent_models: 0}",
            "swapper.max_concurrent_models: expected integer from 1 to 1000, got 0",
        ),
        (
            "swapper: {max_concurrent_models: two}",
            "swapper.max_concurrent_models: expected integer from 1 to 1000, got the text 'two'",
        ),
        ("swapper: {model_swap_timeout: 0}", "swapper.model_swap_timeout: expected number above 0 to 86400, got 0"),
        ("swapper: {gpu_enabled: 1}", "swapper.gpu_enabled: expected true or false, got 1"),
        ("swapper: {default_model: a}", "swapper.default_model: 'a' is not one of the models"),
        ("server: {port: 70000}", "server.port: expected integer from 0 to 65535, got 70000"),
        (
            "models: {a: {path: 'ollama:x', pinned: true}, b: {path: 'ollama:y', preload: true}}",
            "models.b: cannot be loaded at start beside what is pinned: a",
        ),
        (
            "swapper: {mode: multi-active, memory_budget_gb: 5, default_model: b}\n"
            "models: {a: {path: 'ollama:x', pinned: true, size_gb: 3}, b: {path: 'ollama:y', size_gb: 4}}",
            "models.b.size_gb: 4 beside the pinned models' 3 is more than memory_budget_gb, 5",
        ),
        (
            "models: {a: {path: 'ollama:x:cloud', preload: true}}",
            "models.a: runs elsewhere: it cannot be pinned, preloaded or the default model",
        ),
        (
            "swapper: {default_model: a, default_after: 5}\nmodels: {a: {path: 'ollama:x', keep_alive: 3}}",
            "models.a.keep_alive: contradicts default_after: it would come and go for ever",
        ),
        ("upstream: {url: localhost}", "upstream.url: expected a URL like http://localhost:11434, got 'localhost'"),
        ("models: {a: {type: llm}}", "models.a.path: is required"),
        ("models: {a: {path: 'x'}}", 'models.a.path: expected "ollama:" and the name'),
        ("models: {a: {path: 'ollama:x', size: 3}}", "models.a.size: unknown key"),
        ("models: {a: {path: 'ollama:x'}, b: {path: 'ollama:X:latest'}}", "models.b: 'x:latest' already means"),
        ("models: {a: {path: 'ollama:x'}, a: {path: 'ollama:y'}}", "key 'a' is given twice"),
        ("models: {a: {path: 'ollama: '}}", 'models.a.path: expected "ollama:" and the name'),
        ("models: {a: {path: 'ollama:'}}", 'models.a.path: expected "ollama:" and the name'),
        ("ollama_num_parallel: 3", "ollama_num_parallel: unknown key"),
        ("swapper: {max_wait: {high: 0}}", "swapper.max_wait.high: expected number above 0 to 31536000, got 0"),
        ("swapper: {max_wait: {urgent: 1}}", "swapper.max_wait.urgent: unknown key"),
        ("swapper: {max_wait: {medium: 5}}", "swapper.max_wait: expected high <= medium <= low, got 15, 5, 240"),
        ("swapper: {max_concurrent_models: 2}", "max_concurrent_models: 2 has no effect in mode single-active"),
        ("swapper: {memory_budget_gb: 0}", "swapper.memory_budget_gb: expected number above 0 to 100000, got 0"),
        ("swapper: {slots: {embedding: 0}}", "swapper.slots.embedding: expected int >= 1, got 0"),
        ("swapper: {slots: {vision: 1}}", "swapper.slots.vision: no model is of this type"),
        ("swapper: {default_after: 5}", "swapper.default_after: has no effect without default_model"),
        ("logging: {level: loud}", "logging.level: expected debug, info, warning or error, got the text 'loud'"),
        (one("priority: urgent"), "models.a.priority: expected high, medium or low, got the text 'urgent'"),
        (
            "swapper: {priority_header: raise}",
            "swapper.priority_header: expected ignore, lower or any, got the text 'raise'",
        ),
        ("swapper: {drain_timeout: 0}", "swapper.drain_timeout: expected number above 0 to 86400, got 0"),
        ("swapper: {keep_alive: '300'}", "swapper.keep_alive: expected seconds or a duration like 5m, got '300'"),
        ("swapper: {keep_alive: .inf}", "swapper.keep_alive: expected a finite number of seconds"),
        ("swapper: {keep_alive: true}", "swapper.keep_alive: expected number or text, got true"),
        (one("keep_alive: 5 minutes"), "models.a.keep_alive: expected seconds or a duration like 5m"),
        (one("pinned: true, keep_alive: 0"), "models.a.keep_alive: contradicts pinned"),
        (one("pinned: true, keep_alive: 5m"), "models.a.keep_alive: contradicts pinned"),
        (one("max_queue: 0"), "models.a.max_queue: expected integer from 1 to 1000000, got 0"),
        (
            one("runner_options: {policy: fix}"),
            "models.a.runner_options.policy: expected pass, pin or strip, got the text 'fix'",
        ),
        (one("runner_options: {num_keep: 1}"), "models.a.runner_options.num_keep: unknown key"),
        (
            one("runner_options: {policy: pin, num_ctx: 0}"),
            "models.a.runner_options.num_ctx: expected integer from 1, got 0",
        ),
        (one("runner_options: {policy: pin}"), "models.a.runner_options: policy pin needs at least one value"),
        (one("runner_options: {num_ctx: 1}"), "models.a.runner_options.num_ctx: has no effect with policy pass"),
        (one("runner_options: {policy: strip, num_gpu: 1}"), "runner_options.num_gpu: has no effect with policy strip"),
        (
            one("runner_options: {policy: pin, num_gpu: 9}", "gpu_enabled: false"),
            "models.a.runner_options.num_gpu: contradicts gpu_enabled or metal_acceleration: false",
        ),
        (
            one("size_gb: 9, pinned: true", "memory_budget_gb: 8"),
            "models.a.size_gb: 9 is more than memory_budget_gb, 8",
        ),
        (one("size_gb: 9, preload: true", "memory_budget_gb: 8"), "models.a.size_gb: 9 is more than"),
        (one("size_gb: 9", "memory_budget_gb: 8, default_model: a"), "models.a.size_gb: 9 is more than"),
        (
            two("pinned: true, size_gb: 5", "mode: multi-active, memory_budget_gb: 8"),
            "swapper.memory_budget_gb: 8 is less than the pinned models' size_gb, 10",
        ),
        (two("pinned: true"), "models.b.pinned: 2 models are pinned, mode single-active has room for 1"),
        (
            two("pinned: true, type: embedding", "slots: {embedding: 1}"),
            "models.b.pinned: 2 models are pinned, slot embedding has room for 1",
        ),
        (routed("{}"), "routes.auto: expected list of mappings, got a mapping"),
        (routed("[]"), "routes.auto: needs at least one rule"),
        (routed("[a]"), "routes.auto.1: expected mapping, got a text"),
        (routed("[{has_tools: true}]"), "routes.auto.1.model: is required"),
        (routed("[{model: a, has_tools: true}, {model: b, has_tool: true}]"), "routes.auto.2.has_tool: unknown key"),
        (routed("[{model: a, has_images: 1}]"), "routes.auto.1.has_images: expected true or false, got 1"),
        (routed("[{model: a, longer_than: -1}]"), "routes.auto.1.longer_than: expected integer from 0, got -1"),
        (routed("[{model: 5}]"), "routes.auto.1.model: expected text or list of texts, got 5"),
        (routed("[{model: [a, 5]}]"), "routes.auto.1.model.2: expected text, got 5"),
        (routed("[{model: []}]"), "routes.auto.1.model: expected the name of a model, or a list of names"),
        (routed("[{model: [a, '']}]"), "routes.auto.1.model: expected the name of a model, or a list of names"),
        (routed("[{model: AUTO}]"), "routes.auto.1.model: 'AUTO' is a route; a rule names models"),
        (routed("[{model: a}, {model: b}]"), "routes.auto.2: is never reached: rule 1 has no conditions"),
        (
            routed("[{model: [B, z]}]", "unlisted_models: deny"),
            "routes.auto.1.model: 'z' is not one of the models, and unlisted_models is deny",
        ),
        (
            routed("[{model: a}]", "default_model: auto:latest"),
            "swapper.default_model: 'auto:latest' is a route, no model",
        ),
        (routed("[{model: a}], A: [{model: b}]"), "routes.A: 'a:latest' already means model 'a'"),
        (routed("[{model: a}], library/Y: [{model: b}]"), "routes.library/Y: 'y:latest' already means model 'b'"),
        (routed("[{model: a}], Auto: [{model: b}]"), "routes.Auto: 'auto:latest' already means route 'auto'"),
        (routed('[{model: a}], "au\\tto": [{model: b}]'), "routes: expected names of 1 to 255 printable characters"),
        (
            'models: {"a\\r\\nb": {path: "ollama:x"}}',
            r"models: expected names of 1 to 255 printable characters, got 'a\r\nb'",
        ),
        (f"models: {{{'a' * 256}: {{path: 'ollama:x'}}}}", "models: expected names of 1 to 255 printable characters"),
        ("routes: [auto]", "routes: expected mapping, got a list"),
        ("history: nothing", "history: expected mapping, got a text"),
        ("history: {path: ''}", "history.path: expected text that is not empty, got the text ''"),
        ("history: {path: 5}", "history.path: expected text that is not empty, got 5"),
        ("history: {path: ~never-here/h.sqlite}", "history.path: Could not determine home directory"),
        ('history: {path: "a\\0b"}', "history.path: must hold no NUL"),
        ("history: {days: 0}", "history.days: expected integer from 1 to 36500, got 0"),
        ("history: {max_mb: 0.5}", "history.max_mb: expected integer from 1 to 1000000, got 0.5"),
        ("history: {size: 5}", "history.size: unknown key"),
        ("- a", "expected a mapping of sections, as in `upstream: {url: ...}`"),
        ("a: b: c", "not valid YAML: line 1, column 5: mapping values are not allowed here"),
        ("defaults: &d {priority: low}", "unknown key; if it is only there to be merged, call it x-defaults"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load(tmp_path, text)
    assert any(complaint in line for line in str(caught.value).splitlines())
    assert all(line.startswith(f"{tmp_path / 'c.yaml'}: ") for line in str(caught.value).splitlines())


MANY = """
swaper: {mode: both}
port: 8890
swapper: {memory_budget: 24, memory_budget_gb: 24GB, keep_alive: [5m], max_wait: {high: soon}}
upstream: {url: 5, headers: {Authorization: 7}}
models: {a: {path: x, prioritty: high}, b: [c], d: {type: llm}}
routes: {auto: [{model: a, has_image: true}, b]}
keys: {clients: {one: {key: 12345678}}}
server: {trusted_proxies: [10.0.0.0/8, 5], shutdown_grace: .nan, port: 0xfff}
"""
ALL_OF_THEM = """
swaper: unknown key; did you mean swapper?
port: unknown key; did you mean server.port?
swapper.memory_budget: unknown key; did you mean memory_budget_gb?
swapper.memory_budget_gb: expected number above 0 to 100000, got the text '24GB'
swapper.max_wait.high: expected number above 0 to 31536000, got the text 'soon'
swapper.keep_alive: expected number or text, got a list
upstream.url: expected text, got a number
upstream.headers.Authorization: expected text or mapping, got a number
models.a.prioritty: unknown key; did you mean priority?
models.a.path: expected "ollama:" and the name that Ollama knows the model by, as in "ollama:llama3.2:3b", got the text 'x'
models.b: expected mapping, got a list
models.d.path: is required
routes.auto.1.has_image: unknown key; did you mean has_images?
routes.auto.2: expected mapping, got a text
keys.clients.one.key: expected text, got a number
server.trusted_proxies.2: expected text, got 5
server.shutdown_grace: expected number from 0 to 31536000, got .nan
"""  # noqa: E501 - each is one line


def test_all_mistakes_come_at_once_and_none_tells_a_secret(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load(tmp_path, MANY, {"SWAPPER_PORT": "99999", "SWAPPER_MODE": "two"})
    *in_file, port, mode = str(caught.value).splitlines()
    expected = [f"{tmp_path / 'c.yaml'}: {line}" for line in ALL_OF_THEM.strip().splitlines()]
    assert sorted(in_file) == sorted(expected)
    assert port == "SWAPPER_PORT: server.port: expected integer from 0 to 65535, got 99999"
    assert mode == "SWAPPER_MODE: swapper.mode: expected single-active or multi-active, got the text 'two'"


@pytest.mark.parametrize(
    "text",
    [
        "upstream:\n  headers:\n    Authorization: Bearer S3CRET: x",
        'upstream:\n  headers:\n    Authorization: "Bearer S3CRET',
        "upstream: http://u:S3CRET@h",
        "upstream: {url: [S3CRET]}",
        'upstream: {headers: {"Authorization: Bearer S3CRET": x}}',
        "keys: S3CRET",
        "keys: {clients: {alice: S3CRET}}",
        "keys: {clients: {alice: {key: [S3CRET]}}}",
        "keys: {clients: {alice: {key: !!int S3CRET}}}",
    ],
)
def test_no_mistake_tells_a_secret(tmp_path: Path, text: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load(tmp_path, text)
    assert "S3CRET" not in str(caught.value)


def test_contradictions_elsewhere_come_with_the_mistakes(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load(tmp_path, "swapper: {mode: two}\nupstream: {url: 'localhost:1'}\nserver: {trusted_proxies: [x]}")
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        *("swapper.mode", "upstream.url", "server.trusted_proxies")
    ]
    with pytest.raises(config.ConfigError) as caught:
        load(tmp_path, "server: {port: x}\nupstream: {url: 'localhost:1'}")
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["server.port"]


def test_all_contradictions_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load(tmp_path, "swapper: {max_wait: {high: 99}, default_model: x, default_after: 5, slots: {llm: 0}}")
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "swapper.default_model",
        "swapper.max_wait",
        "swapper.slots.llm",
    ]


def test_what_the_environment_says_goes_before_a_mistake_in_the_file(tmp_path: Path) -> None:
    assert load(tmp_path, "server: {port: none}", {"SWAPPER_PORT": "1234"}).server.port == 1234


MERGED = """
x-small: &small {type: llm, size_gb: 2}
x-both: &both {<<: *small, priority: low, parallel: 2}
models:
  a: &a {<<: *small, path: "ollama:a", pinned: true, parallel: 3}
  b: {<<: [*both, *a], path: "ollama:b", pinned: false}
  c: {path: "ollama:c", <<: {size_gb: 3, type: x}, size_gb: 4}
"""


def test_merge_keys(tmp_path: Path) -> None:
    models = load(tmp_path, MERGED).models
    told = {name: (m.type, m.size_gb, m.priority, m.parallel, m.path) for name, m in models.items()}
    assert told == {
        "a": ("llm", 2, "medium", 3, "ollama:a"),
        "b": ("llm", 2, "low", 2, "ollama:b"),
        "c": ("x", 4, "medium", None, "ollama:c"),
    }


BOMB = "x-0: &k0 {a: 1, b: 2}\n" + "".join(
    f"x-{n}: &k{n} {{<<: [{', '.join([f'*k{n - 1}'] * 10)}]}}\n" for n in range(1, 30)
)


def test_merges_of_merges_do_not_grow_without_end(tmp_path: Path) -> None:
    load(tmp_path, BOMB)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("models: {a: {<<: {path: 'ollama:x', path: 'ollama:y'}}}", "key 'path' is given twice"),
        ("x-a: &a {b: 1}\nmodels: {a: {<<: *a, <<: *a}}", "several are merged by a list"),
        ("x-a: &a {b: 1}\nmodels: {a: {<<: *a, path: 'ollama:x'}}", "models.a.b: unknown key"),
        ("models: {a: {<<: 5}}", "after << a mapping is expected, or a list of mappings"),
        ("models: {a: &a {<<: *a, path: 'ollama:x'}}", "not valid YAML"),
        ("models: {a: {5: x}}", "key 5 is no text; put it in quotes"),
    ],
)
def test_a_mistake_in_what_is_merged(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(config.ConfigError, match=re.escape(complaint)):
        load(tmp_path, text)


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(
        config.ConfigError, match=r"^MAX_CONCURRENT_MODELS: swapper.max_concurrent_models: expected int"
    ):
        load(tmp_path, "", {"MAX_CONCURRENT_MODELS": "many"})


@pytest.mark.parametrize(
    ("environ", "options", "complaint"),
    [
        ({"OLLAMA_BASE_URL": "box"}, {}, "OLLAMA_BASE_URL: upstream.url: expected a URL"),
        ({"OLLAMA_BASE_URL": "http://x:y"}, {}, "OLLAMA_BASE_URL: upstream.url: Port could not be cast"),
        ({"OLLAMA_BASE_URL": "box"}, {("upstream", "url"): "ftp://x"}, "command line: upstream.url: expected a URL"),
        ({"MAX_CONCURRENT_MODELS": "3"}, {}, "MAX_CONCURRENT_MODELS: swapper.max_concurrent_models: 3 has no effect"),
        (
            {"OLLAMA_BASE_URL": "http://127.0.0.1:8890"},
            {},
            "OLLAMA_BASE_URL: upstream.url: http://127.0.0.1:8890 is the",
        ),
        ({"OLLAMA_NUM_PARALLEL": "-1"}, {}, "OLLAMA_NUM_PARALLEL: expected integer from 0 to 1024, got '-1'"),
        ({"OLLAMA_NUM_PARALLEL": "x"}, {}, "OLLAMA_NUM_PARALLEL: expected integer from 0 to 1024, got 'x'"),
        ({"OLLAMA_NUM_PARALLEL": "1025"}, {}, "OLLAMA_NUM_PARALLEL: expected integer from 0 to 1024, got '1025'"),
    ],
)
def test_a_contradiction_is_blamed_on_what_brought_it(tmp_path: Path, environ, options, complaint: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load(tmp_path, "", environ, options=options)
    assert str(caught.value).startswith(complaint)


def test_ollama_s_automatic_parallel_counts_as_not_given(tmp_path: Path) -> None:
    assert load(tmp_path, "", {"OLLAMA_NUM_PARALLEL": "0"}).ollama_num_parallel is None
    assert load(tmp_path, "", {"OLLAMA_NUM_PARALLEL": ""}).ollama_num_parallel is None


def test_all_limits_reach_the_scheduler(tmp_path: Path) -> None:
    text = """
    swapper:
      {mode: multi-active, max_concurrent_models: 3, memory_budget_gb: 24, slots: {embedding: 1}, drain_timeout: 9,
       max_queue: 7, queue_timeout: 8, max_wait: {high: 1, medium: 2, low: 2}}
    upstream: {grace: 6}
    """
    waits = {Priority.HIGH: 1.0, Priority.MEDIUM: 2.0, Priority.LOW: 2.0}
    assert load(tmp_path, text).limits == Limits(
        max_resident=3,
        max_queue=7,
        queue_timeout_s=8,
        upstream_grace_s=6,
        memory_gb=24,
        slots={"embedding": 1},
        drain_timeout_s=9,
        rules=Rules(max_wait_s=waits),
    )


@pytest.mark.parametrize(
    ("swapper", "number"),
    [
        ("mode: single-active, memory_budget_gb: 8", 1),
        ("mode: single-active, max_concurrent_models: 1", 1),
        ("mode: multi-active", 1),
        ("mode: multi-active, max_concurrent_models: 2, memory_budget_gb: 8", 2),
        ("mode: multi-active, memory_budget_gb: 8", 1_000_000),
    ],
)
def test_how_many_models_may_be_in_memory(tmp_path: Path, swapper: str, number: int) -> None:
    assert load(tmp_path, f"swapper: {{{swapper}}}").limits.max_resident == number


@pytest.mark.parametrize(
    "text",
    [
        one("pinned: true", "default_model: a"),
        one("pinned: true, keep_alive: -1, runner_options: {policy: strip}"),
        one(
            "type: vision",
            "slots: {vision: 1, llm: 1, embedding: 2}, keep_alive: 1h30m, ignore_client_keep_alive: true",
        ),
        one("preload: true, max_queue: 3, keep_alive: -1", "default_model: a, default_after: 5, priority_header: any"),
        two("pinned: true", "mode: multi-active, memory_budget_gb: 8"),
        routed("[{model: y, has_tools: false, longer_than: 0}, {model: [a, b]}]"),
        routed("[{model: [A, x:latest, 'y']}]", "unlisted_models: deny"),
    ],
)
def test_what_is_sound_is_taken_without_a_warning(tmp_path: Path, text: str) -> None:
    assert config.warnings(load(tmp_path, text)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            one("runner_options: {policy: pin, num_ctx: 4096, use_mmap: false}"),
            "models.a.runner_options: /v1 clients cannot send options; to give them the same num_ctx, use_mmap put "
            "`PARAMETER num_ctx 4096` and `PARAMETER use_mmap false` into the Modelfile",
        ),
        (
            one("runner_options: {policy: pin, num_gpu: 0}", "gpu_enabled: false"),
            "models.a.runner_options: /v1 clients cannot send options; to give them the same num_gpu put "
            "`PARAMETER num_gpu 0` into the Modelfile",
        ),
        (
            "models: {a: {path: 'ollama:x', pinned: true}, b: {path: 'ollama:y'}, c: {path: 'ollama:z'}}",
            "models.a.pinned: takes the last room of mode single-active; once it is resident these are refused: b, c",
        ),
        (two("preload: true"), "models.b.preload: 2 models are loaded at start, mode single-active has room for 1"),
        (
            "swapper: {slots: {v: 1}}\n"
            "models: {a: {path: 'ollama:x', type: v, pinned: true}, b: {path: 'ollama:y', type: v}}",
            "models.a.pinned: takes the last room of slot v; once it is resident these are refused: b",
        ),
        (
            "swapper: {mode: multi-active, memory_budget_gb: 24, slots: {embedding: 1}}\n"
            "models: {a: {path: 'ollama:x', size_gb: 12, pinned: true}, b: {path: 'ollama:y', size_gb: 11.5, pinned: "
            "true}, e: {path: 'ollama:z', size_gb: 0.6, type: embedding}}",
            "swapper.memory_budget_gb: the pinned models leave 0.5 GB of 24; these do not fit and are refused (507): e "
            "(0.6 GB)",
        ),
        (
            one("size_gb: 8", "memory_budget_gb: 0.5"),
            "swapper.memory_budget_gb: 0.5 GB; these do not fit and are refused (507): a (8 GB)",
        ),
        (
            "swapper: {mode: multi-active, memory_budget_gb: 24, slots: {embedding: 1}}\n"
            "models: {a: {path: 'ollama:x', size_gb: 12, pinned: true}, b: {path: 'ollama:y', size_gb: 11.5, pinned: "
            "true}, e: {path: 'ollama:z', type: embedding}}",
            "swapper.memory_budget_gb: the pinned models leave 0.5 GB of 24; a model that takes more is refused (507)",
        ),
        (
            routed("[{model: a, has_tools: true}, {model: nowhere}]"),
            "routes.auto.2.model: 'nowhere' is not one of the models; Ollama must have a model of this name",
        ),
        (
            routed("[{model: a, has_tools: true}, {model: b, has_tools: false}]"),
            "routes.auto: a request may match no rule (400); a last rule without conditions takes all",
        ),
    ],
)
def test_what_may_surprise_is_a_warning(tmp_path: Path, text: str, expected: str) -> None:
    assert config.warnings(load(tmp_path, text)) == [expected]


def test_a_pinned_model_in_a_slot_of_its_own_leaves_room(tmp_path: Path) -> None:
    text = """
    swapper: {slots: {embedding: 1}}
    models: {a: {path: "ollama:x"}, b: {path: "ollama:y", type: embedding, pinned: true}}
    """
    assert config.warnings(load(tmp_path, text)) == []


def test_what_a_rule_says(tmp_path: Path) -> None:
    rules = load(tmp_path, routed("[{model: a, longer_than: 0, has_tools: false}, {model: [b, a]}]")).routes["auto"]
    assert [rule.models for rule in rules] == [("a",), ("b", "a")]
    assert [rule.conditions for rule in rules] == [{"has_tools": False, "longer_than": 0}, {}]


@pytest.mark.parametrize("name", ["a", "A:latest", "X", "library/x"])
def test_a_configured_model_is_found_in_any_spelling(tmp_path: Path, name: str) -> None:
    settings = load(tmp_path, routed("[{model: a}]"))
    assert settings.configured(name) == ("a", settings.models["a"])
    assert settings.configured("auto") is None


def test_a_named_file_must_exist() -> None:
    with pytest.raises(config.ConfigError, match=r"^/nope.yaml: no such file$"):
        config.load("/nope.yaml", {})


@pytest.mark.parametrize(
    ("text", "environ", "path"),
    [
        ("", {"XDG_STATE_HOME": "/state"}, "/state/swapper-proxy/history.sqlite"),
        ("history:", {"XDG_STATE_HOME": "/state"}, "/state/swapper-proxy/history.sqlite"),
        ("history: on", {"XDG_STATE_HOME": "/state"}, "/state/swapper-proxy/history.sqlite"),
        ("history: {days: 3}", {"XDG_STATE_HOME": "/state"}, "/state/swapper-proxy/history.sqlite"),
        ("", {}, "HOME/.local/state/swapper-proxy/history.sqlite"),
        ("", {"XDG_STATE_HOME": "relative"}, "HOME/.local/state/swapper-proxy/history.sqlite"),
        ("history: {path: ~/h.sqlite}", {"XDG_STATE_HOME": "/state"}, "HOME/h.sqlite"),
        ("history: {path: h.sqlite}", {"XDG_STATE_HOME": "/state"}, "h.sqlite"),
        ("history: off", {"XDG_STATE_HOME": "/state"}, None),
        ('history: "off"', {"XDG_STATE_HOME": "/state"}, None),
    ],
)
def test_where_the_history_is_kept(tmp_path: Path, monkeypatch, text: str, environ, path: str | None) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(tmp_path, text, environ).history.path == (path and path.replace("HOME", str(tmp_path)))


def test_settings_made_in_code_keep_no_history() -> None:
    assert config.Settings().history.path is None


@pytest.mark.parametrize(
    ("listen", "url", "itself"),
    [
        ("127.0.0.1", "http://0.0.0.0:8890", True),
        ("0.0.0.0", "http://0.0.0.0:8890", True),
        ("0.0.0.0", "http://localhost:8890/x", True),
        ("0.0.0.0", "http://127.0.0.2:8890", True),
        ("0.0.0.0", "http://[::ffff:127.0.0.1]:8890", True),
        ("localhost", "http://127.0.0.1:8890", True),
        ("", "http://127.0.0.1:8890", True),
        ("", "http://[::1]:8890", True),
        ("::", "http://[::]:8890", True),
        ("::1", "http://[::1]:8890", True),
        ("203.0.113.7", "http://203.0.113.7:8890", True),
        ("127.0.0.1", "http://127.0.0.1:8891", False),
        ("127.0.0.1", "http://127.0.0.1", False),
        ("127.0.0.1", "http://127.0.0.2:8890", False),
        ("203.0.113.7", "http://127.0.0.1:8890", False),
        ("0.0.0.0", "http://203.0.113.7:8890", False),
        ("::1", "http://127.0.0.1:8890", False),
    ],
)
def test_the_proxy_as_its_own_upstream(tmp_path: Path, listen: str, url: str, itself: bool) -> None:
    text = f"server: {{host: '{listen}'}}\nupstream: {{url: '{url}'}}"
    if itself:
        with pytest.raises(config.ConfigError, match="is the proxy itself"):
            load(tmp_path, text)
    else:
        assert load(tmp_path, text).upstream.url == url


def test_a_name_that_cannot_be_resolved_may_mean_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert load(tmp_path, "upstream: {url: 'http://somewhere:8890'}").upstream.url == "http://somewhere:8890"
