"""Ready YAML files that come with pkdray and can be named without a path."""

from __future__ import annotations

from pathlib import Path

from pkdray.errors import ConfigError

SEARCH_SPACES = "search_spaces"
JOBS = "jobs"
_INSIDE = {JOBS: "jobs/ready"}
"""Where a kind lies in the installed package, if not below its own name: pkdray.jobs is code."""


def shipped(kind: str = SEARCH_SPACES) -> dict[str, Path]:
    """Name -> file of the ready YAMLs of a kind: inside the installed package, or beside it in a checkout.

    Example:
        >>> "mfeat_demo" in shipped()
        True
    """
    package = Path(__file__).parent
    for folder in (package / _INSIDE.get(kind, kind), package.parent / kind):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def find_yaml(name_or_path: str, kind: str = SEARCH_SPACES) -> Path:
    """A YAML by its path, or a ready one by its name.

    Raises:
        ConfigError: there is neither; the message lists the ready ones.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    ready = shipped(kind)
    if name_or_path.removesuffix(".yaml") in ready:
        return ready[name_or_path.removesuffix(".yaml")]
    raise ConfigError(
        f"There is no file {name_or_path}, and no ready YAML of that name.",
        cure=f"Ready to use: {', '.join(ready)}." if ready else "Give the path of a YAML file.",
    )
