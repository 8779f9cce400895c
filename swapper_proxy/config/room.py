"""Which of the configured models find no memory beside the pinned ones, in the scheduler's own arithmetic."""

from collections.abc import Iterator

from swapper_proxy.config.kinds import Problem
from swapper_proxy.config.settings import Model, Settings
from swapper_proxy.core.host import Host
from swapper_proxy.core.names import canonical
from swapper_proxy.core.refusals import hopeless
from swapper_proxy.core.residency import Residency
from swapper_proxy.core.types import Cause, Key, Profile, State

LITTLE_GB = 1.0  # small embedders take less, and hardly anything else


def squeezed_out(settings: Settings) -> Iterator[Problem]:
    """Warn of models that are refused because of the memory, although the number of models would be right."""
    budget_gb = settings.swapper.memory_budget_gb
    if budget_gb is None:
        return
    pinned_gb = sum(model.size_gb or 0.0 for model in settings.models.values() if model.pinned)
    key_path, left_gb = "swapper.memory_budget_gb", round(budget_gb - pinned_gb, 3)
    if refused := _refused(settings):
        names = ", ".join(f"{name} ({model.size_gb:g} GB)" for name, model in refused.items())
        left = f"the pinned models leave {left_gb:g} GB of {budget_gb:g}" if pinned_gb else f"{budget_gb:g} GB"
        yield Problem(key_path, f"{left}; these do not fit and are refused (507): {names}")
    elif pinned_gb and left_gb < LITTLE_GB and _others(settings):
        text = f"the pinned models leave {left_gb:g} GB of {budget_gb:g}; a model that takes more is refused (507)"
        yield Problem(key_path, text)


def _refused(settings: Settings) -> dict[str, Model]:
    """Those of known size that never fit; not those for which there is no slot, which is said elsewhere."""
    host = Host(settings.limits)
    for model in settings.models.values():
        if model.pinned:
            host.change(_record(host, model), State.RESIDENT, Cause.LIMITS, 0.0)
    others = {name: model for name, model in settings.models.items() if not model.pinned}
    shortages = {name: hopeless(host, _record(host, model)) for name, model in others.items()}
    return {name: others[name] for name, shortage in shortages.items() if shortage and shortage.most is None}


def _others(settings: Settings) -> bool:
    """Return True if models of unknown size may be asked for."""
    unknown = any(model.size_gb is None for model in settings.models.values() if not model.pinned)
    return unknown or settings.swapper.unlisted_models == "allow"


def _record(host: Host, model: Model) -> Residency:
    profile = Profile(size_gb=model.size_gb, slot=model.type, pinned=model.pinned)
    return host.record(Key(canonical(model.ollama_name)), profile, 0.0)
