"""Configuration: what a YAML may say, and how its faults are told."""

from pkdray.config.loading import apply_overrides, build_config, load_config, override, parse_assignments
from pkdray.config.methods import (
    METHODS,
    KLMethod,
    Method,
    MTPKDOTMethod,
    PKDMethod,
    PKDOTMethod,
    SupervisedMethod,
)
from pkdray.config.parameters import Parameter
from pkdray.config.sections import (
    AdaptersConfig,
    AshaConfig,
    Config,
    DatasetConfig,
    EncoderConfig,
    ResourcesConfig,
    SearchConfig,
    StudentConfig,
    TeacherConfig,
    TeachersConfig,
    TNetConfig,
    TrainingConfig,
)

__all__ = [
    "METHODS",
    "AdaptersConfig",
    "AshaConfig",
    "Config",
    "DatasetConfig",
    "EncoderConfig",
    "KLMethod",
    "MTPKDOTMethod",
    "Method",
    "PKDMethod",
    "PKDOTMethod",
    "Parameter",
    "ResourcesConfig",
    "SearchConfig",
    "StudentConfig",
    "SupervisedMethod",
    "TNetConfig",
    "TeacherConfig",
    "TeachersConfig",
    "TrainingConfig",
    "apply_overrides",
    "build_config",
    "load_config",
    "override",
    "parse_assignments",
]
