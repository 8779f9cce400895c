"""How people call the runners: several models may be names of one."""

from swapper_proxy.core.types import Key
from swapper_proxy.runtime.catalog import Catalog


class RunnerNames:
    """The name under which each runner is told of, from its load until it is gone.

    So that what is told of one stay in memory is one story: a name is given up only if it means something else by now.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._told: dict[Key, str] = {}

    def of(self, key: Key) -> str:
        """Return its name: the one it is told of under, else that of any model that it serves, else an empty one."""
        told = self._told.get(key, "")
        if told and self._leads_to(told, key.runner):
            return told
        serving = self._catalog.serving(key.runner)
        return serving[0].name if serving else told

    def _leads_to(self, name: str, runner: str) -> bool:
        model = self._catalog.meaning(name).model
        return model is not None and model.runner == runner and model.name == name and self._catalog.is_installed(model)

    def tell(self, key: Key, name: str) -> None:
        """It is told of under this name from now on."""
        self._told[key] = name

    def forget(self, key: Key) -> None:
        """It is gone."""
        self._told.pop(key, None)

    def renamed(self) -> list[tuple[Key, str, str]]:
        """Return the runners whose name means something else by now, with that name and the one that they have now."""
        return [(key, told, name) for key, told in self._told.items() if (name := self.of(key)) != told]
