"""The model card: what a student is, how to use it, how good it is, what made it, and where it ends."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import yaml

from pkdray import mirrors
from pkdray.diagnostics.cost_table import architecture_cost
from pkdray.evaluate import FORMAT, as_then, openings
from pkdray.evaluate.wording import change, change_between, lower_is_better
from pkdray.export.graphs import ONNX, TORCH
from pkdray.training.bundles import METRICS, MODEL, PREPROCESSING, StudentInfo

if TYPE_CHECKING:
    from pkdray.data.dataset import Dataset
    from pkdray.data.info import RecordingsInfo
    from pkdray.search.run import Run

_SHOWN = 40
_EXPORTERS = ("pkdray", "torch", "onnx", "onnxruntime")
_GROUPS = 12
"""A table of subgroups shows so many at most: the worst half of them and the best."""
_OTHER_SPLIT = "The test samples are those of the folds, not those of the results above. "
_FEW_SAMPLES, _FEW_SUBJECTS = 1000, 50
_LABELS = {
    "lower_bound": "lower bound: no teacher",
    "student": "this configuration",
    "teacher": "upper bound: the teacher",
}


def model_card(
    name: str,
    info: StudentInfo,
    metrics: Mapping[str, Any],
    *,
    images: Collection[str] = (),
    recordings: RecordingsInfo | None = None,
    run: Run | None = None,
    dataset: Dataset | None = None,
    evaluation: Mapping[str, Any] | None = None,
    transfer: str | None = None,
    latency_ms: float | None = None,
) -> str:
    """The text of README.md, in Markdown.

    Args:
        name: of the student's folder, as the examples spell it.
        info: the student's config.yaml.
        metrics: the student's metrics.json.
        images: those of its modalities that are images.
        recordings: how recordings were cut into its samples; None where it was trained on features.
        run: the run that it comes from; tells of teachers, search and versions.
        dataset: what it was trained on; tells of source, licence, labels and sizes.
        evaluation: the run's evaluation.json; None where there is none. One of an older format tells that the test
            split was opened, and no more. How often it was opened is the run's record, whatever stands here.
        transfer: which teachers taught it and what the gate kept from it, in one sentence; None where nobody looked.
        latency_ms: median milliseconds of one sample on the CPU that exports it; None where it was not measured.
    """
    opened = _openings(run, evaluation)
    said = evaluation if evaluation is not None and _is_of(info, evaluation) else None
    untold = _untold(info, run, evaluation, opened) if said is None else ""
    fold = run.config.dataset.fold if run is not None else None
    sections = [
        _head(info),
        _use(info, images),
        _shapes(info, images, dataset),
        _examples(name, info, images, recordings),
        _results(info, metrics, said, untold),
        _cost(info, latency_ms),
        _data(info, dataset, fold),
        _making(info, run, transfer),
        _limits(info, recordings, dataset, fold, said, opened),
        _provenance(info, run),
    ]
    return "\n\n".join(sections) + "\n"


def _openings(run: Run | None, evaluation: Mapping[str, Any] | None) -> int:
    """How often the test split was opened, by whichever record knows of more."""
    told = ((evaluation or {}).get("test_opened") or {}).get("times", 0 if evaluation is None else 1)
    return max(told, len(openings(run)) if run is not None else 0)


def _is_of(info: StudentInfo, evaluation: Mapping[str, Any]) -> bool:
    return evaluation.get("format") == FORMAT and evaluation.get("trial") == info.made_from.get("trial")


def _untold(info: StudentInfo, run: Run | None, evaluation: Mapping[str, Any] | None, opened: int) -> str:
    """Why no test results are told, and what to do."""
    # Its path, since a name is looked for in the folder runs alone.
    where = mirrors.typed(run.path) if run is not None else shlex.quote(str(info.made_from.get("run", "RUN")))
    command = f"`pkdray evaluate {where}`"
    if not opened:
        return (
            f"**The test split has not been opened for this student yet.** {command} opens it and compares the "
            "student with its bounds; until then nobody knows how well it does on unseen data."
        )
    options = as_then(run) if run is not None else []
    again = f"`{' '.join(['pkdray evaluate', where, *options])}` "
    if "--reopen" not in options:
        again += "goes on with the request that it was opened for; any other takes `--reopen`, "
    else:
        again += "evaluates it anew, "
    again += "on data that are no longer unseen."
    if evaluation is None:
        return f"**The test split was opened for this run, but its evaluation did not end or was moved away.** {again}"
    if evaluation.get("format") != FORMAT:
        return f"**The test split was opened by an older pkdray, whose results this one does not read.** {again}"
    return (
        f"**The test split was opened for another student (trial {evaluation.get('trial')}), not for this one.** "
        f"{command} with `--reopen` would evaluate this one, on data that are then no longer unseen."
    )


def _head(info: StudentInfo) -> str:
    modalities = _names(info.architecture.shapes)
    made = info.made_from
    privileged = made.get("privileged") or []
    distilled = (made.get("method") or {}).get("name", "supervised") != "supervised"
    text = f"It needs {modalities} alone."
    saw = f" that also saw {_names(privileged)}" if privileged else ""
    if distilled:
        text += f" While it was trained it was guided by teachers{saw}; nothing of them is needed to predict."
    elif info.architecture.tnet_outputs:
        text += f" It was trained on the labels, beside a T-Net that imitates features of a teacher{saw}."
    else:
        text += " It was trained on the labels alone, without a teacher."
    return (
        f"# {_title(info)}\n\nA student network made by pkdray that predicts {_what(info)} of the dataset "
        f"'{made.get('dataset', 'unknown')}'. {text}"
    )


def _title(info: StudentInfo) -> str:
    return f"{info.made_from.get('dataset', 'A student')} from {', '.join(info.architecture.shapes)}"


def _what(info: StudentInfo) -> str:
    frames = " for every frame" if info.architecture.per_frame else ""
    if info.task == "classification":
        return f"one of {len(info.classes)} classes{frames}"
    return f"{_names(info.targets)}{frames}"


def _use(info: StudentInfo, images: Collection[str]) -> str:
    kinds = "images were cut out" if set(info.architecture.shapes) <= set(images) else "features were extracted"
    if images and kinds.startswith("features"):
        kinds = "images and features were made"
    return (
        "## Intended use\n\n"
        f"Predicting {_what(info)} of new samples whose {_names(info.architecture.shapes)} {kinds} "
        f"exactly as those of '{info.made_from.get('dataset', 'the dataset')}', and that resemble its samples. It is "
        "a research result: before it takes part in a decision about a person, test it on data of the people and the "
        "place it is meant for.\n\n"
        "Out of scope: decisions about a person that nobody else looks at; people, devices and surroundings unlike "
        "those of the dataset; features that were made in another way; and whatever the licence of the dataset, "
        "stated here or not, forbids."
    )


def _shapes(info: StudentInfo, images: Collection[str], dataset: Dataset | None) -> str:
    shapes = info.architecture.shapes
    rows = []
    for name, shape in shapes.items():
        said = _sample(shape, name in images)
        modality = dataset.info.modalities.get(name) if dataset is not None else None
        if modality is not None and modality.rate is not None:
            said += f", {modality.rate:g} frames a second"
        kind = "uint8" if name in images else "float32"
        rows.append([f"`{name}`", f"`[N, {', '.join(map(str, shape))}]`", kind, said])
    outputs = ["N", str(info.architecture.outputs)]
    if info.architecture.per_frame:
        # A sample that is a vector or one picture has no frames: it is repeated over those of the others.
        outputs.insert(1, str(next(shape[0] for shape in shapes.values() if len(shape) not in (1, 3))))
    raw = []
    if len(images) < len(shapes):
        raw.append(
            "The features go in **raw**, as float32, exactly as the dataset holds them: their standardisation is a "
            f"part of the student ({PREPROCESSING}) and of both graphs."
        )
    if images:
        raw.append(
            f"The pictures of {_names(images)} go in as they are, uint8 RGB from 0 to 255, channels last: the student "
            "and both graphs scale and normalise them."
        )
    names = info.classes if info.task == "classification" else info.targets
    kind = "probabilities that sum to 1, of the classes" if info.task == "classification" else "the targets"
    return "\n\n".join(
        [
            "## Input and output",
            _table(["modality", "N samples", "type", "a sample is"], rows),
            *raw,
            f"Output: `[{', '.join(outputs)}]`, {kind} {_names(names)}, in this order.",
        ]
    )


def _sample(shape: Sequence[int], picture: bool) -> str:
    """A sample in words."""
    if picture:
        return f"{' x '.join(map(str, shape[:-3]))} pictures of {shape[-3]} x {shape[-2]} pixels".lstrip()
    if len(shape) == 1:
        return f"{shape[0]} numbers"
    return f"{shape[0]} frames of {' x '.join(map(str, shape[1:]))} numbers"


def _examples(name: str, info: StudentInfo, images: Collection[str], recordings: RecordingsInfo | None) -> str:
    shapes = info.architecture.shapes
    files = {
        modality: ("features" if len(shapes) == 1 else modality) + (".npy" if len(shape) > 2 or images else ".csv")
        for modality, shape in shapes.items()
    }
    tables = [
        shlex.quote(file) if len(shapes) == 1 else shlex.quote(f"{modality}={file}") for modality, file in files.items()
    ]
    frames = any(len(shape) == 2 for shape in shapes.values())
    columns = "A table of features (.csv, .parquet or .npz) has `sample_id` and one column a feature, in the order of "
    columns += "the dataset"
    columns += "; samples of several frames have one row a frame and a column `frame`" if frames else ""
    if images:
        columns = "A .npy file holds an array of the shape and type above, of as many samples as you like, all in one "
        columns += "order. The array is read in parts, so it need not fit into memory"
    kinds = {modality: "np.uint8" if modality in images else "np.float32" for modality in shapes}
    arrays = ", ".join(f'"{key}": np.zeros({(2, *shape)}, dtype={kinds[key]})' for key, shape in shapes.items())
    tensors = ", ".join(
        f'"{key}": torch.zeros({", ".join(map(str, (2, *shape)))}' + (", dtype=torch.uint8)" if key in images else ")")
        for key, shape in shapes.items()
    )
    output = "probabilities" if info.task == "classification" else "targets"
    shown = "`prediction` and a column `p_<class>` a class" if info.task == "classification" else "a column a target"
    shown = f"`frame`, {shown}" if info.architecture.per_frame else shown
    return f"""## How to predict
{_recording(name, info, recordings)}
From the command line, with pkdray installed:

```sh
pkdray predict {shlex.quote(name)} {" ".join(tables)} -o answers.csv
```

{columns}. The answers (.csv or .parquet) have `sample_id`, {shown}.

In Python, with pkdray installed (the zeros stand for your features):

```python
import numpy as np
import pkdray

student = pkdray.load_student({_quoted(name)})
features = {{{arrays}}}
answers = student.predict(features)  # a pandas table; predict_array gives the bare array
```

With ONNX Runtime, without pkdray and torch:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession({_quoted(f"{name}/{ONNX}")})
features = {{{arrays}}}
{output} = session.run(["{output}"], features)[0]
```

With torch, without pkdray (open .pt2 files only from people whom you trust):

```python
import torch

program = torch.export.load({_quoted(f"{name}/{TORCH}")}).module()
{output} = program({{{tensors}}})
```

Both graphs take any number of samples and were compared with the student before they were written; the names of the
outputs are in the ONNX file's metadata too, as JSON under `pkdray`. pkdray itself needs `{MODEL}`, `config.yaml`,
`{PREPROCESSING}` and `{METRICS}`, and refuses weights or a preprocessing that were altered."""


def recording_inputs(info: StudentInfo, recordings: RecordingsInfo | None) -> str | None:
    """What ``pkdray predict`` takes of a raw recording; None where the student was trained on none, or sees none."""
    if recordings is None:
        return None
    seen = set(info.architecture.shapes)
    if not seen & {"face", "voice"}:
        return None
    # A clip of Aff-Wild2 is so many frames of a video, even where only its sound is heard.
    given = "video.mp4" if "face" in seen or recordings.name == "affwild2" else "sound.wav"
    return f"{given} biosignals=signals.csv" if seen - {"face", "voice"} else given


def _recording(name: str, info: StudentInfo, recordings: RecordingsInfo | None) -> str:
    """How to use it on a raw recording, if it was trained on some."""
    given = recording_inputs(info, recordings)
    if recordings is None or given is None:
        return ""
    seen = set(info.architecture.shapes)
    steps = {
        "biovid": "windows of 3 s, one every second, each answered for its middle",
        "affwild2": "clips of 32 frames, of which 8 are used, each answered for its last frame",
        "recola": "clips of 1 s, each with 25 answers",
    }
    faces = ", and `faces`, the share of its frames in which a face was found" if "face" in seen else ""
    return f"""
From a raw recording to a time line, with pkdray installed:

```sh
pkdray predict {shlex.quote(name)} {given} -o answers.csv --plot answers.png
```

The recording is cut as those of {recordings.name} were: {steps[recordings.name]}.
The answers have `time_s`, when an answer is for, `start_s` and `end_s` of its sample{faces}.
In Python: `pkdray.load_student({_quoted(name)}).predict_recording({_quoted(given.split(" ")[0])})`.
"""


def _results(info: StudentInfo, metrics: Mapping[str, Any], evaluation: Mapping[str, Any] | None, untold: str) -> str:
    validation = metrics.get("validation") or {}
    test = ((evaluation or {}).get("student") or {}).get("test") or {}
    chosen = info.made_from.get("metric")
    names = [*validation, *(name for name in test if name not in validation)]
    rows = [[_title_of(name, chosen), _number(validation.get(name)), _number(test.get(name))] for name in names]
    parts = [
        "## Results",
        _table(["", "validation", "test"], rows) if test else _table(["", "validation"], [row[:2] for row in rows]),
        "These are the numbers of the very weights in this folder. Validation chose them among all trials and epochs, "
        "so its numbers are optimistic.",
    ]
    if evaluation is None:
        parts.append(untold)
    else:
        parts += [*_bounds(evaluation), *_comparisons(evaluation), *_subgroups(evaluation), *_notes(evaluation)]
    return "\n\n".join(parts)


def _bounds(evaluation: Mapping[str, Any]) -> list[str]:
    metric, seeds, folds = evaluation.get("metric", "metric"), evaluation.get("seeds") or [], evaluation.get("folds")
    better = {"max": "higher is better", "min": "lower is better"}.get(str(evaluation.get("mode")), "")
    rows = []
    for name, said in (evaluation.get("methods") or {}).items():
        rows.append(
            [
                _LABELS.get(name, str(said.get("label") or name)),
                str(said.get("what", "")),
                _number(said.get("mean")),
                _number(said.get("std")),
                _ends(said.get("interval")),
                str(len(said["values"])) if said.get("values") else "-",
            ]
        )
    if not rows:
        return []
    several = f" on each of {len(folds)} folds" if folds and len(folds) > 1 else ""
    confidence = f"{100 * evaluation.get('confidence', 0.95):g} % interval"
    return [
        "### Between its bounds",
        f"The configuration of this student was trained again with {_count(len(seeds), 'seed')}{several}, beside its "
        f"bounds. Every training chose its epoch on validation. {several and _OTHER_SPLIT}"
        f"Test {metric}" + (f" ({better})" if better else "") + ":",
        _table(["", "what", "mean", "standard deviation", confidence, "trainings"], rows),
    ]


def _comparisons(evaluation: Mapping[str, Any]) -> list[str]:
    """What the tests say: in words, the first one in bold, and in numbers."""
    found, metric = evaluation.get("comparisons") or [], str(evaluation.get("metric"))
    if not found:
        return []
    confidence = f"{100 * evaluation.get('confidence', 0.95):g} %"
    said = [str(one["sentence"]) for one in found if one.get("sentence")]
    rows = []
    for one in found:
        test = (one.get("tests") or {}).get("wilcoxon") or {}
        effect = one.get("effect_size")
        gain = one.get("difference")
        rows.append(
            [
                f"{_called(one['method'])} against {_called(one['against'])}",
                change(gain, metric) if gain is not None else "-",
                change_between(one["interval"], metric) if one.get("interval") else "-",
                f"{one['wins']} of {one['pairs']}" if one.get("pairs") else "-",
                f"{test['p_holm']:.2g}" if test.get("p_holm") is not None else "-",
                f"{effect:.2f}" if effect is not None else "-",
                str(one.get("verdict", "-")),
            ]
        )
    parts = [f"**{said[0]}**", *(["\n".join(f"- {line}" for line in said[1:])] if said[1:] else [])] if said else []
    return [
        *parts,
        _table(
            [
                "paired over seeds and folds",
                "gain",
                f"{confidence} interval",
                "better in",
                "p",
                "effect size d",
                "verdict",
            ],
            rows,
        ),
        "The interval is Student's t, of the mean gain. p is that of Wilcoxon's signed-rank test, corrected for the "
        "number of comparisons (Holm); d is the mean gain over the standard deviation of the gains.",
    ]


def _called(method: str) -> str:
    return "this configuration" if method == "student" else method.replace("_", " ")


def _subgroups(evaluation: Mapping[str, Any]) -> list[str]:
    """For whom it is good and for whom it is not: test scores of these very weights by class and by subject."""
    parts = []
    for kind, (metric, known) in _known_groups(evaluation).items():
        groups = evaluation["subgroups"][kind]
        worst_first = sorted(known, key=lambda group: group[metric], reverse=lower_is_better(metric))
        worst, best = worst_first[0], worst_first[-1]
        text = f"By {kind}, {metric} on test is worst for {_group(worst, metric)} and best for {_group(best, metric)}."
        shown, half = worst_first, _GROUPS // 2
        if len(shown) > _GROUPS:
            shown = [*shown[:half], *shown[-half:]]
            text += f" Of {len(known)}, the {half} worst and the {half} best:"
        unknown = len(groups) - len(known)
        if unknown:
            text += f" ({_count(unknown, 'group')} without a defined {metric} left out.)"
        rows = [[f"`{_line(str(group['name']))}`", str(group["samples"]), _number(group[metric])] for group in shown]
        parts += [text, _table([kind, "samples", metric], rows)]
    return ["### Subgroups", *parts] if parts else []


def _known_groups(evaluation: Mapping[str, Any]) -> dict[str, tuple[str, list[Mapping[str, Any]]]]:
    """Kind of group -> its metric and the groups in which that is defined, where there are two of them at least."""
    result = {}
    for kind, groups in (evaluation.get("subgroups") or {}).items():
        metric = next((key for group in groups for key in group if key not in ("name", "samples")), "")
        known = [group for group in groups if group.get(metric) is not None]
        if len(known) > 1:
            result[kind] = (metric, known)
    return result


def _group(group: Mapping[str, Any], metric: str) -> str:
    return f"`{_line(str(group['name']))}` ({_number(group[metric])}, {_count(group['samples'], 'sample')})"


def _notes(evaluation: Mapping[str, Any]) -> list[str]:
    said = [f"> - {_line(str(note))}" for note in evaluation.get("notes") or []]
    return ["### To bear in mind", "\n".join(said)] if said else []


def _cost(info: StudentInfo, latency_ms: float | None) -> str:
    found = architecture_cost(info.architecture)
    rows = [
        ["parameters", f"{found.parameters:,}"],
        ["multiply-accumulates of one sample", f"{found.macs:,}"],
    ]
    if latency_ms is not None:
        rows.append(["one sample on one thread of the CPU that exported it, median", f"{latency_ms:.3g} ms"])
    return f"## Cost\n\n{_table(['', ''], rows)}"


def _data(info: StudentInfo, dataset: Dataset | None, fold: int | None) -> str:
    made = info.made_from
    head = f"## Training data\n\n'{made.get('dataset', 'unknown')}'"
    if made.get("dataset_fingerprint"):
        head += f", fingerprint `{made['dataset_fingerprint']}`"
    if dataset is None:
        return f"{head}. It could not be opened when this card was written: ask its owner for source and licence."
    samples = dataset.samples
    sizes = []
    for split, label in (("train", "training"), ("val", "validation"), ("test", "test")):
        rows = dataset.rows(split, fold)
        sizes.append(f"{len(rows)} {label} ({samples['subject_id'].iloc[rows].nunique()} subjects)")
    parts = [f"{head}. Samples: {', '.join(sizes)}; no subject is in two of them."]
    said = dataset.info
    facts = [("Source", said.source), ("Licence", said.licence), ("Citation", said.citation)]
    parts.append("\n".join(f"- {label}: {_line(text) or 'not stated'}" for label, text in facts))
    if said.notes.strip():
        parts.append("What its makers say of it, its labels included:")
        parts.append("\n".join(f"> {line}".rstrip() for line in said.notes.strip().splitlines()))
    return "\n\n".join(parts)


def _making(info: StudentInfo, run: Run | None, transfer: str | None) -> str:
    made = info.made_from
    parts = ["## How it was made"]
    if run is not None:
        counts = run.ledger().counts()
        parts.append(
            f"Best of {counts.finished} trials ({counts.complete} complete, {counts.pruned} stopped early, "
            f"{counts.failed} failed) by validation {made.get('metric', 'metric')}."
        )
        pool = {teacher.name: teacher.modalities or [] for teacher in run.config.teachers.pool}
        adapted = run.config.teachers.pool[0].modalities if run.config.teachers.adapters.enabled else None
        teachers = ((made.get("method") or {}).get("teachers")) or _default_teachers(made, [*pool], adapted or [])
        lines = [
            f"- `{name}`: " + (f"sees {_names(pool[name])}" if name in pool else "an adapter on one modality")
            for name in teachers
        ]
        if lines:
            parts += ["Teachers:", "\n".join(lines)]
        if transfer:
            parts.append(_line(transfer))
        if info.architecture.tnet_outputs:
            parts.append(
                "The student holds a T-Net: a small network that hallucinates, from what the student sees, the "
                f"features that the teacher `{next(iter(pool))}` drew from what it alone saw."
            )
    recipe: dict[str, Any] = {key: made[key] for key in ("method", "training") if key in made}
    architecture = info.architecture
    recipe["student"] = architecture.student.model_dump(mode="json") | {
        "fusion": architecture.fusion,
        "embedding": architecture.embedding,
    }
    if not architecture.tnet_outputs:
        recipe["student"]["tnet"] = "none"
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100).rstrip()
    parts.append(f"```yaml\n{text}\n```")
    return "\n\n".join(parts)


def _default_teachers(made: Mapping[str, Any], pool: Sequence[str], adapted: Sequence[str]) -> list[str]:
    method = (made.get("method") or {}).get("name", "supervised")
    if method == "supervised":
        return []
    return [*pool, *adapted] if method == "mt-pkdot" else list(pool[:1])


def _limits(
    info: StudentInfo,
    recordings: RecordingsInfo | None,
    dataset: Dataset | None,
    fold: int | None,
    evaluation: Mapping[str, Any] | None,
    opened: int,
) -> str:
    lines = [
        "It knows the subjects, the devices and the feature extraction of its dataset; for others its answers may be "
        "worse, and it gives no sign of that.",
        "It has learnt the annotators' habits and mistakes together with the labels"
        + (": see the notes on the training data." if dataset is not None and dataset.info.notes.strip() else "."),
        _broken_down(evaluation) + "; do so before relying on it for one.",
    ]
    if evaluation is not None and dataset is not None:
        rows = dataset.rows("test", fold)
        subjects = dataset.samples["subject_id"].iloc[rows].nunique()
        if len(rows) < _FEW_SAMPLES or subjects < _FEW_SUBJECTS:
            lines.append(
                f"The test split is small: {_count(len(rows), 'sample')} of {_count(subjects, 'subject')}. Intervals "
                "and tests are over trainings; how other people would fare is in none of them."
            )
    if opened > 1:
        lines.append(
            f"The test split has been opened {opened} times, so it is no longer unseen and its numbers are optimistic."
        )
    elif opened and evaluation is None:
        lines.append("The test split has been opened once, so it is no longer unseen.")
    if info.task == "classification":
        lines.append("Its probabilities are a softmax and were not calibrated.")
    if recordings is not None and recordings.name == "affwild2" and "face" in info.architecture.shapes:
        lines.append(
            "It was trained on faces that the makers of Aff-Wild2 aligned by landmarks and cut tightly; in a raw video "
            "pkdray cuts out the box of the face, unaligned, which may cost accuracy."
        )
    if any(len(shape) > 1 for shape in info.architecture.shapes.values()):
        lines.append("It takes sequences of exactly the lengths above: cut or pad others.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _broken_down(evaluation: Mapping[str, Any] | None) -> str:
    kinds = list(_known_groups(evaluation or {}))
    if not kinds:
        return "Results were not broken down by sex, age or any other group"
    return f"Results were broken down by {' and by '.join(kinds)}, not by sex, age or any other group"


def _provenance(info: StudentInfo, run: Run | None) -> str:
    made = info.made_from
    rows: list[tuple[str, Any]] = [
        ("run", made.get("run")),
        ("trial", made.get("trial")),
        ("seed", made.get("seed")),
        ("dataset fingerprint", made.get("dataset_fingerprint")),
        ("teacher pool fingerprint", made.get("pool_fingerprint")),
        ("run created", run.about.get("created") if run is not None else None),
        ("versions", ", ".join(f"{key} {value}" for key, value in (made.get("versions") or {}).items())),
        ("Python", run.about.get("python") if run is not None else None),
        ("exported with", ", ".join(f"{package} {version(package)}" for package in _EXPORTERS)),
    ]
    table = _table(["", ""], [[label, str(value)] for label, value in rows if value not in (None, "")])
    return f"## What made it\n\n{table}\n\nThe checksums of the files are in `config.yaml`, the results in `{METRICS}`."


def _title_of(name: str, chosen: object) -> str:
    return f"{name} (the search's metric)" if name == chosen else name


def _names(names: Iterable[str]) -> str:
    shown = list(names)
    quoted = ", ".join(f"`{_line(name)}`" for name in shown[:_SHOWN])
    return quoted if len(shown) <= _SHOWN else f"{quoted} and {len(shown) - _SHOWN} more (all are in config.yaml)"


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"


def _ends(interval: Sequence[float] | None) -> str:
    return " to ".join(map(_number, interval)) if interval else "-"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
