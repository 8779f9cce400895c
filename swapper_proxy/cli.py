"""The command line.  Exit codes: 0 done, 1 refused or failed, 2 usage or configuration, 3 no proxy answers."""

import asyncio
import json
import os
import re
import secrets
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import click
from click.shell_completion import get_completion_class

from swapper_proxy import __version__, calling, config
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.observe import logs
from swapper_proxy.replay import host, recorded, report, simulation, workload
from swapper_proxy.runtime.ports import UpstreamRefused, UpstreamUnreachable
from swapper_proxy.storage import excerpt, schema
from swapper_proxy.web import explaining
from swapper_proxy.web.history import moment

REFUSED, MISUSED, UNREACHABLE = 1, 2, 3
KEY = "swapper_proxy.key"  # in the meta of click's context
HEALTH_LIMIT_S = 4.0
LONG = 20_000  # requests: a simulation of so many takes seconds


def key_option(command: Callable[..., None]) -> Callable[..., None]:
    """The key is for `_call` alone."""

    def keep(context: click.Context, _: click.Parameter, path: str | None) -> None:
        key = _content(path).decode(errors="surrogateescape") if path else os.environ.get("SWAPPER_KEY", "")
        context.meta[KEY] = key.strip()

    text = "Read the management key from this file [default: $SWAPPER_KEY]."
    return click.option("--key-file", metavar="FILE", expose_value=False, callback=keep, help=text)(command)


def url_option(command: Callable[..., None]) -> Callable[..., None]:
    text = "The running proxy [default: http://127.0.0.1:8890; $SWAPPER_HOST and $SWAPPER_PORT change it]."
    default = partial(calling.own_url, os.environ)
    return click.option("--url", envvar="SWAPPER_URL", default=default, help=text)(key_option(command))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
config_option = click.option(
    "--config",
    "path",
    metavar="FILE",
    help="Configuration [default: $SWAPPER_CONFIG_PATH, ./config/swapper_config.yaml].",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="swapper-proxy")
def main() -> None:
    """A proxy in front of Ollama that swaps models seldom, starves nobody and shows everything.

    Start it with `swapper-proxy serve` and point your clients' OLLAMA_BASE_URL at it.
    """


@main.command()
@config_option
@click.option("--host", help="Address to listen on [default: 127.0.0.1].")
@click.option("--port", type=int, help="Port to listen on [default: 8890].")
@click.option("--upstream", metavar="URL", help="The Ollama behind the proxy [default: http://localhost:11434].")
@click.option("--simulate-if-unreachable", is_flag=True, help="Start on a simulated Ollama if none answers.")
def serve(
    path: str | None, host: str | None, port: int | None, upstream: str | None, simulate_if_unreachable: bool
) -> None:
    """Run the proxy until it is told to stop (SIGTERM, Ctrl-C)."""
    given = {("server", "host"): host, ("server", "port"): port, ("upstream", "url"): upstream}
    options = {key: value for key, value in given.items() if value is not None}
    settings = _settings(path, options)
    logs.configure(settings.logging.level, settings.logging.format)

    from swapper_proxy import app  # noqa: PLC0415 - the other commands start faster without it

    def announce(proxy: app.Running) -> None:
        if proxy.note:
            click.echo(f"NOTE: {proxy.note}")
        click.echo(
            f"swapper-proxy {__version__} on {proxy.url} -> {proxy.upstream} "
            f"({settings.swapper.mode}, config: {settings.source})"
        )

    def read() -> config.Settings:
        """A file that is gone is not the wish for the defaults, which know no keys."""
        return config.load(path or (None if settings.source == "defaults" else settings.source), options=options)

    work = app.serve(settings, simulate_if_unreachable=simulate_if_unreachable, announce=announce, read=read)
    try:
        _run(work)
    except config.ConfigError as error:
        _fail(str(error), MISUSED)


@main.command("check-config")
@config_option
@click.option("--probe", is_flag=True, help="Also ask the Ollama behind it; exit code 1 if that cannot be used.")
@json_option
def check_config(path: str | None, probe: bool, as_json: bool) -> None:
    """Say whether a configuration can be used, and what in it may surprise; exit code 2 if it cannot."""
    settings = _settings(path, {})
    warnings = config.warnings(settings)
    summary: dict[str, Any] = {
        "status": "ok",
        "source": settings.source,
        "mode": settings.swapper.mode,
        "models": list(settings.models),
        "routes": list(settings.routes),
        "warnings": warnings,
    }
    lines = [f"{settings.source}: ok, {len(settings.models)} models, {settings.swapper.mode}"]
    lines += [f"{settings.source}: warning: {warning}" for warning in warnings]
    if probe:
        summary["ollama"] = found = _probed(settings)
        lines.append(f"{settings.upstream.url}: Ollama {found['version']} answers, {found['installed']} models")
        lines += [f"{settings.source}: warning: {missing}" for missing in found["missing"]]
    _show(summary, as_json, "\n".join(lines))


def _probed(settings: config.Settings) -> dict[str, Any]:
    from swapper_proxy import app  # noqa: PLC0415 - as in `serve`

    try:
        return asdict(asyncio.run(app.probe(settings)))
    except (UpstreamUnreachable, UpstreamRefused, config.ConfigError) as error:
        _fail(f"{settings.upstream.url}: Ollama is not reachable: {error}", REFUSED)


@main.command()
@url_option
@json_option
def health(url: str, as_json: bool) -> None:
    """Say whether the running proxy answers, as a health check: exit code 3 if it does not within 4 s.

    A proxy whose Ollama is away is degraded, and answers: to start it again would not help.
    """
    answer = _call("GET", url, "/health", HEALTH_LIMIT_S)
    if answer.get("status") not in ("healthy", "degraded"):
        _fail(f"what answers at {url} is no Swapper Proxy", UNREACHABLE)
    _show(answer, as_json, ": ".join(filter(None, [answer["status"], answer.get("reason")])))


@main.command()
@url_option
@json_option
def status(url: str, as_json: bool) -> None:
    """What the running proxy is doing."""
    answer = _call("GET", url, "/status")
    memory = ", ".join(map(_resident, answer["memory"])) or "nothing"
    work = f"waiting: {answer['waiting']}, in flight: {answer['in_flight']}"
    health = f"{answer['status']} ({answer['reason']})" if answer["reason"] else answer["status"]
    text = f"{health}, {answer['mode']}; in memory: {memory}; {work}"
    _show(answer, as_json, text)


def _resident(resident: dict[str, Any]) -> str:
    """Return what is in memory once, with its other names, and its state if it does not just serve."""
    names = " = ".join(resident["names"])
    return names if resident["status"] == "loaded" else f"{names} ({resident['status']})"


@main.command()
@url_option
@json_option
def models(url: str, as_json: bool) -> None:
    """The models of the running proxy."""
    answer = _call("GET", url, "/models")
    rows = [("NAME", "STATUS", "SIZE GB", "TYPE", "OLLAMA NAME")]
    rows += [
        (m["name"], m["status"], "?" if m["size_gb"] is None else f"{m['size_gb']:g}", m["type"], m["ollama_name"])
        for m in answer["models"]
    ]
    _show(answer, as_json, report.grid(rows, names=len(rows[0])))


@main.command()
@url_option
@json_option
def queue(url: str, as_json: bool) -> None:
    """Who waits for which model, and why."""
    answer = _call("GET", url, "/queue")
    rows = [("MODEL", "PRIORITY", "WAITED S", "STARTS IN S", "WHY")]
    rows += [
        (w["model"], w["priority"], f"{w['waited_seconds']:.1f}", _seconds(w["estimated_wait_seconds"]), w["reason"])
        for w in answer["requests"]
    ]
    text = report.grid(rows, names=len(rows[0])) if answer["requests"] else "nobody waits"
    _show(answer, as_json, "\n".join([text, *(f"WARNING: {warning}" for warning in answer["warnings"])]))


def _seconds(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f}"


@main.command()
@click.argument("name")
@url_option
@json_option
def load(name: str, url: str, as_json: bool) -> None:
    """Load model NAME when its turn comes, and wait until it is loaded."""
    answer = _call("POST", url, f"/models/{quote(name, safe='/:')}/load")
    _show(answer, as_json, answer["message"])


@main.command()
@click.argument("name")
@url_option
@json_option
def unload(name: str, url: str, as_json: bool) -> None:
    """Unload model NAME once it has finished what it is answering."""
    answer = _call("POST", url, f"/models/{quote(name, safe='/:')}/unload")
    _show(answer, as_json, answer["message"])


@main.command()
@url_option
@json_option
def reload(url: str, as_json: bool) -> None:
    """Have the running proxy read its configuration again; exit code 1 if it cannot be used."""
    answer = _call("POST", url, "/reload")
    restarts = [f"{key}: needs a restart" for key in answer["config"]["needs_restart"]]
    _show(answer, as_json, "\n".join([answer["message"], *restarts]))


@main.command()
@click.argument("file", metavar="WORKLOAD.json", required=False)
@click.option(
    "--from-history",
    "past",
    is_flag=False,
    flag_value="",
    metavar="[PATH]",
    help="Take what was recorded instead, from this file [default: history.path], and compare.",
)
@click.option(
    "--since",
    metavar="TIME",
    callback=lambda _, __, text: _since(text),
    help="Of what was recorded only this: the last 90m, 24h or 7d, or since 2025-11-22T10:30 (UTC).",
)
@click.option(
    "--config",
    "path",
    metavar="FILE",
    help="Take from it what the workload leaves out [default: nothing; with --from-history as for serve].",
)
@click.option(
    "--policy",
    "policies",
    type=click.Choice([policy.value for policy in simulation.Policy]),
    multiple=True,
    default=[simulation.Policy.BOUNDED_WAIT.value],
    show_default=True,
    help="What decides; given more than once, they are compared.",
)
@json_option
def simulate(
    file: str | None, past: str | None, since: float, path: str | None, policies: tuple[str, ...], as_json: bool
) -> None:
    """Run the scheduler through a workload in virtual time; exit code 1 if it broke a promise.

    With --from-history the workload is what the proxy has recorded: what would have changed under these settings?
    """
    if (file is None) == (past is None) or (file and since):
        raise click.UsageError("give either WORKLOAD.json or --from-history, with --since if you like")
    settings = _settings(path, {}, with_keys=False) if path or past is not None else None
    was: recorded.Recorded | None = None
    try:
        if file is not None:
            work = workload.read(file)
        else:
            work, was = _recorded(past, since, settings or config.Settings())
    except workload.WorkloadError as error:
        _fail(str(error), MISUSED)
    results = [_simulated(work, host.of(work, settings), policy) for policy in dict.fromkeys(policies)]
    _show_simulated(results, was, as_json)


def _since(text: str | None) -> float:
    """A moment as /history reads it, or one that is so long ago; 0: from the beginning."""
    if text is None:
        return 0.0
    if ago := re.fullmatch(r"(\d{1,6})([smhd])", text, re.ASCII):
        return max(0.0, time.time() - int(ago[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[ago[2]])
    try:
        return moment(text)
    except ValueError:
        raise click.BadParameter(f"expected a time like 2025-11-22T10:30 or an age like 24h, got {text!r}") from None


def _recorded(past: str | None, since: float, settings: config.Settings) -> tuple[workload.Workload, recorded.Recorded]:
    """Raises WorkloadError if nothing was recorded.  The requests are read when they are wanted."""
    file = past or settings.history.path
    if file is None:
        _fail("history is off: name the file, as in --from-history PATH", MISUSED)
    try:
        chosen = click.get_current_context().with_resource(excerpt.Excerpt(Path(file), since))
    except sqlite3.Error as error:
        _fail(f"{file}: {error}", MISUSED)
    except schema.NewerFile as error:
        _fail(str(error), MISUSED)
    work = recorded.workload(chosen.requests, chosen.swaps, settings)
    return work, recorded.summary(chosen.requests, chosen.swaps)


def _show_simulated(results: list[report.Result], was: recorded.Recorded | None, as_json: bool) -> None:
    answers: Any = [asdict(result) for result in results]
    if was is not None:
        answers = {"recorded": asdict(was), "simulated": answers}
    elif len(answers) == 1:
        answers = answers[0]
    compared = [recorded.table(was, results)] if was is not None else []
    _show(answers, as_json, "\n\n".join([*compared, report.table(results)]))
    if any(result.violations for result in results):
        sys.exit(REFUSED)


def _simulated(work: workload.Workload, box: host.Host, policy: str) -> report.Result:
    """With a progress bar if it takes long and somebody looks."""
    watched = work.requests >= LONG and sys.stderr.isatty()
    with click.progressbar(length=work.requests, label=policy, file=sys.stderr, hidden=not watched) as bar:
        return simulation.simulate(work, box, simulation.Policy(policy), bar.update)


@main.command()
@click.argument("file", metavar="REQUEST.json")
@click.option("--path", "endpoint", metavar="PATH", help="Where it would be sent [default: guessed, on /api].")
@config_option
@click.option("--resident", "residents", metavar="NAME", multiple=True, help="Take this model to be in memory.")
@click.option("--url", help="Ask this running proxy what is in memory.")
@key_option
@json_option
def explain(
    file: str, endpoint: str | None, path: str | None, residents: tuple[str, ...], url: str | None, as_json: bool
) -> None:
    """Say which model a request would get, and why; a body that is - is read from standard input."""
    settings = _settings(path, {}, with_keys=False)
    try:
        answer = explaining.explain(settings, _content(file), endpoint, (*residents, *_at_hand(url)))
    except explaining.NotReadable as error:
        _fail(f"{file}: {error}", MISUSED)
    except ProxyError as refused:
        _fail(refused.message, REFUSED)
    _show(asdict(answer), as_json, str(answer))


@main.command("hash-key")
@click.option("--random", "at_random", is_flag=True, help="Make a key that nobody can guess, and print it too.")
@json_option
def hash_key(at_random: bool, as_json: bool) -> None:
    """Print what to write as key_sha256 for the key that is read from standard input."""
    if at_random:
        key = f"sk-{secrets.token_urlsafe(32)}"
    elif sys.stdin.isatty():
        key = click.prompt("Key", hide_input=True, err=True)
    else:
        key = sys.stdin.buffer.read().decode(errors="surrogateescape").rstrip("\r\n")
    try:
        digest = config.digest(key)
    except ValueError as error:
        _fail(str(error), MISUSED)
    answer = {**({"key": key} if at_random else {}), "key_sha256": digest}
    _show(answer, as_json, "\n".join(f"{name}: {value}" for name, value in answer.items()))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what completes this command in SHELL; for bash: eval "$(swapper-proxy completion bash)"."""
    script = get_completion_class(shell)
    assert script is not None  # the choices are those that click has
    click.echo(script(main, {}, "swapper-proxy", "_SWAPPER_PROXY_COMPLETE").source())


def _content(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        _fail(f"{file}: {error.strerror}", MISUSED)


def _at_hand(url: str | None) -> list[str]:
    """The models that a running proxy has in memory or is loading."""
    shown = _call("GET", url, "/models")["models"] if url else []
    return [model["ollama_name"] for model in shown if model["status"] in ("loaded", "loading")]


def _run(work: Any) -> None:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


def _settings(path: str | None, options: dict[tuple[str, str], Any], *, with_keys: bool = True) -> config.Settings:
    try:
        return config.load(path, options=options, with_keys=with_keys)
    except config.ConfigError as error:
        _fail(str(error), MISUSED)


def _call(method: str, url: str, path: str, limit_s: float | None = None) -> Any:
    key = click.get_current_context().meta.get(KEY, "")
    try:
        return calling.call(method, url, path, key=key, limit_s=limit_s)
    except calling.Refused as refused:
        _fail(str(refused), REFUSED)
    except calling.NotAnswered as error:
        _fail(str(error), UNREACHABLE)


def _show(answer: object, as_json: bool, text: str) -> None:
    click.echo(json.dumps(answer) if as_json else text)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"swapper-proxy: {message}", err=True)
    sys.exit(code)
