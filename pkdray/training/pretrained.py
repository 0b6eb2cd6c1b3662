"""Which files of weights a config names: found and identified once, when the config is met with its dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pkdray.config import Config, EncoderConfig, StudentConfig, TeachersConfig
from pkdray.errors import ConfigError
from pkdray.models.visual import NETWORKS
from pkdray.models.weights import weights_checksum

_S = TypeVar("_S", TeachersConfig, StudentConfig)


class WeightsFile(NamedTuple):
    """A file of weights: its absolute path, because workers may run in another folder, and its checksum."""

    path: str
    checksum: str


def find_weights(path: str, network: str | None = None) -> WeightsFile:
    """A file of weights and its checksum.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    file = Path(path).expanduser().resolve()
    try:
        return WeightsFile(str(file), weights_checksum(file))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        source = f"save the state_dict() of torchvision's {network}" if network else "save them from torchvision"
        raise ConfigError(
            f"the file {file} cannot be read ({reason}); pkdray downloads nothing: {source} where every node can read "
            "it, or set weights to null to train from random ones"
        ) from error


def identify_weights(config: Config) -> tuple[Config, dict[str, WeightsFile], list[str]]:
    """Fill in the checksum and the absolute path of every file of weights that a config or its space names.

    Returns:
        The config, the files among the choices of its space as they are written there, and what is wrong.
    """
    faults: list[str] = []

    def encoder(where: str, value: EncoderConfig) -> EncoderConfig:
        if value.weights is None:
            return value
        try:
            found = find_weights(value.weights, NETWORKS[value.kind])
        except ConfigError as error:
            faults.append(f"{where}.weights: {error.what}")
            return value
        if value.weights_checksum not in (None, found.checksum):
            faults.append(
                f"{where}.weights_checksum: is {value.weights_checksum}, but {found.path} has {found.checksum}; name "
                "the file that you mean, or leave the checksum out"
            )
        return value.model_copy(update={"weights": found.path, "weights_checksum": found.checksum})

    teachers = _each_encoder("teachers", config.teachers, encoder)
    student = _each_encoder("student", config.student, encoder)
    searched: dict[str, WeightsFile] = {}
    for path, parameters in config.search.space.items():
        for name in (value for parameter in parameters for value in parameter.choice or []):
            if _is_weights(path) and name is not None:
                try:
                    searched[str(name)] = find_weights(str(name))
                except ConfigError as error:
                    faults.append(f"search.space.{path}: {error.what}")
    return config.model_copy(update={"teachers": teachers, "student": student}), searched, faults


def weights_overrides(overrides: Mapping[str, Any], searched: Mapping[str, WeightsFile]) -> dict[str, Any]:
    """What a trial's overrides say, and for each file of weights among them where it lies and its checksum.

    Raises:
        ConfigError: a file that is not among those searched cannot be read.
    """
    result = dict(overrides)
    for path, name in overrides.items():
        if not _is_weights(path):
            continue
        # Without a checksum of its own it would be given that of the file which it replaces.
        result.setdefault(f"{path}_checksum", None)
        if name is not None:
            found = searched.get(str(name)) or find_weights(str(name))
            result[path] = found.path
            result[f"{path}_checksum"] = result[f"{path}_checksum"] or found.checksum
    return result


def identified(value: Any) -> Any:
    """A config's plain data for a fingerprint: weights are told by their checksum, wherever their file lies."""
    if isinstance(value, Mapping):
        known = value.get("weights_checksum") is not None
        return {key: identified(item) for key, item in value.items() if not (known and key == "weights")}
    return [identified(item) for item in value] if isinstance(value, list) else value


def without_folders(student: StudentConfig) -> StudentConfig:
    """A student's config as it may leave this machine: files of weights by their names, with their checksums."""

    def encoder(_where: str, value: EncoderConfig) -> EncoderConfig:
        return value if value.weights is None else value.model_copy(update={"weights": Path(value.weights).name})

    return _each_encoder("student", student, encoder)


def _is_weights(path: str) -> bool:
    return path.startswith("student.encoder") and path.endswith(".weights")


def _each_encoder(where: str, section: _S, change: Callable[[str, EncoderConfig], EncoderConfig]) -> _S:
    return section.model_copy(
        update={
            "encoder": change(f"{where}.encoder", section.encoder),
            "encoders": {name: change(f"{where}.encoders.{name}", value) for name, value in section.encoders.items()},
        }
    )
