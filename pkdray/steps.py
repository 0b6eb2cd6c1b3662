"""The steps behind the command line: each does one thing, shows it, and says what to type next.

Imports stand inside the steps, so that a step brings in what it needs and nothing else: `predict` runs without Ray.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pkdray.console import Console, duration, progress_line
from pkdray.errors import (
    ConfigError,
    DatasetError,
    InterruptedImportError,
    InterruptedSweepError,
    InterruptedWorkError,
    RunError,
)
from pkdray.interrupts import noticed

if TYPE_CHECKING:
    from pkdray.data.dataset import Dataset
    from pkdray.data.importers.build import ImportProgress, Maker, Outcome, Work
    from pkdray.data.importers.recordings import Recording
    from pkdray.models.cost import Cost
    from pkdray.search.run import Run
    from pkdray.search.sweep import Progress
    from pkdray.training.plan import Plan
    from pkdray.training.pools import Pool


def import_features(
    dest: Path, console: Console, *, modality: Sequence[str], labels: Path, name: str, task: str, **options: Any
) -> None:
    """Tables to a dataset."""
    from pkdray.data.importers.features import import_features as importer

    kinds: dict[str, Literal["classification", "regression"]] = {
        "classification": "classification",
        "regression": "regression",
    }
    if task not in kinds:
        raise ConfigError(f"--task is '{task}'.", cure="Choose classification or regression.")
    tables = {key: Path(value) for key, value in named(modality, "--modality").items()}
    importer(dest, name=name, task=kinds[task], labels=labels, modalities=tables, **options)
    inspect(str(dest), console)


def import_recordings(
    name: str,
    src: Path,
    dest: Path,
    console: Console,
    *,
    modalities: Sequence[str],
    scanning: Mapping[str, Any],
    making: Mapping[str, Any],
    protocol: str | None,
    seed: int,
    limit: int | None,
    dry_run: bool,
    device: str,
    workers: int = 1,
    address: str | None = None,
    delay: str = "0",
) -> None:
    """Recordings of one of the licensed sets to a dataset.

    Raises:
        InterruptedImportError: Ctrl-C stopped it; says how to go on.
    """
    from pkdray.data.importers import build
    from pkdray.data.importers.protocols import PROTOCOLS
    from pkdray.data.inspect import describe

    protocol = protocol or next(iter(PROTOCOLS[name]))
    build.check_destination_free(dest)
    with console.progress(f"Scanning {src} ..."):
        scan, chosen = build.scan_for(name, src, modalities, **scanning)
    notes, said = "", []
    if delay == "auto":
        from pkdray.data.importers.delays import estimate_lines, estimate_note, without_estimated_delay

        scan, estimate = without_estimated_delay(scan, src, protocol=protocol, seed=seed)
        notes, said = estimate_note(estimate), estimate_lines(estimate)
    elif shift := seconds(delay, "--delay"):
        scan, notes = build.without_delay(scan, shift), f"A delay of {shift:g} s was taken out of the labels."
    if limit is not None:
        scan = scan.limited(limit)
    options = build.media_options(scan, chosen, part=str(scanning.get("part", "")), **making)
    try:
        report = scan.report(protocol, seed=seed)
        plan = build.make_plan(dest, scan, options, protocol=protocol, seed=seed, notes=notes)
    except DatasetError as error:
        if limit is None:
            raise
        cure = f"{error.cure} Perhaps the limit of {limit} samples is too low: choose a higher one."
        raise DatasetError(error.what, cure=cure, details=error.details) from error
    shapes = {key: list(modality.shape) for key, modality in plan.info.modalities.items()}
    lines = [
        *report.lines,
        *said,
        f"To make: {len(plan.scan.recordings)} samples of "
        + ", ".join(f"{key} {shape}" for key, shape in shapes.items())
        + (f", {plan.scan.unlabelled} of their frames without a label" if plan.scan.unlabelled else "")
        + f", with up to {plan.bytes / 1e9:.2f} GB of disk meanwhile.",
    ]
    about = {
        "set": name,
        "protocol": protocol,
        "counts": dict(report.counts),
        "findings": [vars(finding) for finding in plan.scan.findings],
        "modalities": shapes,
        "to_make": len(plan.scan.recordings),
        "unlabelled": plan.scan.unlabelled,
        "bytes": plan.bytes,
    }
    if dry_run:
        console.result(about, *lines)
        return
    for line in lines:
        console.say(line)
    try:
        with noticed() as check, console.progress("Importing ...") as meter:
            made = build.run_import(
                plan,
                lambda progress: meter.show(import_line(progress)),
                device=device,
                check=check,
                maker=_over_ray(workers, device, address) if workers > 1 or address else None,
            )
    except KeyboardInterrupt:
        raise InterruptedImportError(
            f"The import stopped; what is finished is in {_short(plan.partial)}.",
            cure="Go on with the same command.",
        ) from None
    described = describe(made.dataset)
    if made.leftover:
        console.say(f"{_short(dest)} was finished before; what was left of {_short(plan.partial)} is removed.")
    console.result(
        {**about, "dataset": described, "report": str(made.report), "made": made.counts, "failures": made.failures},
        *build.failure_lines(made.failures),
        *_lines(dict(made.counts)),
        f"What became of each sample is in {_short(made.report)}.",
        "",
        *_lines(described),
        *next_steps(f"pkdray data inspect {_short(dest)}"),
    )


def _over_ray(workers: int, device: str, address: str | None) -> Maker:
    """Samples made by actors; Ray runs only while they work."""
    from pkdray.data.importers.distributed import Pool

    pool = Pool(workers, device)

    def make(work: Work, todo: Sequence[Recording]) -> Generator[Outcome, None, None]:
        if not todo:
            return
        from pkdray.cluster import connected

        # Ray's core warns of what Ray Data's own actors do; read when it starts.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        with connected(address):
            yield from pool(work, todo)

    return make


def seconds(value: str, option: str) -> float:
    """An option's number of seconds.

    Raises:
        ConfigError: it is none, or not 0 or more.
    """
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ConfigError(f"{option} is '{value}'.", cure="Give seconds, 0 or more, or auto.")
    return number


def import_line(progress: ImportProgress) -> str:
    """An import's progress as one line.

    Example:
        >>> from types import SimpleNamespace as Some
        >>> import_line(Some(done=7, kept=2, failed=1, total=40, seconds=61.0, seconds_left=305.0))
        '7/40 samples (2 from before), 1 left out · 1:01 elapsed, about 5:05 left'
    """
    before = f" ({progress.kept} from before)" if progress.kept else ""
    failed = f", {progress.failed} left out" if progress.failed else ""
    left = f", about {duration(progress.seconds_left)} left" if progress.seconds_left else ""
    return f"{progress.done}/{progress.total} samples{before}{failed} · {duration(progress.seconds)} elapsed{left}"


def inspect(name_or_path: str, console: Console) -> None:
    """What is in a dataset."""
    from pkdray.data.dataset import open_dataset
    from pkdray.data.inspect import describe

    about = describe(open_dataset(name_or_path))
    console.result(about, *_lines(about))


def list_datasets(console: Console) -> None:
    """The bundled datasets."""
    from pkdray.data.bundled import bundled_datasets

    found = {name: str(path) for name, path in bundled_datasets().items()}
    console.table("Bundled datasets", ["name", "folder"], list(found.items()))
    if console.as_json:
        console.result(found)


def load_study(space: str, assignments: Sequence[str]) -> tuple[Dataset, Plan]:
    """A study's dataset, and the plan made of it and the YAML."""
    from pkdray.config import load_config, parse_assignments
    from pkdray.data.dataset import open_dataset
    from pkdray.shipped import find_yaml

    config = load_config(find_yaml(space), parse_assignments(assignments))
    dataset = open_dataset(config.dataset.path)
    # Torch comes in with the plan: a mistake in the YAML is told before the seconds that it takes.
    from pkdray.training.plan import make_plan

    return dataset, make_plan(config, dataset)


def profile(space: str, assignments: Sequence[str], console: Console) -> None:
    """What a study's networks cost; of the licensed sets also where the dataset is not there yet."""
    from pkdray.config import load_config, parse_assignments
    from pkdray.data.importers.extract import MODALITIES
    from pkdray.shipped import find_yaml

    config = load_config(find_yaml(space), parse_assignments(assignments))
    path = Path(config.dataset.path).expanduser()
    if path.name in MODALITIES and not path.exists():
        from pkdray.data.importers.expected import expected_info, import_options

        info = expected_info(path.name)
        taken = [*config.dataset.prevalent, *(config.dataset.privileged or info.modalities)]
        options = import_options(path.name, taken)
        first = [" ".join(["pkdray data import", path.name, "SRC", config.dataset.path, *options])]
        console.say(f"{path} is not there: the shapes are those that `pkdray data import {path.name}` makes.")
    else:
        from pkdray.data.dataset import open_dataset

        first = []
        info = open_dataset(config.dataset.path, verify=False).info
    from pkdray.profile import profile as count
    from pkdray.training.plan import plan_without_data

    # Networks are counted without their weights, so nobody has to have fetched them yet.
    plan = plan_without_data(config, info)
    found = count(plan)
    networks = [*(("teacher", one) for one in found.teachers), ("student", found.student)]
    shapes = {name: list(plan.info.modalities[name].shape) for name in [*plan.prevalent, *plan.privileged]}

    def counts(cost: Cost) -> dict[str, float]:
        return {**cost._asdict(), "macs_per_frame": cost.macs / found.frames}

    about = {
        "study": plan.config.name,
        "shapes": shapes,
        "target_frames": plan.info.target_frames,
        "networks": [
            {
                "role": role,
                "name": network.name,
                "modalities": list(network.modalities),
                **counts(network.total),
                "parts": {name: counts(part) for name, part in network.parts.items()},
            }
            for role, network in networks
        ],
        "student_share": found.share,
    }
    framed = found.frames > 1
    rows = []
    for role, network in networks:
        lines = [(role if role == "student" else f"{role} {network.name}", network.total)]
        lines += [(f"  {name}", part) for name, part in network.parts.items()]
        for name, part in lines:
            cells = [name, amount(part.parameters), amount(part.trainable), amount(part.macs)]
            rows.append([*cells, amount(part.macs / found.frames)] if framed else cells)
    console.table(
        plan.config.name,
        ["", "parameters", "trainable", "MACs a sample", *([f"MACs a frame (1/{found.frames})"] if framed else [])],
        rows,
    )
    parameters, macs = (100 * found.share[key] for key in ("parameters", "macs"))
    console.result(
        about,
        "A sample: " + ", ".join(f"{name} {shape}" for name, shape in shapes.items()) + ".",
        f"The student has {parameters:.1f} % of the parameters and {macs:.1f} % of the MACs of the teacher "
        f"{found.teachers[0].name}.",
        *next_steps(*first, f"pkdray sweep {space}"),
    )


def amount(number: float) -> str:
    """A count in thousands (k), millions (M) or billions (G), to three digits or more.

    Example:
        >>> amount(1536), amount(39_700_000), amount(10.2e9), amount(128), amount(999_999), amount(0)
        ('1.54 k', '39.7 M', '10.2 G', '128', '1,000 k', '0')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            value = number / size
            digits = max(0, 3 - len(str(int(value))))
            return f"{value:,.{digits}f} {unit}"
    return f"{number:,.0f}"


def teach(
    space: str, runs_dir: Path, assignments: Sequence[str], console: Console, *, address: str | None, verbose: bool
) -> None:
    """Train a study's teacher pool.

    Raises:
        InterruptedWorkError: Ctrl-C stopped it; says how to go on.
    """
    dataset, plan = load_study(space, assignments)
    from pkdray.cluster import connected

    try:
        with noticed() as check, connected(address, verbose=verbose):
            check_room(plan, runs_dir, address, trials=False)
            pool = taught(plan, dataset, runs_dir, console)
            check()
    except KeyboardInterrupt as error:
        raise InterruptedWorkError(
            "Interrupted; teachers that are trained are kept, one in training at its last checkpoint.",
            cure="Go on with the same command.",
        ) from error
    _show_pool(pool, console)


def embed(space: str, runs_dir: Path, assignments: Sequence[str], console: Console) -> None:
    """Write the embeddings of trained teachers again."""
    dataset, plan = load_study(space, assignments)
    from pkdray.search.run import POOLS
    from pkdray.training.embed import embed_pool
    from pkdray.training.pools import Pool

    pool = Pool.at(runs_dir / POOLS, plan)
    metrics = {name: about["validation"] for name, about in pool.read()["teachers"].items()}
    embed_pool(plan, dataset, pool)
    pool.write(plan, metrics)
    _show_pool(pool, console)


def sweep(
    space: str,
    runs_dir: Path,
    assignments: Sequence[str],
    console: Console,
    *,
    name: str | None,
    trials: int | None,
    address: str | None,
    verbose: bool,
) -> Run:
    """Teachers, where they are missing, then a new run."""
    extra = [f"search.trials={trials}"] if trials is not None else []
    dataset, plan = load_study(space, [*assignments, *extra])
    from pkdray.cluster import connected
    from pkdray.search.run import Run, new_run_path

    path = runs_dir / name if name else new_run_path(runs_dir, plan.config.name)
    if not name and path.name != plan.config.name:
        console.say(
            f"A run {plan.config.name} exists; this one is {path.name}. To continue that one: "
            f"pkdray resume {_short(runs_dir / plan.config.name)}"
        )
    Run.check_free(path, plan)
    with connected(address, verbose=verbose):
        check_room(plan, runs_dir, address)
        run = Run.create(path, plan)
        with run.lock(), _resumable(run) as check:
            pool = taught(plan, dataset, runs_dir, console)
            check()
            swept(run, plan, dataset, pool, console)
    show(str(run.path), runs_dir, console)
    return run


def resume(
    name: str,
    runs_dir: Path,
    console: Console,
    *,
    trials: int | None,
    retry_failed: bool,
    address: str | None,
    verbose: bool,
) -> None:
    """Run what a run's ledger lacks."""
    from pkdray.cluster import connected
    from pkdray.search.run import find_run

    run = find_run(name, runs_dir)
    with run.lock():
        dataset = run.dataset()
        plan = run.plan(dataset)
        ledger = run.ledger()
        if trials is not None:
            ledger.extend(trials)
        retried = ledger.retry_failed() if retry_failed else 0
        ledger.release()
        counts = ledger.counts()
        retries = f", {retried} failed trials retried" if retried else ""
        console.say(
            f"{run.name}: {counts.finished} of {counts.planned} trials are finished, {counts.open} to go{retries}."
        )
        if counts.open:
            with _resumable(run) as check, connected(address, verbose=verbose):
                check_room(plan, run.runs_dir, address)
                pool = taught(plan, dataset, run.runs_dir, console)
                check()
                swept(run, plan, dataset, pool, console)
        else:
            from pkdray.search.results import write_results

            write_results(run, plan, dataset, ledger)
    show(str(run.path), runs_dir, console)


@contextmanager
def _resumable(run: Run) -> Iterator[Callable[[], None]]:
    """Say how to go on where Ctrl-C came outside of the trials: while Ray started, or teachers were trained.

    Yields the check of `interrupts.noticed`.
    """
    try:
        with noticed() as check:
            yield check
    except KeyboardInterrupt as error:
        raise InterruptedSweepError(
            f"Interrupted; {run.name} keeps what is finished.",
            cure=f"Continue it with: pkdray resume {_short(run.path)}",
        ) from error


def check_room(plan: Plan, runs_dir: Path, address: str | None, *, trials: bool = True) -> None:
    """Refuse what a local Ray has no room for, and would wait for without end; a cluster may grow.

    Needs a connected Ray.

    Raises:
        ConfigError: a teacher that is still to be trained, or a trial, takes more CPUs or GPUs than there are.
    """
    import ray

    from pkdray.search.run import POOLS
    from pkdray.training.pools import Pool

    if address or os.environ.get("RAY_ADDRESS"):
        return
    has, resources = ray.cluster_resources(), plan.config.resources
    asked: list[tuple[str, str, int, float]] = []
    if not Pool.at(runs_dir / POOLS, plan).finished:
        workers = resources.workers_per_teacher
        asked.append(("workers_per_teacher", "CPU", workers, 1.0))
        asked.append(("gpus_per_teacher_worker", "GPU", workers, resources.gpus_per_teacher_worker))
    if trials:
        workers = resources.workers_per_trial
        asked.append(("cpus_per_trial", "CPU", workers, resources.cpus_per_trial))
        asked.append(("gpus_per_trial", "GPU", workers, resources.gpus_per_trial))
    faults = [
        f"resources.{field}: {workers} worker{'' if workers == 1 else 's'} with {each:g} {kind} each, but there "
        f"{'is' if has.get(kind, 0) == 1 else 'are'} {has.get(kind, 0):g}"
        for field, kind, workers, each in asked
        if workers * each > has.get(kind, 0)
    ]
    if faults:
        raise ConfigError(
            f"{plan.config.name} asks for more than this machine has:",
            details=faults,
            cure="Ask for less, as with --set resources.cpus_per_trial=1 --set resources.gpus_per_trial=0, or name a "
            "cluster with --address.",
        )


def taught(plan: Plan, dataset: Dataset, runs_dir: Path, console: Console) -> Pool:
    """The plan's finished pool, trained now if need be."""
    from pkdray.search.run import POOLS
    from pkdray.training.pools import Pool
    from pkdray.training.workers import teach as train

    pool = Pool.at(runs_dir / POOLS, plan)
    if pool.finished:
        console.say(f"Teachers: the pool {pool.path.name} is reused.")
        pool.verify(plan)
        return pool
    names = [member.name for member in plan.pool.values() if member.adapter_of is None]
    with console.progress(f"Teachers: training {', '.join(names)} ...") as meter:
        done: list[str] = []

        def trained(name: str, metrics: dict[str, float]) -> None:
            done.append(f"{name} {metrics[plan.metric.name]:.4f}")
            meter.show(f"Teachers: {', '.join(done)} ({len(done)} of {len(names)} trained)")

        pool = train(plan, dataset, runs_dir / POOLS, trained)
    console.say(f"Teachers: {', '.join(done)} ({plan.metric.name} on validation).")
    return pool


def swept(run: Run, plan: Plan, dataset: Dataset, pool: Pool, console: Console) -> Progress:
    """Run the trials, showing where they stand.

    Raises:
        InterruptedSweepError: Ctrl-C stopped it; says how to go on.
    """
    from pkdray.search.sweep import sweep as run_sweep

    with console.progress(f"Sweep {run.name}: starting ...") as meter:
        progress = run_sweep(run, plan, dataset, pool, meter.sweep)
    console.say(f"Sweep {run.name}: {progress_line(progress)}")
    if progress.counts.open:
        raise InterruptedSweepError(
            f"The sweep stopped with {progress.counts.open} of {progress.counts.planned} trials to go; "
            "nothing is lost.",
            cure=f"Continue it with: pkdray resume {_short(run.path)}",
        )
    return progress


def evaluate(
    name: str, runs_dir: Path, console: Console, *, seeds: int, reopen: bool, address: str | None, verbose: bool
) -> None:
    """Open the test split."""
    from pkdray.cluster import connected
    from pkdray.evaluate import evaluate_run
    from pkdray.search.run import find_run

    run = find_run(name, runs_dir)
    dataset = run.dataset()
    plan = run.plan(dataset)
    with run.lock(), connected(address, verbose=verbose):
        check_room(plan, run.runs_dir, address)
        pool = taught(plan, dataset, run.runs_dir, console)
        with console.progress(f"Evaluating {run.name}: {seeds} seeds of the student and of its lower bound ..."):
            evaluation = evaluate_run(run, plan, dataset, pool, seeds=seeds, reopen=reopen)
    show_evaluation(evaluation, console)
    console.result(evaluation, *next_steps(f"pkdray export {_short(run.path)} -o student"))


def show_evaluation(evaluation: Mapping[str, Any], console: Console) -> None:
    """The table of the student between its bounds, and what it means in words."""
    metric = evaluation["metric"]
    labels = {"lower_bound": "lower bound", "student": "student", "teacher": "upper bound"}
    console.table(
        f"Test {metric}, {len(evaluation['seeds'])} seeds",
        ["", "what", "mean", "std", "95 % interval"],
        [
            [
                labels[key],
                about["what"],
                about["mean"],
                about["std"],
                " to ".join(f"{end:.4f}" for end in about["interval"]) if about["interval"] else "-",
            ]
            for key, about in evaluation["methods"].items()
        ],
    )
    if not console.as_json:
        console.result(None, verdict(evaluation))


def verdict(evaluation: Mapping[str, Any]) -> str:
    """The comparison in plain words."""
    comparison, seeds = evaluation["comparison"], len(evaluation["seeds"])
    gain = f"{comparison['difference']:+.4f} {evaluation['metric']} over the lower bound"
    if comparison["p_value"] is None:
        return f"Not enough evidence: {gain}, from {seeds} seed{'s' * (seeds != 1)}; more seeds are needed for a test."
    sure = (
        f"{gain} (95 % {comparison['interval'][0]:+.4f} to {comparison['interval'][1]:+.4f}, {comparison['test']} "
        f"over {seeds} seeds, p = {comparison['p_value']:.2g})"
    )
    words = {"helped": "Distillation helped", "hurt": "Distillation hurt", "not enough evidence": "Not enough evidence"}
    opened = evaluation["test_opened"]["times"]
    again = f" The test split has been opened {opened} times." if opened > 1 else ""
    return f"{words[comparison['verdict']]}: {sure}.{again}"


def export(name: str, runs_dir: Path, output: Path, console: Console, *, overwrite: bool) -> None:
    """The best student as one folder."""
    from pkdray.export import export_student
    from pkdray.export.card import recording_inputs
    from pkdray.search.run import find_run
    from pkdray.training.bundles import read_bundle

    run = find_run(name, runs_dir)
    with console.progress(f"Exporting the best student of {run.name} ..."):
        folder = export_student(run, output, overwrite=overwrite)
    files = sorted(path.name for path in folder.iterdir())
    info, pipeline, _ = read_bundle(folder)
    recording = recording_inputs(info, pipeline.recordings)
    asked = f"{recording} -o answers.csv --plot answers.png" if recording else "INPUT.csv -o answers.csv"
    console.result(
        {"student": str(folder), "files": files},
        f"The student is in {folder}: {', '.join(files)}",
        *next_steps(f"pkdray predict {folder} {asked}"),
    )


def predict(
    student: Path,
    inputs: Sequence[str],
    output: Path,
    console: Console,
    *,
    step: float | None = None,
    plot: Path | None = None,
    device: str = "cpu",
) -> None:
    """A student's answers for new samples, or for a recording."""
    from pkdray.predict import predict_file, predict_recording_file

    found = recording_of(inputs)
    if found is not None:
        recording, biosignals = found
        with console.progress(f"Reading {recording} ...") as meter:
            table = predict_recording_file(
                student,
                recording,
                output,
                biosignals=biosignals,
                step_s=step,
                plot=plot,
                device=device,
                progress=lambda done, total: meter.show(f"{done}/{total} samples of {recording} answered"),
            )
        drawn = f" The time line is drawn in {plot}." if plot is not None else ""
    else:
        if step is not None or plot is not None:
            raise ConfigError("--step and --plot are for a recording.", cure="Leave them out, or give a video.")
        tables: Any
        if len(inputs) == 1 and ("=" not in inputs[0] or Path(inputs[0]).exists()):
            tables = Path(inputs[0])
        else:
            tables = {key: Path(value) for key, value in named(inputs, "INPUT").items()}
        table, drawn = predict_file(student, tables, output), ""
    console.result(
        {"output": str(output), "samples": len(table), **({"plot": str(plot)} if plot is not None else {})},
        f"{len(table)} answers are in {output}.{drawn}",
        *_head(table),
    )


def recording_of(inputs: Sequence[str]) -> tuple[Path, Path | None] | None:
    """The recording among the inputs and its biosignals; None where they are tables of features.

    Raises:
        ConfigError: several recordings, or a recording beside something that is not its biosignals.

    Example:
        >>> recording_of(["talk.mp4", "biosignals=talk.csv"])
        (PosixPath('talk.mp4'), PosixPath('talk.csv'))
        >>> recording_of(["faces.csv"]), recording_of(["face=face.csv", "biosignals=talk.csv"])
        (None, None)
    """
    from pkdray.predict import FEATURES

    plain = [one for one in inputs if "=" not in one or Path(one).exists()]
    signals = [one.partition("=")[2] for one in inputs if one not in plain and one.startswith("biosignals=")]
    media = [one for one in plain if Path(one).suffix.lower() not in FEATURES]
    if not media:
        return None
    if len(media) > 1:
        raise ConfigError(f"There are {len(media)} recordings: {', '.join(media)}.", cure="Give one at a time.")
    others = [one for one in inputs if one != media[0] and one not in [f"biosignals={path}" for path in signals]]
    if others or len(signals) > 1:
        stranger = others[0] if others else f"biosignals={signals[1]}"
        raise ConfigError(
            f"{stranger} cannot go with the recording {media[0]}.",
            cure="A recording may have one other input: biosignals=SIGNALS.csv.",
        )
    return Path(media[0]), Path(signals[0]) if signals else None


def list_runs(runs_dir: Path, console: Console) -> None:
    """The runs in a folder."""
    from pkdray.search.run import list_runs as find_all

    rows = []
    for run in find_all(runs_dir):
        try:
            about = _standing(run)
        except RunError:
            # One damaged ledger must not hide the other runs.
            about = {"state": "damaged", "dataset": run.about.get("dataset")}
        rows.append(
            {
                "run": run.name,
                **{key: about.get(key) for key in ("state", "dataset", "finished", "planned", "metric", "best")},
            }
        )
    if console.as_json:
        console.result(rows)
    elif rows:
        console.table(f"Runs in {runs_dir}", list(rows[0]), [list(row.values()) for row in rows])
    else:
        console.result(None, f"No runs are in {runs_dir}.", *next_steps("pkdray sweep mfeat_demo"))


def show(name: str, runs_dir: Path, console: Console, *, top: int = 5) -> None:
    """Everything worth knowing of a run."""
    from pkdray.evaluate import read_evaluation
    from pkdray.search.results import trial_overrides
    from pkdray.search.run import find_run

    run = find_run(name, runs_dir)
    ledger = run.ledger()
    about = _standing(run)
    complete = [trial for trial in ledger.trials() if trial.state.name == "COMPLETE"]
    sign = -1 if about["mode"] == "max" else 1
    ranked = sorted(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number))[:top]
    from pkdray.search.ledger import reason, summary

    about["trials"] = [
        {
            "number": trial.number,
            "value": trial.value,
            **{key: summary(trial).get(key) for key in ("method", "epoch", "epochs", "seconds", "teachers")},
            "proposed": trial_overrides(run, ledger, trial.number),
        }
        for trial in ranked
    ]
    about["failures"] = {trial.number: reason(trial) for trial in ledger.trials() if trial.state.name == "FAIL"}
    about["evaluation"] = read_evaluation(run)
    if console.as_json:
        console.result(about)
        return
    config = run.config
    console.result(
        None,
        f"Run {run.name} ({about['state']}): {about['finished']} of {about['planned']} trials finished "
        f"({about['complete']} complete, {about['pruned']} pruned, {about['failed']} failed)",
        f"  data      {about['dataset']}: {', '.join(config.dataset.prevalent)} prevalent; "
        f"{', '.join(config.dataset.privileged or [])} privileged",
        f"  teachers  {', '.join(teacher.name for teacher in config.teachers.pool)}"
        + (" and one adapter a modality" if config.teachers.adapters.enabled else ""),
        f"  search    {config.search.sampler} over {', '.join(config.search.space) or 'nothing'}",
        f"  folder    {_short(run.path)}: run.yaml (config), study.db (ledger), trials.parquet, trials/, best/",
    )
    console.table(
        f"Best trials by validation {about['metric']}",
        ["trial", "value", "method", "best epoch", "taught by", "proposed"],
        [
            [
                trial["number"],
                trial["value"],
                trial["method"],
                f"{trial['epoch']}/{trial['epochs']}",
                _shares(trial["teachers"]),
                _proposal(trial["proposed"]),
            ]
            for trial in about["trials"]
        ],
    )
    for number, why in about["failures"].items():
        console.result(None, f"Trial {number} failed: {why}")
    if about["evaluation"]:
        console.result(None, verdict(about["evaluation"]))
    here = _short(run.path)
    if about["state"] == "interrupted":
        console.result(None, *next_steps(f"pkdray resume {here}"))
    elif about["state"] == "finished" and about["trials"]:
        steps = [] if about["evaluation"] else [f"pkdray evaluate {here}"]
        console.result(None, *next_steps(*steps, f"pkdray export {here} -o student"))


def _show_pool(pool: Pool, console: Console) -> None:
    about = pool.read()
    metrics = list(next(iter(about["teachers"].values()))["validation"])
    console.table(
        f"Teacher pool {pool.path} (validation)",
        ["teacher", "modalities", *metrics],
        [
            [
                name if teacher["adapter_of"] is None else f"{name} (adapter of {teacher['adapter_of']})",
                ", ".join(teacher["modalities"]),
                *(teacher["validation"][metric] for metric in metrics),
            ]
            for name, teacher in about["teachers"].items()
        ],
    )
    if console.as_json:
        console.result({"pool": str(pool.path), **about})


def _standing(run: Run) -> dict[str, Any]:
    """How a run stands, as plain data."""
    ledger = run.ledger()
    counts, best = ledger.counts(), ledger.best()
    finished = counts.finished >= counts.planned
    state = "running" if run.is_active() else "finished" if finished else "interrupted"
    metric = run.config.search.metric or ""
    from pkdray.training.metrics import METRICS

    return {
        "run": run.name,
        "path": str(run.path),
        "state": state,
        "dataset": run.about["dataset"],
        "dataset_fingerprint": run.about["dataset_fingerprint"],
        "pool_fingerprint": run.about["pool"],
        "created": run.about["created"],
        "planned": counts.planned,
        "finished": counts.finished,
        "complete": counts.complete,
        "pruned": counts.pruned,
        "failed": counts.failed,
        "metric": metric,
        "mode": METRICS[metric].mode,
        "best": best.value if best else None,
        "best_trial": best.number if best else None,
    }


def named(values: Sequence[str], option: str) -> dict[str, str]:
    """``NAME=VALUE`` arguments as a dict.

    Raises:
        ConfigError: one is of another form, or a name comes twice.
    """
    result: dict[str, str] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not equals or not name or not rest:
            raise ConfigError(
                f"{option} {value!r} is not of the form NAME=PATH.", cure="Write for example face=face.csv."
            )
        if name in result:
            raise ConfigError(f"{option} names '{name}' twice.", cure="Give each modality once.")
        result[name] = rest
    return result


def next_steps(*commands: str) -> list[str]:
    """The commands to type next, as lines."""
    return ["", "Next:", *(f"  {command}" for command in commands)]


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _shares(shares: Mapping[str, float] | None) -> str:
    return (
        ", ".join(f"{name} {share:.0%}" for name, share in (shares or {}).items() if share >= 0.005) or "labels alone"
    )


def _proposal(values: Mapping[str, Any]) -> str:
    def short(value: Any) -> str:
        return (
            f"{value:.3g}" if isinstance(value, float) else "+".join(value) if isinstance(value, list) else str(value)
        )

    return ", ".join(
        f"{path.removeprefix('method.').removeprefix('training.')}={short(value)}"
        for path, value in values.items()
        if path != "method.name"
    )


def _head(table: Any) -> list[str]:
    return ["", *str(table.head(5).to_string(index=False)).splitlines()] if len(table) else []


def _lines(value: Any, indent: str = "") -> list[str]:
    """Nested plain data as indented lines."""
    lines = []
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            lines += [f"{indent}{key}:", *_lines(inner, indent + "  ")]
        elif inner not in (None, "", [], {}):
            text = ", ".join(map(str, inner)) if isinstance(inner, list | tuple) else inner
            lines.append(f"{indent}{key}: {text}")
    return lines
