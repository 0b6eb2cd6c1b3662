"""The T-Net and the adapters as modules of their own."""

from __future__ import annotations

import pytest
import torch

from pkdray.config import StudentConfig
from pkdray.models.networks import TaskShape, build_tnet, privileged_features
from pkdray.models.tnet import Adapter

SHAPES = {"face": (6, 5), "skin": (3,)}


def tnet(*, per_frame: bool, outputs: int = 12):
    config = StudentConfig.model_validate(
        {
            "encoder": {"hidden": [9], "dropout": 0.4},
            "encoders": {"skin": {"hidden": [4]}},
            "tnet": {"hidden": [8, 7], "dropout": 0.4},
        }
    )
    return build_tnet(config, SHAPES, TaskShape(4, per_frame), outputs)


def test_one_that_trains_with_the_student_takes_its_features_and_has_no_encoders():
    config = StudentConfig.model_validate(
        {
            "encoder": {"hidden": [9]},
            "encoders": {"skin": {"hidden": [4]}},
            "tnet": {"training": "joint", "hidden": [8, 7], "dropout": 0.0},
        }
    )
    built = build_tnet(config, SHAPES, TaskShape(4, per_frame=True), 12)
    assert {name.split(".")[0] for name, _ in built.named_parameters()} == {"layers", "output"}
    face, skin = torch.randn(3, 6, 9), torch.randn(3, 4)
    joined = torch.cat([face, skin.unsqueeze(1).expand(-1, 6, -1)], dim=-1)
    torch.testing.assert_close(
        built.hallucinate({"face": face, "skin": skin}), built.output(built.layers(joined)), rtol=1e-6, atol=1e-6
    )
    with pytest.raises(ValueError, match="no encoders"):
        built(inputs())


def inputs(batch: int = 3) -> dict[str, torch.Tensor]:
    return {name: torch.randn(batch, *shape) for name, shape in SHAPES.items()}


@pytest.mark.parametrize(("per_frame", "expected"), [(False, (3, 12)), (True, (3, 6, 12))])
def test_it_hallucinates_the_privileged_width(per_frame, expected):
    assert tnet(per_frame=per_frame)(inputs()).shape == expected


def test_its_output_is_not_clipped_at_zero():
    # The regressed features may be of any sign, so nothing but a linear layer may come last.
    torch.manual_seed(0)
    said = tnet(per_frame=False)(inputs(40))
    assert (said < 0).any()
    assert (said > 0).any()


def test_every_prevalent_modality_reaches_it():
    built, given = tnet(per_frame=False).eval(), inputs()
    for name in SHAPES:
        assert not torch.allclose(built(given), built({**given, name: given[name] + 1})), name


@pytest.mark.parametrize("leading", [(5,), (5, 6)])
def test_an_adapter_gives_an_embedding_and_a_prediction_of_it(leading):
    adapter = Adapter(9, [8], embedding=11, outputs=4, dropout=0.3).eval()
    embedding, prediction = adapter(torch.randn(*leading, 9))
    assert embedding.shape == (*leading, 11)
    assert prediction.shape == (*leading, 4)
    torch.testing.assert_close(prediction, adapter.head(embedding))


def test_privileged_features_are_those_the_student_lacks_in_the_teachers_order():
    features = {"voice": torch.randn(3, 7), "face": torch.randn(3, 5), "heart": torch.randn(3, 2)}
    expected = torch.cat([features["voice"], features["heart"]], dim=1)
    assert torch.equal(privileged_features(features, ["face"]), expected)
