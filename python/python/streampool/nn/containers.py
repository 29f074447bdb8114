"""Layers made of layers."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .module import Module


class Sequential(Module):
    """Layers one after another: `Sequential(a, b)`, or an OrderedDict of them."""

    def __init__(self, *layers: Any) -> None:
        super().__init__()
        if len(layers) == 1 and isinstance(layers[0], OrderedDict | dict):
            for name, layer in layers[0].items():
                self.add_module(name, layer)
        else:
            for i, layer in enumerate(layers):
                self.add_module(str(i), layer)

    def forward(self, input: Any) -> Any:
        """One layer after another."""
        for layer in self._modules.values():
            input = layer(input)
        return input

    def append(self, layer: Module) -> "Sequential":
        """One more at the end."""
        self.add_module(str(len(self._modules)), layer)
        return self

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice) -> Any:
        layers = list(self._modules.values())[index]
        return Sequential(*layers) if isinstance(layers, list) else layers


class ModuleList(Module):
    """A list of layers."""

    def __init__(self, layers: Iterable[Module] = ()) -> None:
        super().__init__()
        for layer in layers:
            self.append(layer)

    def append(self, layer: Module) -> "ModuleList":
        """One more at the end."""
        self.add_module(str(len(self._modules)), layer)
        return self

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice) -> Any:
        layers = list(self._modules.values())[index]
        return ModuleList(layers) if isinstance(layers, list) else layers


class ModuleDict(Module):
    """Layers by name."""

    def __init__(self, layers: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        for name, layer in (layers or {}).items():
            self.add_module(name, layer)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __getitem__(self, name: str) -> Module:
        return self._modules[name]

    def __setitem__(self, name: str, layer: Module) -> None:
        self.add_module(name, layer)

    def __contains__(self, name: str) -> bool:
        return name in self._modules
