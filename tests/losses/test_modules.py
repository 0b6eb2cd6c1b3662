"""Every module is its function with the hyperparameters held: a new one adds one line to MODULES."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

import pkdray.losses as losses

LANES, ROWS, WIDTH, OTHER = 3, 13, 7, 11
REGRESSOR = losses.HintLoss(WIDTH, OTHER)
WEIGHTING = losses.UncertaintyWeighting(WIDTH)
nn.init.normal_(WEIGHTING.log_variances)


def levels(rows):
    return torch.arange(len(rows)) % WIDTH


def regressed(student, regressor=REGRESSOR.regressor):
    return student @ regressor.weight.mT.to(student.dtype) + regressor.bias.to(student.dtype)


ONE_WIDTH, TWO_WIDTHS = ((ROWS, WIDTH),) * 2, ((ROWS, WIDTH), (ROWS, OTHER))
WEIGHTED = (*ONE_WIDTH, (ROWS,))
# name: (module, what it must equal, shapes of their floating-point arguments).
MODULES = {
    "CCCLoss": (losses.CCCLoss(), losses.ccc_loss, ONE_WIDTH),
    "CCCLoss per sequence": (losses.CCCLoss(dim=1), lambda p, t: losses.ccc_loss(p, t, dim=1), ONE_WIDTH),
    "OrdinalLoss": (
        lambda z, w: losses.OrdinalLoss()(z, levels(z), w),
        lambda z, w: losses.ordinal_loss(losses.cumulative_logits(z), levels(z), w),
        ((ROWS, WIDTH), (ROWS,)),
    ),
    "CosineLoss": (losses.CosineLoss(), losses.cosine_loss, WEIGHTED),
    "KLLoss": (losses.KLLoss(3.0), lambda s, t, w: losses.kl_loss(s, t, 3.0, w), WEIGHTED),
    "HintLoss": (losses.HintLoss(), losses.hint_loss, WEIGHTED),
    "HintLoss of equal widths": (losses.HintLoss(WIDTH, WIDTH), losses.hint_loss, WEIGHTED),
    "HintLoss with a regressor": (
        REGRESSOR,
        lambda s, t, w: losses.hint_loss(regressed(s), t, w),
        (*TWO_WIDTHS, (ROWS,)),
    ),
    "ContrastiveLoss": (losses.ContrastiveLoss(0.3), lambda s, t, w: losses.contrastive_loss(s, t, 0.3, w), WEIGHTED),
    "SimilarityPreservingLoss": (
        losses.SimilarityPreservingLoss(),
        losses.similarity_preserving_loss,
        TWO_WIDTHS,
    ),
    "RelationalLoss": (
        losses.RelationalLoss(2.0, 3.0),
        lambda s, t: 2 * losses.relational_distance_loss(s, t) + 3 * losses.relational_angle_loss(s, t),
        TWO_WIDTHS,
    ),
    "RelationalLoss of distances": (
        losses.RelationalLoss(2.0, 0),
        lambda s, t: 2 * losses.relational_distance_loss(s, t),
        TWO_WIDTHS,
    ),
    "RelationalLoss of angles": (
        losses.RelationalLoss(0, 3.0),
        lambda s, t: 3 * losses.relational_angle_loss(s, t),
        TWO_WIDTHS,
    ),
    "CorrelationCongruenceLoss": (
        losses.CorrelationCongruenceLoss(0.7, 3),
        lambda s, t: losses.correlation_congruence_loss(s, t, 0.7, 3),
        TWO_WIDTHS,
    ),
    "SinkhornDivergence": (
        losses.SinkhornDivergence(0.5, tol=1e-4, max_iter=50),
        lambda x, y: losses.sinkhorn_divergence(x, y, 0.5, tol=1e-4, max_iter=50),
        ((ROWS, WIDTH), (OTHER, WIDTH)),
    ),
    "PKDOTLoss": (
        losses.PKDOTLoss(0.05, 5, "most_similar"),
        lambda s, t: losses.pkdot_loss(s, t, epsilon=0.05, top_k=5, anchors="most_similar"),
        TWO_WIDTHS,
    ),
    "CentroidLoss": (
        losses.CentroidLoss(),
        lambda s, t: losses.centroid_loss(losses.similarity_matrix(s), losses.similarity_matrix(t)),
        TWO_WIDTHS,
    ),
    "UncertaintyWeighting": (
        WEIGHTING,
        lambda values: losses.uncertainty_weighting(values, WEIGHTING.log_variances),
        ((WIDTH,),),
    ),
    "NegativeTransferGate": (
        # Constants to autograd; the zero gives the tests a gradient to ask for.
        lambda gamma: torch.stack(losses.NegativeTransferGate(0.4)(gamma)) + 0 * gamma,
        lambda gamma: torch.stack(losses.negative_transfer_gate(gamma, 0.4)) + 0 * gamma,
        ((ROWS,),),
    ),
}
every_module = pytest.mark.parametrize(("module", "function", "shapes"), MODULES.values(), ids=MODULES.keys())

# Construction that shows every hyperparameter, and what is printed; the name of the class is the first word.
BUILT = {
    "CCCLoss(dim=(0, 1))": lambda: losses.CCCLoss((0, 1)),
    "OrdinalLoss()": losses.OrdinalLoss,
    "CosineLoss()": losses.CosineLoss,
    "KLLoss(temperature=2.0)": losses.KLLoss,
    "HintLoss()": losses.HintLoss,
    "HintLoss(\n  (regressor): Linear(in_features=7, out_features=11, bias=True)\n)": lambda: losses.HintLoss(7, 11),
    "ContrastiveLoss(temperature=0.1)": losses.ContrastiveLoss,
    "SimilarityPreservingLoss()": losses.SimilarityPreservingLoss,
    "RelationalLoss(distance_weight=25.0, angle_weight=50.0)": losses.RelationalLoss,
    "CorrelationCongruenceLoss(gamma=0.4, order=2)": losses.CorrelationCongruenceLoss,
    "SinkhornDivergence(epsilon=0.1, tol=None, max_iter=7)": lambda: losses.SinkhornDivergence(0.1, max_iter=7),
    "PKDOTLoss(epsilon=0.1, top_k=30, anchors='least_similar')": losses.PKDOTLoss,
    "CentroidLoss()": losses.CentroidLoss,
    "UncertaintyWeighting(losses=3)": lambda: losses.UncertaintyWeighting(3),
    "NegativeTransferGate(theta=0.5)": lambda: losses.NegativeTransferGate(0.5),
}
every_build = pytest.mark.parametrize(("said", "build"), BUILT.items(), ids=[name.split("(")[0] for name in BUILT])


def arguments(shapes, dtype=torch.float32, lead=()):
    generator = torch.Generator().manual_seed(5)
    # A vector is a weight, a gamma or losses: positive, on both sides of the gate's threshold.
    return [
        (torch.randn if len(shape) > 1 else torch.rand)((*lead, *shape), generator=generator).to(dtype)
        for shape in shapes
    ]


def public_modules():
    public = {name: getattr(losses, name) for name in losses.__all__}
    return {name: value for name, value in public.items() if inspect.isclass(value) and issubclass(value, nn.Module)}


def test_every_public_module_is_tested():
    assert {name.split()[0] for name in MODULES} == {name.split("(")[0] for name in BUILT} == set(public_modules())


@every_module
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_module_equals_its_function(module, function, shapes, dtype):
    given = [value.requires_grad_() for value in arguments(shapes, dtype)]
    # The functions promise float32 for half precision; the regressor, which they do not have, must keep the promise.
    wanted = [value.detach().float().requires_grad_() for value in given]
    value, expected = module(*given), function(*wanted)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(module(*given), value, rtol=0, atol=0)
    gradients = torch.autograd.grad(value.sum(), given, allow_unused=True, materialize_grads=True)
    expected = torch.autograd.grad(expected.sum(), wanted, allow_unused=True, materialize_grads=True)
    for gradient, wanted_gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted_gradient.to(dtype))


@every_module
def test_a_module_works_under_vmap(module, function, shapes):
    lanes = arguments(shapes, lead=(LANES,))
    expected = torch.stack([function(*(value[lane] for value in lanes)) for lane in range(LANES)])
    torch.testing.assert_close(vmap(module)(*lanes), expected, rtol=1e-4, atol=1e-5)


@every_build
def test_a_module_prints_what_it_holds(said, build):
    assert repr(build()) == said


@every_build
def test_copies_are_the_same(said, build):
    module = build()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    fresh = build()
    fresh.load_state_dict(module.state_dict())
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fresh):  # noqa: S301
        assert repr(twin) == said
        assert {name: value for name, value in vars(twin).items() if not name.startswith("_")} == {
            name: value for name, value in vars(module).items() if not name.startswith("_")
        }
        torch.testing.assert_close(twin.state_dict(), module.state_dict(), rtol=0, atol=0)


@every_build
def test_only_what_is_learned_has_state(said, build):
    learned = {"UncertaintyWeighting(losses=3)": {"log_variances"}}
    if "regressor" in said:
        learned[said] = {"regressor.weight", "regressor.bias"}
    module = build()
    assert set(module.state_dict()) == {name for name, _ in module.named_parameters()} == learned.get(said, set())
    assert not list(module.buffers())


def test_moving_to_another_precision(randn):
    module, student, teacher = losses.HintLoss(WIDTH, OTHER), randn(ROWS, WIDTH), randn(ROWS, OTHER)
    single = module(student.float(), teacher.float())
    double = copy.deepcopy(module).double()(student, teacher)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=0)
    half = copy.deepcopy(module).bfloat16()(student.float(), teacher.float())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, single, rtol=2e-2, atol=0)
    weighting = losses.UncertaintyWeighting(3).double()
    assert weighting(randn(3).abs()).dtype == torch.float64
    assert weighting.to("meta")(torch.ones(3, device="meta")).device.type == "meta"


def test_several_regressors_in_one_pass(randn):
    modules = [losses.HintLoss(WIDTH, OTHER) for _ in range(LANES)]
    student, teacher = randn(ROWS, WIDTH).float(), randn(ROWS, OTHER).float()
    parameters, _ = stack_module_state(modules)
    lanes = vmap(lambda values: functional_call(modules[0], values, (student, teacher)))(parameters)
    torch.testing.assert_close(lanes, torch.stack([module(student, teacher) for module in modules]))


def test_several_weightings_in_one_pass(randn):
    modules = [losses.UncertaintyWeighting(5) for _ in range(LANES)]
    for module in modules:
        nn.init.normal_(module.log_variances)
    values = randn(LANES, 5).abs().float()
    parameters, _ = stack_module_state(modules)
    lanes = vmap(lambda state, row: functional_call(modules[0], state, (row,)))(parameters, values)
    torch.testing.assert_close(lanes, torch.stack([module(row) for module, row in zip(modules, values, strict=True)]))


def test_the_weighting_takes_a_sequence_as_well_as_a_tensor(randn):
    module, values = losses.UncertaintyWeighting(3).double(), randn(3).abs()
    nn.init.normal_(module.log_variances)
    expected = losses.uncertainty_weighting(values, module.log_variances)
    for given in (values, list(values), tuple(values)):
        torch.testing.assert_close(module(given), expected, rtol=0, atol=0)
    # Structural losses of several batches: one value per batch.
    per_batch = randn(3, 5).abs()
    torch.testing.assert_close(module(list(per_batch)), module(per_batch.mT))


def test_the_weighting_learns_the_sizes_of_the_losses():
    module = losses.UncertaintyWeighting(2)
    values = [torch.tensor(0.2), torch.tensor(5.0)]
    optimiser = torch.optim.Adam(module.parameters(), lr=0.1)
    first = module(values).item()
    for _ in range(300):
        optimiser.zero_grad()
        module(values).backward()
        optimiser.step()
    assert module(values).item() < first
    torch.testing.assert_close(module.log_variances.detach().exp(), torch.tensor([0.2, 5.0]), rtol=1e-2, atol=0)


def test_the_regressor_learns_a_linear_teacher(randn):
    torch.manual_seed(0)
    module = losses.HintLoss(WIDTH, OTHER)
    student = randn(101, WIDTH).float()
    teacher = student @ randn(WIDTH, OTHER).float() + 1
    optimiser = torch.optim.Adam(module.parameters(), lr=0.1)
    first = module(student, teacher).item()
    for _ in range(200):
        optimiser.zero_grad()
        module(student, teacher).backward()
        optimiser.step()
    assert module(student, teacher).item() < 1e-3 * first


def test_the_transport_loss_alone_detaches_the_teacher():
    detached = set()
    for name, (module, _, shapes) in MODULES.items():
        if len(shapes) > 1 and len(shapes[1]) == 2:
            student, teacher, *weight = (value.requires_grad_() for value in arguments(shapes))
            (gradient,) = torch.autograd.grad(module(student, teacher, *weight), teacher, allow_unused=True)
            if gradient is None:
                detached.add(name)
    assert detached == {"PKDOTLoss"}


def test_hyperparameters_may_change_between_steps():
    student, teacher = arguments(ONE_WIDTH)
    module = losses.KLLoss()
    module.temperature = 5.0
    torch.testing.assert_close(module(student, teacher), losses.kl_loss(student, teacher, 5.0))
    module.temperature = 0.0
    with pytest.raises(ValueError, match="temperature is 0"):
        module(student, teacher)


ONES = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("build", "function"),
    [
        (lambda: losses.KLLoss(0.0), lambda: losses.kl_loss(ONES, ONES, 0.0)),
        (lambda: losses.KLLoss(float("inf")), lambda: losses.kl_loss(ONES, ONES, float("inf"))),
        (lambda: losses.ContrastiveLoss(-1.0), lambda: losses.contrastive_loss(ONES, ONES, -1.0)),
        (
            lambda: losses.CorrelationCongruenceLoss(gamma=0.0),
            lambda: losses.correlation_congruence_loss(ONES, ONES, gamma=0.0),
        ),
        (
            lambda: losses.CorrelationCongruenceLoss(order=0),
            lambda: losses.correlation_congruence_loss(ONES, ONES, order=0),
        ),
        (lambda: losses.SinkhornDivergence(0.0), lambda: losses.sinkhorn_divergence(ONES, ONES, 0.0)),
        (lambda: losses.SinkhornDivergence(1.0, tol=0.0), lambda: losses.sinkhorn_divergence(ONES, ONES, 1.0, tol=0.0)),
        (
            lambda: losses.SinkhornDivergence(1.0, max_iter=0),
            lambda: losses.sinkhorn_divergence(ONES, ONES, 1.0, max_iter=0),
        ),
        (lambda: losses.PKDOTLoss(epsilon=-0.1), lambda: losses.pkdot_loss(ONES, ONES, epsilon=-0.1, top_k=2)),
        (lambda: losses.PKDOTLoss(top_k=0), lambda: losses.pkdot_loss(ONES, ONES, epsilon=0.1, top_k=0)),
        (
            lambda: losses.PKDOTLoss(anchors="nearest"),
            lambda: losses.pkdot_loss(ONES, ONES, epsilon=0.1, top_k=2, anchors="nearest"),
        ),
        (lambda: losses.NegativeTransferGate(2.5), lambda: losses.negative_transfer_gate(ONES, 2.5)),
    ],
)
def test_construction_refuses_what_the_function_refuses(build, function):
    with pytest.raises(ValueError) as refused:
        function()
    with pytest.raises(ValueError) as said:
        build()
    assert str(said.value) == str(refused.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: losses.HintLoss(7), "student_width is 7 and teacher_width is None.*both"),
        (lambda: losses.HintLoss(teacher_width=7), "student_width is None and teacher_width is 7"),
        (lambda: losses.HintLoss(7, 0), "teacher_width is 0.*at least 1"),
        (lambda: losses.HintLoss()(torch.ones(3, 2), torch.ones(3, 5)), r"\[3, 2\].*\[3, 5\]"),
        (lambda: losses.RelationalLoss(-1.0), "distance_weight is -1.0.*at least 0"),
        (lambda: losses.RelationalLoss(1.0, float("nan")), "angle_weight is nan"),
        (lambda: losses.RelationalLoss(0, 0), "both 0"),
        (lambda: losses.UncertaintyWeighting(0), "losses is 0.*at least 1"),
        (lambda: losses.UncertaintyWeighting(2)(torch.ones(3)), r"\[2\].*\[3\].*per loss"),
        (lambda: losses.UncertaintyWeighting(2)([torch.ones(())] * 3), r"\[2\].*\[3\].*per loss"),
    ],
)
def test_errors_name_the_value_and_the_cure(call, said):
    with pytest.raises(ValueError, match=said):
        call()
