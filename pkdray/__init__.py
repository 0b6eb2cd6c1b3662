"""pkdray: find the best student that can be distilled from teachers who saw more than it ever will."""

from __future__ import annotations

__version__ = "0.1.0"
