"""The Triton kernel without a GPU: run by Triton's interpreter, watched for missing barriers, compiled for two GPUs.

Triton decides when it is imported whether it interprets. So the interpreted half runs in a process of its own (this
file as a script), once, and the tests look at what it wrote.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pkdray.losses import _sinkhorn as plain
from pkdray.losses import _sinkhorn_triton as fused
from pkdray.losses import anchored_rows, similarity_matrix

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

EPSILONS = (1.0, 0.1, 0.01, 0.001)
SIZES = ((13, 29, 5), (31, 31, 8), (67, 67, 30))


def near_clouds(n, m, k, lanes=4):
    """Points on a sphere, and others near them."""
    generator = torch.Generator().manual_seed(n * m * k)

    def normal(*shape):
        return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

    x = normal(lanes, n, k)
    return x, torch.nn.functional.normalize(x[:, torch.arange(m) % n] + 0.3 * normal(lanes, m, k) + 0.2, dim=-1)


def stage(name, batch=31, k=8):
    """Anchored rows early (student collapsed) or late in training."""
    generator = torch.Generator().manual_seed(batch)
    teacher = torch.randn(5, 16, generator=generator)[torch.arange(batch) % 5]
    teacher = teacher + 0.7 * torch.randn(batch, 16, generator=generator)
    noise = torch.randn(batch, 16, generator=generator)
    student = {"late": teacher + 0.1 * noise, "early": teacher[:1] + 0.05 * noise}[name]
    rows = anchored_rows(similarity_matrix(teacher), similarity_matrix(student), k, "least_similar")
    return tuple(side[None] for side in rows)


def outlier():
    """Clouds of which one point of y is out of reach of every row's kernel."""
    x, y = near_clouds(13, 13, 5, lanes=1)
    y = y.clone()
    y[0, 4] += 20
    return x, y


def golden():
    return json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))["divergence"]


def problems():
    """Name -> clouds, epsilons, options."""
    found = {}
    for n, m, k in SIZES:
        for tol in (1e-5, None):
            x, y = near_clouds(n, m, k)
            epsilon = torch.tensor(EPSILONS)
            # The interpreter is slow: the larger ones end at the cap where epsilon is small, here as there.
            options = {"tol": tol, "max_iter": 300 if n < 20 else 60, "complete": True}
            found[f"{n}-{m}-{k}-{tol}"] = x, y, epsilon, options
    for name in ("late", "early"):
        for epsilon in (0.1, 0.01):
            found[f"{name}-{epsilon}"] = *stage(name), torch.tensor([epsilon]), {"tol": None, "max_iter": 400}
    found["outlier"] = *outlier(), torch.tensor([1.0]), {"tol": 1e-5, "max_iter": 200, "complete": True}
    x, y = near_clouds(13, 13, 5, lanes=3)
    y[1, 2, 3] = math.nan
    found["nan"] = x, y, torch.full((3,), 0.05), {"tol": 1e-5, "max_iter": 100, "complete": True}
    found["one iteration"] = *near_clouds(13, 29, 5), torch.tensor(EPSILONS), {"tol": None, "max_iter": 1}
    found["one point"] = *near_clouds(1, 5, 1, lanes=1), torch.tensor([0.1]), {"tol": None, "max_iter": 40}
    return found


def interpret(path):
    """Solve every problem, in the interpreter, and the golden ones; note accesses that lack a barrier."""
    from make_golden import cloud

    hazards = watch_for_hazards()
    result = {name: fused.solve(x, y, epsilon, **options) for name, (x, y, epsilon, options) in problems().items()}
    for i, case in enumerate(golden()):
        x, y = (
            torch.from_numpy(cloud(case[size], case["k"], phase)).float()[None]
            for size, phase in (("n", 0.0), ("m", 0.7))
        )
        result[f"golden {i}"] = fused.solve(x, y, torch.tensor([case["epsilon"]]), tol=1e-6, max_iter=500)
    torch.save({"solutions": {name: tuple(solution) for name, solution in result.items()}, "hazards": hazards}, path)


def watch_for_hazards():
    """Let the interpreter note each address that is written and read, or read and written, with no barrier between.

    On a GPU threads of a program wait for each other at barriers alone. The interpreter has no threads, so it takes
    every two accesses between two barriers for accesses of different ones.
    """
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    load, store, launch = builder.create_masked_load, builder.create_masked_store, builder.set_grid_idx
    read, written, found = set(), set(), []

    def clear(*_):
        read.clear()
        written.clear()

    def note(kind, touched, others):
        caller = sys._getframe(2)
        while "pkdray" not in caller.f_code.co_filename:
            caller = caller.f_back
        if touched & others:
            found.append(f"{kind} in {caller.f_code.co_name}, line {caller.f_lineno}")

    def watched_load(self, ptrs, mask, *rest):
        touched = set(ptrs.data[mask.data].ravel().tolist())
        note("read after write", touched, written)
        read.update(touched)
        return load(self, ptrs, mask, *rest)

    def watched_store(self, ptrs, value, mask, *rest):
        touched = set(ptrs.data[mask.data].ravel().tolist())
        note("write after read or write", touched, read | written)
        written.update(touched)
        return store(self, ptrs, value, mask, *rest)

    def next_program(self, *index):
        clear()
        return launch(self, *index)

    builder.create_masked_load, builder.create_masked_store = watched_load, watched_store
    builder.create_barrier, builder.set_grid_idx = clear, next_program
    return found


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    path = tmp_path_factory.mktemp("interpreted") / "solutions.pt"
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, str(path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded = torch.load(path)
    solutions = {name: plain.Solution(*fields) for name, fields in loaded["solutions"].items()}
    return SimpleNamespace(solutions=solutions, hazards=loaded["hazards"])


def relative(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-6))


@needs_triton
@pytest.mark.parametrize("name", [name for name in problems() if name != "nan"])
def test_equals_the_plain_solver_lane_by_lane(interpreted, name, monkeypatch):
    # What the CPU does and the kernel does not: a line search on plateaus, and float64 for small problems.
    monkeypatch.setattr(plain.Pace, "stuck", lambda pace, iteration: [])
    monkeypatch.setattr(plain, "SMALL", 0)
    x, y, epsilon, options = problems()[name]
    found = interpreted.solutions[name]
    # Where both stop at 1 % of the gradient, rounding decides where exactly.
    bar = 1e-3 if options["tol"] else 1e-2
    for lane in range(len(x)):
        one = slice(lane, lane + 1)
        expected = plain.solve(x[one], y[one], epsilon[one], **options | {"complete": True})
        if expected.residual > 1e-2:
            # Far from done at the cap: they are on the same way, not at the same place.
            assert relative(found.value[one], expected.value) <= 5e-3
            continue
        assert relative(found.value[one], expected.value) <= 1e-4
        assert relative(found.grad_y[one], expected.grad_y) <= bar
        if options.get("complete"):
            # A new weight reaches the rows one iteration later than on the CPU.
            assert abs(found.iterations[lane] - expected.iterations[0]) <= max(4, 0.4 * expected.iterations[0])
            assert relative(found.grad_x[one], expected.grad_x) <= bar
            assert float(found.residual[lane]) == pytest.approx(float(expected.residual), rel=0.3, abs=2e-5)
            if epsilon[lane] >= 0.1:
                assert relative(found.grad_epsilon[one], expected.grad_epsilon) <= 1e-2
        else:
            assert found.grad_x is found.grad_epsilon is found.iterations is found.residual is None


@needs_triton
@pytest.mark.parametrize("case", range(len(golden())))
def test_golden_divergence(interpreted, case):
    expected, found = golden()[case], interpreted.solutions[f"golden {case}"]
    assert found.value.item() == pytest.approx(expected["value"], rel=1e-3)
    assert relative(found.grad_y[0], torch.tensor(expected["gradient"], dtype=torch.float64)) <= 1e-3


@needs_triton
def test_a_lane_with_nan_stops_early_and_touches_no_other(interpreted):
    x, y, epsilon, options = problems()["nan"]
    found = interpreted.solutions["nan"]
    assert found.iterations[1] <= 8
    assert found.value[1].isnan()
    assert found.grad_y[1].isnan().any()
    for lane in (0, 2):
        one = slice(lane, lane + 1)
        expected = plain.solve(x[one], y[one], epsilon[one], **options)
        assert relative(found.value[one], expected.value) <= 1e-4
        assert relative(found.grad_y[one], expected.grad_y) <= 1e-3
        assert relative(found.grad_x[one], expected.grad_x) <= 1e-3


@needs_triton
def test_no_access_lacks_a_barrier(interpreted):
    assert sorted(set(interpreted.hazards)) == []


def test_the_watch_sees_a_missing_barrier(tmp_path):
    """Without the barriers that the sweep ends with, two iterations race."""
    pytest.importorskip("triton")
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_sinkhorn_triton as tests
from triton.runtime import interpreter
hazards = tests.watch_for_hazards()
interpreter.InterpreterBuilder.create_barrier = lambda self: None
tests.fused.solve(*tests.near_clouds(7, 7, 3, lanes=1), tests.torch.tensor([0.1]), tol=None, max_iter=3)
assert any("_sweep" in hazard for hazard in hazards), hazards
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_triton_is_not_imported_before_it_is_needed():
    script = """
import sys, torch, pkdray.losses
from pkdray.losses import _sinkhorn_triton
x = torch.zeros(1, 2, 3)
assert not _sinkhorn_triton.available(x, x)
assert "triton" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (33, 20, 17), (128, 128, 30), (1024, 3, 256)])
def test_sizes_are_padded_to_what_a_block_holds(n, m, k):
    size = fused.sizes(n, m, k)
    assert max(n, m, 16) <= size.P
    assert max(k, 16) <= size.KP
    assert size.P % size.R == size.P % size.RD == 0
    assert min(size.R, size.RD) >= 16


# Shared memory that a program may have: 163 KB on an A100, 227 KB on an H100.
SHARED = {80: 163 * 1024, 90: 227 * 1024}


def compiled(batch, k, capability, complete):
    """The kernel as it is started for these sizes, compiled for a GPU not there; registers; bytes spilled."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pkdray.losses._sinkhorn_kernel import scratch_size, solve_lane

    size = fused.sizes(batch, batch, k)
    constants = {"P": size.P, "KP": size.KP, "R": size.R, "RD": size.RD, "COMPLETE": complete}
    constants["STRIDE"] = scratch_size(size.P, size.KP)
    types = dict.fromkeys(("n", "m", "k", "self_steps", "max_iter"), "i32") | {"tol": "fp32", "iterations": "*i64"}
    signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in solve_lane.arg_names}
    aligned = {(solve_lane.arg_names.index("scratch"),): [["tt.divisibility", 16]]}
    with contextlib.redirect_stdout(io.StringIO()) as log:
        kernel = triton.compile(
            ASTSource(solve_lane, signature, constexprs=constants, attrs=aligned),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": size.warps, "num_stages": 1},
        )
    registers = int(re.search(r"Used (\d+) registers", log.getvalue())[1])
    return kernel, registers, int(re.search(r"(\d+) bytes spill stores", log.getvalue())[1])


def check_compiled(batch, k, capability, complete):
    kernel, registers, spilled = compiled(batch, k, capability, complete)
    assert kernel.metadata.shared <= SHARED[capability]
    # The iteration itself fits; what spills lies in the products of clouds of 512 points and more.
    assert registers <= 255
    assert spilled <= (64 if batch <= 128 else 1024)
    assert "tf32" not in kernel.asm["ptx"]


@pytest.fixture
def _fresh(tmp_path, monkeypatch):
    """A cache of its own, so that a test compiles indeed; and Triton prints what its ptxas says."""
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    monkeypatch.setattr(triton.knobs.nvidia, "dump_ptxas_log", True)


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("capability", SHARED)
def test_compiles_without_a_gpu(capability):
    check_compiled(128, 30, capability, complete=capability == 80)


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("k", [8, 30, 64])
@pytest.mark.parametrize("batch", [13, 32, 128, 512, 1024])
@pytest.mark.parametrize("capability", SHARED)
def test_compiles_at_every_size(capability, batch, k):
    check_compiled(batch, k, capability, complete=k == 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", [name for name in problems() if name != "nan"])
def test_a_gpu_agrees_with_the_plain_solver(name):
    x, y, epsilon, options = problems()[name]
    assert fused.available(x.cuda(), y.cuda())
    found = fused.solve(x.cuda(), y.cuda(), epsilon.cuda(), **options)
    for lane in range(len(x)):
        one = slice(lane, lane + 1)
        expected = plain.solve(x[one], y[one], epsilon[one], **options)
        assert relative(found.value[one].cpu(), expected.value) <= 1e-3
        assert relative(found.grad_y[one].cpu(), expected.grad_y) <= 1e-2


if __name__ == "__main__":
    interpret(sys.argv[1])
