"""A student as two graphs that need no pkdray: ONNX and torch.export, both compared with the student itself."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from pkdray.errors import PkdrayError
from pkdray.files import write_atomic
from pkdray.training.bundles import Pipeline

ONNX, TORCH = "model.onnx", "model.pt2"
BATCHES = (1, 7)
"""The batch sizes at which a graph is compared: a traced graph may have frozen one of them."""
_LARGE = 1_000_000
"""Numbers of a sample above which the larger batch is 2, because a graph has no chunks: with 75 frames of 112 x 112 a
sample, writing VGG19's graphs takes 2.9 GB and a minute even so."""
RELATIVE, ABSOLUTE = 1e-4, 1e-5
_TRACED = 3  # Neither 0 nor 1, which torch.export would take for constants.

Inputs = dict[str, Tensor]


class _Named(nn.Module):
    """A pipeline that takes its modalities by name, so that two of one shape cannot be mixed up."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.pipeline = pipeline

    def forward(self, inputs: Inputs) -> Tensor:
        return self.pipeline(*(inputs[name] for name in self.pipeline.modalities))


def output_name(pipeline: Pipeline) -> str:
    """The name of the graphs' output: ``probabilities`` or, for regression, ``targets``."""
    return "probabilities" if pipeline.classify else "targets"


def write_graphs(
    folder: Path, pipeline: Pipeline, shapes: Mapping[str, Sequence[int]], about: Mapping[str, Any] | None = None
) -> None:
    """Write ``model.onnx`` and ``model.pt2``: raw features in, probabilities or targets out, any batch size.

    Both are read back and must answer as the pipeline does, to 1e-4 relative and 1e-5 absolute, on random samples of
    batch sizes 1 and 7 (1 and 2 where samples are large). Neither holds file names of the machine that made it.

    Args:
        folder: where the two files go.
        pipeline: the student, in evaluation mode and on the CPU.
        shapes: of a sample, without the batch, by modality.
        about: JSON-able facts for the ONNX file's metadata, under the key ``pkdray``.

    Raises:
        PkdrayError: the network cannot be exported, or a graph's answers differ; neither file is left behind.
        StorageError: the folder cannot be written.
    """
    shapes = {name: shapes[name] for name in pipeline.modalities}
    try:
        with torch.no_grad(), _quiet():
            program = _trace(pipeline, shapes)
            _write_torch(folder / TORCH, program, pipeline, shapes)
            _write_onnx(folder / ONNX, program, pipeline, shapes, about or {})
    except BaseException:
        for name in (ONNX, TORCH):
            (folder / name).unlink(missing_ok=True)
        raise


def _trace(pipeline: Pipeline, shapes: Mapping[str, Sequence[int]]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    with _converting("torch.export"):
        program = torch.export.export(
            _Named(pipeline).eval(),
            (_random(pipeline, shapes, _TRACED),),
            dynamic_shapes=({name: {0: batch} for name in shapes},),
            strict=False,
        )
    # Stack traces name the files and folders of the machine that exports.
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


def _write_torch(
    path: Path, program: torch.export.ExportedProgram, pipeline: Pipeline, shapes: Mapping[str, Sequence[int]]
) -> None:
    def write(temporary: Path) -> None:
        with _converting("torch.export"):
            torch.export.save(program, temporary)
            loaded = torch.export.load(temporary).module()
        _compare(path.name, lambda inputs: loaded(inputs).numpy(), pipeline, shapes)

    write_atomic(path, write)


def _write_onnx(
    path: Path,
    program: torch.export.ExportedProgram,
    pipeline: Pipeline,
    shapes: Mapping[str, Sequence[int]],
    about: Mapping[str, Any],
) -> None:
    with _converting("ONNX"):
        converted = torch.onnx.export(
            program,
            input_names=list(shapes),
            output_names=[output_name(pipeline)],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        assert converted is not None
        model = converted.model_proto
    _tidy(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = "pkdray", json.dumps(dict(about))

    def write(temporary: Path) -> None:
        with _converting("ONNX"):
            onnx.save(model, temporary)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            session = onnxruntime.InferenceSession(temporary, options, providers=["CPUExecutionProvider"])

        def answer(inputs: Inputs) -> np.ndarray:
            return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]

        _compare(path.name, answer, pipeline, shapes)

    write_atomic(path, write)


def _compare(
    what: str, answer: Callable[[Inputs], np.ndarray], pipeline: Pipeline, shapes: Mapping[str, Sequence[int]]
) -> None:
    large = sum(math.prod(shape) for shape in shapes.values()) > _LARGE
    for batch in (min(size, 2) if large else size for size in BATCHES):
        inputs = _random(pipeline, shapes, batch)
        expected = pipeline(*inputs.values()).numpy()
        with _converting(what):
            found = answer(inputs)
        if found.shape == expected.shape and np.allclose(found, expected, rtol=RELATIVE, atol=ABSOLUTE):
            continue
        how = f"shape {list(found.shape)} in place of {list(expected.shape)}"
        if found.shape == expected.shape:
            how = f"values off by up to {np.abs(found - expected).max():.3g}"
        raise PkdrayError(
            f"{what} does not answer as the student does: on {batch} random samples it gives {how} "
            f"(allowed: {RELATIVE:g} relative, {ABSOLUTE:g} absolute).",
            cure="Nothing was exported. Try another version of torch or onnxruntime, and please report this.",
        )


def _random(pipeline: Pipeline, shapes: Mapping[str, Sequence[int]], batch: int) -> Inputs:
    """Random pictures, and features as the training split had them.

    Far from there a softmax saturates and hides every difference.
    """
    generator = torch.Generator().manual_seed(batch)
    inputs = {}
    for index, (name, shape) in enumerate(shapes.items()):
        if name in pipeline.images:
            inputs[name] = torch.randint(0, 256, (batch, *shape), generator=generator, dtype=torch.uint8)
        else:
            noise = torch.randn(batch, *shape, generator=generator)
            inputs[name] = pipeline.get_buffer(f"mean_{index}") + pipeline.get_buffer(f"std_{index}") * noise
    return inputs


def _tidy(model: onnx.ModelProto) -> None:
    """Name the free dimension ``batch``; drop the exporter's notes, which name files of this machine."""
    for value in [*model.graph.input, *model.graph.output]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = "batch"
    del model.graph.value_info[:]
    _drop_notes(model)


def _drop_notes(message: Any) -> None:
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE and field.name != "initializer":
            # A repeated field is no list, but it is iterable; a single message is not.
            for part in value if hasattr(value, "__len__") else [value]:
                _drop_notes(part)


@contextlib.contextmanager
def _converting(what: str) -> Iterator[None]:
    """Whatever a converter or a runtime raises means one thing to the user: this network cannot go that way."""
    try:
        yield
    except (PkdrayError, OSError):
        raise
    except Exception as error:
        # The exporters wrap the fault in pages of advice; what was raised first says it.
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        first = next((line.strip() for line in str(root).splitlines() if line.strip()), "no message")
        raise PkdrayError(
            f"The student cannot be exported as {what} ({type(root).__name__}: {first}).",
            cure="Nothing was exported. Try another version of torch, onnx or onnxruntime, and please report this.",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters print, warn and log about their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
