"""Modules by name, for whatever names a dataset gives its modalities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn


class NamedModules(nn.Module):
    """Modules by name, in the given order.

    ``nn.ModuleDict`` refuses a name with a dot and one of its own methods (``type``, ``keys``, ``train`` ...), all of
    which a modality may have. Weights are therefore kept under ``@<name>`` with ``/`` for a dot: neither sign occurs in
    a modality's name, so no two names meet.

    Example:
        >>> modules = NamedModules({"face.left": nn.Linear(3, 2)})
        >>> list(modules.state_dict())
        ['@face/left.weight', '@face/left.bias']
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.names = tuple(modules)
        for name, module in modules.items():
            self.add_module(_key(name), module)

    def __getitem__(self, name: str) -> nn.Module:
        return self.get_submodule(_key(name))

    def items(self) -> Iterator[tuple[str, nn.Module]]:
        """Names and modules, in order."""
        return ((name, self[name]) for name in self.names)


def _key(name: str) -> str:
    return "@" + name.replace(".", "/")
