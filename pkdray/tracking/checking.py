"""What tracking needs before hours are spent: the packages, and for W&B somebody logged in."""

from __future__ import annotations

import netrc
import os
from importlib.util import find_spec
from urllib.parse import urlsplit

from pkdray.config import TrackingConfig
from pkdray.errors import ConfigError

_EXTRA = 'in the folder of the clone, pip install -e ".[{}]"'
"""Not `pip install "pkdray[...]"`: pkdray is in no package index, where that name would be somebody else's."""


def check_tracking(config: TrackingConfig) -> None:
    """Make sure that the trackers asked for can start.

    Raises:
        ConfigError: a package is missing, or W&B has no key; all at once.
    """
    faults = []
    if config.tensorboard and find_spec("tensorboardX") is None:
        faults.append('tracking.tensorboard: tensorboardX is not installed: pip install "ray[tune]"')
    if config.mlflow and find_spec("mlflow") is None:
        faults.append(f"tracking.mlflow: MLflow is not installed: {_EXTRA.format('mlflow')}")
    if config.wandb and find_spec("wandb") is None:
        faults.append(f"tracking.wandb: Weights & Biases is not installed: {_EXTRA.format('wandb')}")
    elif config.wandb and config.wandb.mode == "online" and not _logged_in():
        faults.append(
            "tracking.wandb: nobody is logged in: set WANDB_API_KEY, run `wandb login`, or set tracking.wandb.mode to "
            "offline"
        )
    if faults:
        raise ConfigError(
            "What tracking asks for is not there:", details=faults, cure="Mend it, or leave that tracker out."
        )


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
