"""What dataset.yaml says of the recordings that samples were cut from."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pkdray.data.dataset import DatasetInfo, open_dataset, write_dataset
from pkdray.data.info import RecordingsInfo

CUT = {"name": "recola", "options": {"modalities": ["face", "voice"], "size": 71, "gaps": "black"}}


def test_a_dataset_of_features_is_what_it_was_before_recordings_were_remembered() -> None:
    info = DatasetInfo(name="x", task="regression", targets=("valence",))
    assert "recordings" not in info.to_dict()
    # As computed before the field was there.
    assert info.computed_fingerprint() == "99c42fe0342172dd"


def test_recordings_are_read_back_and_are_part_of_the_fingerprint(parts, tmp_path) -> None:
    info, samples, features = parts()
    plain = write_dataset(tmp_path / "plain", info, samples, features)
    told = info.model_copy(update={"recordings": RecordingsInfo.model_validate(CUT)})
    written = write_dataset(tmp_path / "told", told, samples, features)
    found = open_dataset(tmp_path / "told")
    assert found.info.recordings == RecordingsInfo.model_validate(CUT)
    assert found.fingerprint == written.fingerprint != plain.fingerprint


@pytest.mark.parametrize("wrong", [{"name": "films"}, {"name": "recola", "option": {}}, {"options": {}}])
def test_recordings_of_no_known_set_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RecordingsInfo.model_validate(wrong)
