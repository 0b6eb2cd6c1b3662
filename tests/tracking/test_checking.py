"""What tracking needs is told before a sweep starts, all at once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pkdray.config import TrackingConfig
from pkdray.errors import ConfigError
from pkdray.tracking import check_tracking

ALL = TrackingConfig.model_validate({"tensorboard": True, "mlflow": {"uri": "sqlite:///m.db"}, "wandb": {}})


@pytest.fixture(autouse=True)
def _logged_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_missing_packages_are_told_together_with_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkdray.tracking.checking.find_spec", lambda _name: None)
    with pytest.raises(ConfigError) as told:
        check_tracking(ALL)
    assert len(told.value.details) == 3
    assert 'pip install -e ".[mlflow]"' in str(told.value)
    assert 'pip install -e ".[wandb]"' in str(told.value)
    check_tracking(TrackingConfig())


def test_wandb_wants_a_key_unless_it_is_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nobody is logged in"):
        check_tracking(ALL)
    check_tracking(TrackingConfig.model_validate({"wandb": {"mode": "offline"}}))
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123\n")
    check_tracking(ALL)
    (tmp_path / "netrc").write_text("machine example.org login user password 0123\n")
    with pytest.raises(ConfigError, match="nobody is logged in"):
        check_tracking(ALL)
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    check_tracking(ALL)


def test_looking_whether_a_tracker_is_there_does_not_import_it() -> None:
    before = set(sys.modules)
    check_tracking(TrackingConfig.model_validate({"tensorboard": True, "mlflow": {"uri": "x"}}))
    assert {"mlflow", "tensorboardX"} & (set(sys.modules) - before) == set()
