"""What one key alone does not show: contradictions stop the start, warnings do not."""

import ipaddress
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

from swapper_proxy.config import keys, upstream
from swapper_proxy.config.keep_alive import LONGEST_S, InvalidKeepAlive, KeepAlive, seconds_of
from swapper_proxy.config.kinds import Problem
from swapper_proxy.config.room import squeezed_out
from swapper_proxy.config.settings import Model, Route, Settings
from swapper_proxy.core.names import canonical, is_cloud, is_plausible

# Models that are not configured have these types, so a slot for one is never without use.
TYPES_OF_OLLAMA = frozenset(("llm", "embedding"))

LONGEST_CHOSEN = 255  # of the names that the operator chooses, in characters


def problems(settings: Settings) -> Iterator[Problem]:
    """All that keeps the settings from being used."""
    yield from itertools.starmap(Problem, upstream.problems(settings))
    yield from _trusted_proxies(settings)
    yield from itertools.starmap(Problem, keys.problems(settings))
    yield from _plausible_names(settings)
    yield from _names(settings)
    yield from _routes(settings)
    yield from _default_model(settings)
    yield from _max_wait(settings)
    yield from _count(settings)
    yield from _slots(settings)
    yield from _keep_alives(settings)
    yield from _runner_options(settings)
    yield from _pinned_number(settings)
    yield from _remote(settings)
    yield from _history(settings)
    yield from _sizes(settings)


def warnings(settings: Settings) -> list[str]:
    """What can be used but may surprise, a line each."""
    return [
        f"{key_path}: {text}"
        for check in (
            _v1_options,
            _crowded_out,
            squeezed_out,
            _preloads,
            _open_routes,
            _unnamed,
            keys.warnings,
            upstream.warnings,
        )
        for key_path, text in check(settings)
    ]


def _history(settings: Settings) -> Iterator[Problem]:
    path = settings.history.path or ""
    try:
        Path(path).expanduser()
    except RuntimeError as error:  # of whose home directory nothing is known
        yield Problem("history.path", str(error).rstrip("."))
    if "\0" in path:
        yield Problem("history.path", "must hold no NUL")


def _trusted_proxies(settings: Settings) -> Iterator[Problem]:
    for network in settings.server.trusted_proxies:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            yield Problem("server.trusted_proxies", f"expected networks like 10.0.0.0/8 or addresses: {error}")


def _plausible_names(settings: Settings) -> Iterator[Problem]:
    """Others could not be asked for, or not be told in a header."""
    for section, names in (("models", settings.models), ("routes", settings.routes)):
        for name in names:
            if not 1 <= len(name) <= LONGEST_CHOSEN or not is_plausible(name):
                yield Problem(
                    section, f"expected names of 1 to {LONGEST_CHOSEN} printable characters, got {name[:300]!r}"
                )


def _names(settings: Settings) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    models = [("model", name, (name, model.ollama_name)) for name, model in settings.models.items()]
    for kind, name, names in (*models, *(("route", name, (name,)) for name in settings.routes)):
        for spelling in sorted({canonical(n) for n in names}):
            if spelling in taken:
                yield Problem(f"{kind}s.{name}", f"{spelling!r} already means {taken[spelling]}")
            taken[spelling] = f"{kind} {name!r}"


def _routes(settings: Settings) -> Iterator[Problem]:
    for name, rules in settings.routes.items():
        if not rules:
            yield Problem(f"routes.{name}", "needs at least one rule")
        for number, rule in enumerate(rules, 1):
            key_path = f"routes.{name}.{number}"
            if number > 1 and not rules[number - 2].conditions:
                yield Problem(key_path, f"is never reached: rule {number - 1} has no conditions")
            yield from _rule_models(settings, f"{key_path}.model", rule)


def _rule_models(settings: Settings, key_path: str, rule: Route) -> Iterator[Problem]:
    routes = {canonical(name) for name in settings.routes}
    if not all(rule.models) or not rule.models:
        yield Problem(key_path, "expected the name of a model, or a list of names")
    for model in rule.models:
        if canonical(model) in routes:
            yield Problem(key_path, f"{model!r} is a route; a rule names models")
        elif settings.swapper.unlisted_models == "deny" and settings.configured(model) is None:
            yield Problem(key_path, f"{model!r} is not one of the models, and unlisted_models is deny")


def _open_routes(settings: Settings) -> Iterator[Problem]:
    for name, rules in settings.routes.items():
        if rules[-1].conditions:
            text = "a request may match no rule (400); a last rule without conditions takes all"
            yield Problem(f"routes.{name}", text)


def _unnamed(settings: Settings) -> Iterator[Problem]:
    """A misspelt name shows only when a request is routed there."""
    for name, rules in settings.routes.items():
        for number, rule in enumerate(rules, 1):
            for model in rule.models:
                if settings.configured(model) is None:
                    text = f"{model!r} is not one of the models; Ollama must have a model of this name"
                    yield Problem(f"routes.{name}.{number}.model", text)


def _default_model(settings: Settings) -> Iterator[Problem]:
    swapper = settings.swapper
    if swapper.default_model is not None and swapper.default_model not in settings.models:
        routes = {canonical(name) for name in settings.routes}
        wrong = "is a route, no model" if canonical(swapper.default_model) in routes else "is not one of the models"
        yield Problem("swapper.default_model", f"{swapper.default_model!r} {wrong}")
    if swapper.default_after is not None and swapper.default_model is None:
        yield Problem("swapper.default_after", "has no effect without default_model")


def _max_wait(settings: Settings) -> Iterator[Problem]:
    wait = settings.swapper.max_wait
    if not wait.high <= wait.medium <= wait.low:
        yield Problem(
            "swapper.max_wait", f"expected high <= medium <= low, got {wait.high:g}, {wait.medium:g}, {wait.low:g}"
        )


def _count(settings: Settings) -> Iterator[Problem]:
    swapper = settings.swapper
    if swapper.mode == "single-active" and (swapper.max_concurrent_models or 1) > 1:
        yield Problem(
            "swapper.max_concurrent_models", f"{swapper.max_concurrent_models} has no effect in mode single-active"
        )


def _slots(settings: Settings) -> Iterator[Problem]:
    types = TYPES_OF_OLLAMA | {model.type for model in settings.models.values()}
    for kind, count in settings.swapper.slots.items():
        if count < 1:
            yield Problem(f"swapper.slots.{kind}", f"expected int >= 1, got {count}")
        if kind not in types:
            yield Problem(f"swapper.slots.{kind}", "no model is of this type")


def _keep_alives(settings: Settings) -> Iterator[Problem]:
    yield from _keep_alive("swapper.keep_alive", settings.swapper.keep_alive)
    for name, model in settings.models.items():
        key_path = f"models.{name}.keep_alive"
        wrong = list(_keep_alive(key_path, model.keep_alive))
        yield from wrong
        if wrong or model.keep_alive is None or seconds_of(model.keep_alive) == math.inf:
            continue
        if model.pinned:
            yield Problem(key_path, "contradicts pinned: a pinned model stays in memory")
        elif name == settings.swapper.default_model and settings.swapper.default_after is not None:
            yield Problem(key_path, "contradicts default_after: it would come and go for ever")


def _keep_alive(key_path: str, value: KeepAlive | None) -> Iterator[Problem]:
    try:
        if value is not None:
            seconds_of(value)
        if isinstance(value, int | float) and value >= LONGEST_S:
            yield Problem(key_path, f"expected at most {LONGEST_S} s, or -1 for ever, got {value}")
    except InvalidKeepAlive as error:
        yield Problem(key_path, str(error))


def _runner_options(settings: Settings) -> Iterator[Problem]:
    for name, model in settings.models.items():
        options, key_path = model.runner_options, f"models.{name}.runner_options"
        if options.policy == "pin" and not options.values:
            yield Problem(key_path, "policy pin needs at least one value, as in num_ctx: 8192")
        if options.policy != "pin" and options.values:
            yield Problem(f"{key_path}.{next(iter(options.values))}", f"has no effect with policy {options.policy}")
        if not settings.swapper.gpu and options.num_gpu:
            yield Problem(f"{key_path}.num_gpu", "contradicts gpu_enabled or metal_acceleration: false")


def _pinned_number(settings: Settings) -> Iterator[Problem]:
    for kind, room, models in _groups(settings):
        pinned = [name for name, model in models.items() if model.pinned]
        if len(pinned) > room:
            text = f"{len(pinned)} models are pinned, {_where(settings, kind)} has room for {room}"
            yield Problem(f"models.{pinned[room]}.pinned", text)
        for name in _at_start(settings):
            if name in models and name not in pinned and len(pinned) >= room:
                yield Problem(f"models.{name}", f"cannot be loaded at start beside what is pinned: {', '.join(pinned)}")


def _at_start(settings: Settings) -> list[str]:
    """The models that the config wants in memory."""
    default = settings.swapper.default_model
    return [name for name, model in settings.models.items() if model.pinned or model.preload or name == default]


def _remote(settings: Settings) -> Iterator[Problem]:
    for name in _at_start(settings):
        if is_cloud(settings.models[name].ollama_name):
            yield Problem(f"models.{name}", "runs elsewhere: it cannot be pinned, preloaded or the default model")


def _sizes(settings: Settings) -> Iterator[Problem]:
    """Only of models that must be in memory: the others are refused when they are asked for."""
    budget = settings.swapper.memory_budget_gb or math.inf
    pinned = sum(model.size_gb or 0 for model in settings.models.values() if model.pinned)
    for name in _at_start(settings):
        size = settings.models[name].size_gb or 0
        if size > budget:
            yield Problem(f"models.{name}.size_gb", f"{size:g} is more than memory_budget_gb, {budget:g}")
        elif not settings.models[name].pinned and size + pinned > budget:
            text = f"{size:g} beside the pinned models' {pinned:g} is more than memory_budget_gb, {budget:g}"
            yield Problem(f"models.{name}.size_gb", text)
    if pinned > budget >= max(model.size_gb or 0 for model in settings.models.values()):
        yield Problem("swapper.memory_budget_gb", f"{budget:g} is less than the pinned models' size_gb, {pinned:g}")


def _v1_options(settings: Settings) -> Iterator[Problem]:
    for name, model in settings.models.items():
        if model.runner_options.policy == "pin":
            values = model.runner_options.values
            lines = " and ".join(f"`PARAMETER {option} {_in_modelfile(value)}`" for option, value in values.items())
            text = f"/v1 clients cannot send options; to give them the same {', '.join(values)} put {lines}"
            refused = "; until then they are refused, because the model is pinned" if model.pinned else ""
            yield Problem(f"models.{name}.runner_options", f"{text} into the Modelfile{refused}")


def _in_modelfile(value: bool | int) -> str:
    return str(value).lower()


def _crowded_out(settings: Settings) -> Iterator[Problem]:
    for kind, room, models in _groups(settings):
        pinned = [name for name, model in models.items() if model.pinned]
        others = ", ".join(name for name in models if name not in pinned)
        if len(pinned) == room and others:
            text = f"takes the last room of {_where(settings, kind)}; once it is resident these are refused: {others}"
            yield Problem(f"models.{pinned[-1]}.pinned", text)


def _preloads(settings: Settings) -> Iterator[Problem]:
    for kind, room, models in _groups(settings):
        loaded = [name for name, m in models.items() if m.preload or name == settings.swapper.default_model]
        preloaded = [name for name in loaded if models[name].preload]
        if len(loaded) > room and preloaded:
            text = f"{len(loaded)} models are loaded at start, {_where(settings, kind)} has room for {room}"
            yield Problem(f"models.{preloaded[-1]}.preload", text)


def _where(settings: Settings, kind: str) -> str:
    return f"slot {kind}" if kind else f"mode {settings.swapper.mode}"


def _groups(settings: Settings) -> Iterator[tuple[str, int, dict[str, Model]]]:
    """Models that share room, with the type that has the slot ("": none) and how many fit."""
    swapper, models = settings.swapper, settings.models
    yield "", swapper.max_resident, {n: m for n, m in models.items() if m.type not in swapper.slots}
    for kind, room in swapper.slots.items():
        yield kind, room, {n: m for n, m in models.items() if m.type == kind}
