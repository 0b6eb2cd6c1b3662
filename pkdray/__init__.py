"""pkdray: find the best student that can be distilled from teachers who saw more than it ever will."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pkdray.predict import load_student

__version__ = "0.1.0"
__all__ = ["__version__", "load_student"]


def __getattr__(name: str) -> Any:
    # Looked up on first use: `import pkdray` and the command line start without waiting for torch.
    if name == "load_student":
        from pkdray.predict import load_student

        return load_student
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
