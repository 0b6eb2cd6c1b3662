"""The command line: one command a step. Each imports its step when it runs, so that ``--help`` is instant."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from pkdray.console import Console
from pkdray.errors import INTERRUPTED
from pkdray.mirrors import open_root

app = typer.Typer(
    name="pkdray",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find the best student that can be distilled from teachers who saw more than it ever will.",
    epilog="A first try: pkdray demo. Every command takes --json; --debug anywhere shows tracebacks.",
)
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Import, inspect and list datasets.")
import_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Turn recordings or tables into a dataset.")
jobs_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Jobs on a cluster: see, follow, stop them.")
app.add_typer(data_app, name="data")
app.add_typer(jobs_app, name="jobs")
data_app.add_typer(import_app, name="import")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of Ray and of the workers.")]
RunsDir = Annotated[
    Path,
    typer.Option(
        parser=open_root,
        metavar="FOLDER|URI",
        help="The folder that holds runs and their teacher pools: a path, or s3://, gs:// or file://.",
    ),
]
Address = Annotated[str | None, typer.Option(help="A running Ray cluster; default: RAY_ADDRESS, else a local Ray.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Replace a field of the YAML; may be repeated.")
]
Space = Annotated[str, typer.Argument(metavar="SPACE", help="A YAML file, or the name of a ready one.")]
Dashboard = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="The cluster's dashboard; default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, else http://127.0.0.1:8265.",
    ),
]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or a job's name for the newest of it.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name below --runs-dir, or its path or URI.")]

Recordings = Annotated[Path, typer.Argument(metavar="SRC", help="The folder that the set was unpacked to.")]
Dest = Annotated[Path, typer.Argument(metavar="DEST", help="The folder to make.")]
Parts = Annotated[
    str | None,
    typer.Option("--protocol", help="How subjects are dealt to splits: train/dev, the only one (dev is test)."),
]
Every = Annotated[int, typer.Option(min=1, help="Look for faces in every so many frames, and interpolate between.")]
MinFace = Annotated[int, typer.Option("--min-face", min=12, help="Pixels of the smallest face to look for.")]
Size = Annotated[int, typer.Option(min=1, help="Pixels of a face's picture, which is square.")]
Gaps = Annotated[
    str,
    typer.Option(
        help="retain: frames without a face repeat the neighbour's, and a sample without any is left out. black: they "
        "are black."
    ),
]
Signals = Annotated[
    str | None, typer.Option(help="filtered or raw biosignals; default: the filtered ones where there are any.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="A trial with so many samples.")]
ImportSeed = Annotated[int, typer.Option("--seed", help="Of what the protocol leaves to chance.")]
ImportWorkers = Annotated[
    int, typer.Option("--workers", min=1, help="Processes on Ray that make samples; 1 works without Ray.")
]
ImportAddress = Annotated[
    str | None,
    typer.Option(
        "--address", help="A Ray cluster all of whose nodes see SRC and DEST; default: RAY_ADDRESS, or local."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Stop after the report of what was found.")]
Device = Annotated[str, typer.Option(help="Where faces are looked for: cpu or cuda.")]

DEFAULT_RUNS = Path("runs")


def _version(value: bool) -> None:
    if value:
        from pkdray import __version__

        Console().result(None, f"pkdray {__version__}")
        raise typer.Exit


@app.callback()
def root(
    _version_flag: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where to put everything that the demo makes.")] = Path("demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Trainings a method at the evaluation.")] = 10,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """The whole way on bundled real data: teach, sweep, evaluate, export, predict. About three minutes on two cores."""
    from pkdray import demo as step

    step.run_demo(folder, Console(as_json=json), seeds=seeds, verbose=verbose)


@import_app.command("features")
def import_features(
    dest: Annotated[Path, typer.Argument(help="The folder to make.")],
    name: Annotated[str, typer.Option(help="The dataset's name.")],
    task: Annotated[str, typer.Option(help="classification or regression.")],
    labels: Annotated[
        Path,
        typer.Option(help="A table: sample_id, target (or target_<name>), and if you have them subject_id, split ..."),
    ],
    modality: Annotated[
        list[str], typer.Option(metavar="NAME=TABLE", help="A modality's table: sample_id, numbers. Repeat it.")
    ],
    folds: Annotated[int | None, typer.Option(min=2, help="Also make this many folds by subject.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split by subject, where the labels name no split.")] = 0,
    licence: Annotated[str, typer.Option(help="What one may do with the data.")] = "",
    source: Annotated[str, typer.Option(help="Where the data come from.")] = "",
    notes: Annotated[str, typer.Option(help="What a user of the data must know.")] = "",
    json: Json = False,
) -> None:
    """One table a modality (CSV, Parquet or npz) and a table of labels become a dataset."""
    from pkdray import steps

    steps.import_features(
        dest,
        Console(as_json=json),
        modality=modality,
        name=name,
        task=task,
        labels=labels,
        folds=folds,
        seed=seed,
        licence=licence,
        source=source,
        notes=notes,
    )


@import_app.command("biovid")
def import_biovid(
    src: Recordings,
    dest: Dest,
    part: Annotated[str, typer.Option(help="A, B or C; in A two EMG channels are dead.")] = "A",
    protocol: Annotated[
        str | None,
        typer.Option(help="How subjects are dealt to splits and folds: loso (default), loso67, 61-26 or 5-fold."),
    ] = None,
    classes: Annotated[str, typer.Option(help="BL1-PA4 (no pain, most pain) or five.")] = "BL1-PA4",
    modality: Annotated[
        list[str] | None,
        typer.Option(help="Only this one: face, emg, ecg or gsr; may be repeated; default: all of them."),
    ] = None,
    signals: Signals = None,
    biosignals: Annotated[str, typer.Option(help="spectrogram or waveform.")] = "spectrogram",
    emg: Annotated[
        str | None,
        typer.Option(help="emg_corrugator (default, but in A), emg_trapezius (default in A) or emg_zygomaticus."),
    ] = None,
    size: Size = 112,
    every: Every = 1,
    min_face: MinFace = 40,
    gaps: Gaps = "retain",
    limit: Limit = None,
    seed: ImportSeed = 0,
    dry_run: DryRun = False,
    device: Device = "cpu",
    workers: ImportWorkers = 1,
    address: ImportAddress = None,
    json: Json = False,
) -> None:
    """BioVid Heat Pain: faces, EMG, ECG and skin conductance. Stopped, it goes on where it was."""
    from pkdray import steps

    steps.import_recordings(
        "biovid",
        src,
        dest,
        Console(as_json=json),
        modalities=modality or [],
        scanning={"part": part, "classes": classes, "signals": signals},
        making={
            "biosignals": biosignals,
            "emg": emg,
            "size": size,
            "every": every,
            "min_face_size": min_face,
            "gaps": gaps,
        },
        protocol=protocol,
        seed=seed,
        limit=limit,
        dry_run=dry_run,
        device=device,
        workers=workers,
        address=address,
    )


@import_app.command("affwild2")
def import_affwild2(
    src: Recordings,
    dest: Dest,
    protocol: Parts = None,
    window: Annotated[
        int, typer.Option(min=1, help="Clips of 32 frames a sample, with a label each; 1 makes every clip a sample.")
    ] = 16,
    stride: Annotated[
        int, typer.Option(min=1, help="With --window 1: frames from one clip to the next; 1 gives each frame one.")
    ] = 32,
    modality: Annotated[
        list[str] | None, typer.Option(help="Only this one: face or voice; may be repeated; default: both.")
    ] = None,
    size: Size = 112,
    gaps: Gaps = "retain",
    limit: Limit = None,
    seed: ImportSeed = 0,
    dry_run: DryRun = False,
    workers: ImportWorkers = 1,
    address: ImportAddress = None,
    json: Json = False,
) -> None:
    """Aff-Wild2, valence and arousal: cropped faces and voices. Stopped, it goes on where it was."""
    from pkdray import steps

    steps.import_recordings(
        "affwild2",
        src,
        dest,
        Console(as_json=json),
        modalities=modality or [],
        scanning={"window": window, "stride": stride},
        making={"size": size, "gaps": gaps},
        protocol=protocol,
        seed=seed,
        limit=limit,
        dry_run=dry_run,
        device="cpu",
        workers=workers,
        address=address,
    )


@import_app.command("recola")
def import_recola(
    src: Recordings,
    dest: Dest,
    protocol: Parts = None,
    modality: Annotated[
        list[str] | None,
        typer.Option(help="Only this one: face, voice, ecg or eda; may be repeated; default: all there are."),
    ] = None,
    signals: Signals = None,
    delay: Annotated[
        str,
        typer.Option(metavar="SECONDS|auto", help="What the labels lag behind; auto estimates it on train alone."),
    ] = "0",
    voice: Annotated[
        str,
        typer.Option(help="spectrogram: one picture a second, for resnet18. frames: a row a label, for gru or mlp."),
    ] = "spectrogram",
    size: Size = 112,
    every: Every = 1,
    min_face: MinFace = 40,
    gaps: Gaps = "retain",
    limit: Limit = None,
    seed: ImportSeed = 0,
    dry_run: DryRun = False,
    device: Device = "cpu",
    workers: ImportWorkers = 1,
    address: ImportAddress = None,
    json: Json = False,
) -> None:
    """RECOLA: faces, voices, ECG and EDA in clips of one second. Stopped, it goes on where it was."""
    from pkdray import steps

    steps.import_recordings(
        "recola",
        src,
        dest,
        Console(as_json=json),
        modalities=modality or [],
        scanning={"physio": signals},
        making={"voice": voice, "size": size, "every": every, "min_face_size": min_face, "gaps": gaps},
        protocol=protocol,
        seed=seed,
        limit=limit,
        dry_run=dry_run,
        device=device,
        workers=workers,
        address=address,
        delay=delay,
    )


@data_app.command("inspect")
def inspect(
    dataset: Annotated[str, typer.Argument(help="A folder, or the name of a bundled dataset.")], json: Json = False
) -> None:
    """What is in a dataset."""
    from pkdray import steps

    steps.inspect(dataset, Console(as_json=json))


@data_app.command("list")
def list_datasets(json: Json = False) -> None:
    """The bundled datasets."""
    from pkdray import steps

    steps.list_datasets(Console(as_json=json))


@app.command()
def profile(space: Space, assignments: Assignments = None, json: Json = False) -> None:
    """What a study's teachers and student cost: parameters and multiply-accumulates. Trains nothing, needs no data."""
    from pkdray import steps

    steps.profile(space, assignments or [], Console(as_json=json))


@app.command()
def teach(
    space: Space,
    runs_dir: RunsDir = DEFAULT_RUNS,
    assignments: Assignments = None,
    address: Address = None,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Train the teacher pool that a study needs, and write its embeddings; a finished pool is reused."""
    from pkdray import steps

    steps.teach(space, runs_dir, assignments or [], Console(as_json=json), address=address, verbose=verbose)


@app.command()
def embed(space: Space, runs_dir: RunsDir = DEFAULT_RUNS, assignments: Assignments = None, json: Json = False) -> None:
    """Write the embeddings of a study's trained teachers again."""
    from pkdray import steps

    steps.embed(space, runs_dir, assignments or [], Console(as_json=json))


@app.command()
def sweep(
    space: Space,
    name: Annotated[str | None, typer.Option(help="The run's name; default: the YAML's.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="How many trials, in place of search.trials.")] = None,
    runs_dir: RunsDir = DEFAULT_RUNS,
    assignments: Assignments = None,
    address: Address = None,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """From a dataset to its best student: teachers are trained first where their pool does not exist yet."""
    from pkdray import steps

    steps.sweep(
        space,
        runs_dir,
        assignments or [],
        Console(as_json=json),
        name=name,
        trials=trials,
        address=address,
        verbose=verbose,
    )


@app.command()
def resume(
    run: RunName,
    trials: Annotated[int | None, typer.Option(min=1, help="A new total, to extend the sweep.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials once more.")] = False,
    runs_dir: RunsDir = DEFAULT_RUNS,
    address: Address = None,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Continue a sweep after Ctrl-C, a kill or a reboot: finished trials are kept, unfinished ones go on."""
    from pkdray import steps

    steps.resume(
        run, runs_dir, Console(as_json=json), trials=trials, retry_failed=retry_failed, address=address, verbose=verbose
    )


@app.command()
def watch(
    run: RunName,
    once: Annotated[bool, typer.Option("--once", help="Show where it stands now, and leave.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="From one look to the next.")] = 1.0,
    runs_dir: RunsDir = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """Follow a sweep from another terminal, or another machine that sees its folder; ends when the sweep does."""
    from pkdray import steps

    try:
        steps.watch(run, runs_dir, Console(as_json=json), once=once, interval=interval)
    except KeyboardInterrupt:
        # The watcher has seen enough; nothing was interrupted that wants words.
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def dashboard(
    run: RunName,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8080,
    host: Annotated[str, typer.Option(help="127.0.0.1: this machine alone may look; 0.0.0.0: all.")] = "127.0.0.1",
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Or only write TensorBoard's files.")] = True,
    runs_dir: RunsDir = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """optuna-dashboard on a run's study, read-only, and TensorBoard's files of its trials. Ctrl-C ends it."""
    from pkdray import steps

    with contextlib.suppress(KeyboardInterrupt):
        steps.dashboard(run, runs_dir, Console(as_json=json), host=host, port=port, serve=serve)


@app.command()
def evaluate(
    run: RunName,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings a method and fold.")] = 10,
    folds: Annotated[
        str | None,
        typer.Option(
            metavar="all|0,1,...", help="Default: all folds where the run was searched on one, else the split column."
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, help="Retrain so many of the best trials of each; validation chooses.")
    ] = 1,
    against: Annotated[
        list[str] | None, typer.Option(metavar="METHOD,...", help="Other methods to compare with, as pkd,kl.")
    ] = None,
    reopen: Annotated[bool, typer.Option("--reopen", help="Open the test split once more; it is recorded.")] = False,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Though trials are still to be run.")] = False,
    runs_dir: RunsDir = DEFAULT_RUNS,
    address: Address = None,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Open the test split: the best student over seeds and folds, beside its bounds and other methods."""
    from pkdray import steps

    steps.evaluate(
        run,
        runs_dir,
        Console(as_json=json),
        seeds=seeds,
        folds=folds,
        top=top,
        against=against or [],
        reopen=reopen,
        unfinished=unfinished,
        address=address,
        verbose=verbose,
    )


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs by name below --runs-dir, or by path.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the table: .csv, .md or .html.")
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """Several runs in one table; students with the same seeds, folds and dataset are tested against the first run's."""
    from pkdray import steps

    steps.compare(names, runs_dir, Console(as_json=json), output=output)


@app.command()
def report(
    run: RunName,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; default: report.html in the run.")
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    runs_dir: RunsDir = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """One HTML file to look at: the answer first, then figures and tables; offline, and also of a run not done yet."""
    from pkdray import steps

    steps.report(run, runs_dir, output, Console(as_json=json), open_it=open_it)


@app.command()
def export(
    run: RunName,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", parser=open_root, metavar="FOLDER|URI", help="The folder to make."),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export there.")] = False,
    runs_dir: RunsDir = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """The best student as one folder: weights, config, preprocessing, metrics, model card, ONNX and torch.export."""
    from pkdray import steps

    steps.export(run, runs_dir, output, Console(as_json=json), overwrite=overwrite)


@app.command()
def predict(
    student: Annotated[
        Path,
        typer.Argument(
            parser=open_root, metavar="STUDENT", help="A folder made by `pkdray export`, or the URI of one."
        ),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="A recording, such as video.mp4, with biosignals=TABLE if the student needs them; or a table of "
            "features, NAME=TABLE for several modalities.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the answers go: .parquet or .csv.")],
    step: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="From one sample of a recording to the next.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw a recording's time line: .png, .svg or .pdf.")] = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """A student's answers for new samples, or for a recording as a time line. Needs no run, no dataset and no Ray."""
    from pkdray import steps

    steps.predict(student, inputs, output, Console(as_json=json), step=step, plot=plot, device=device)


@app.command()
def fetch(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A folder on storage: s3://, gs:// or file://.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")],
    json: Json = False,
) -> None:
    """Bring a folder from storage, such as an exported student, to this machine."""
    from pkdray import steps

    steps.fetch(uri, output, Console(as_json=json))


@app.command("runs")
def list_runs(runs_dir: RunsDir = DEFAULT_RUNS, json: Json = False) -> None:
    """The runs in a folder."""
    from pkdray import steps

    steps.list_runs(runs_dir, Console(as_json=json))


@app.command()
def show(
    run: RunName,
    top: Annotated[int, typer.Option(min=1, help="How many of the best trials to list.")] = 5,
    runs_dir: RunsDir = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """A run's configuration, progress, best trials, teacher selection, and where its files are."""
    from pkdray import steps

    steps.show(run, runs_dir, Console(as_json=json), top=top)


@app.command()
def doctor(
    space: Annotated[
        str | None, typer.Argument(metavar="SPACE", help="A study whose arrays the object store has to hold.")
    ] = None,
    runs_dir: Annotated[
        str | None, typer.Option(metavar="DIR|URI", help="Try this storage: reach it, write, read, measure.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="A Ray cluster (HOST:6379, or auto), or its dashboard (http://127.0.0.1:8265, as through a tunnel); "
            "default: RAY_ADDRESS, else this machine alone."
        ),
    ] = None,
    holds: Annotated[
        int | None, typer.Option(min=0, metavar="BYTES", help="What the object store has to hold, instead of SPACE.")
    ] = None,
    json: Json = False,
) -> None:
    """Is this machine, or every node of a cluster, ready? ok, warn or fail, with the cure; exit code 1 if one fails."""
    from pkdray import steps

    if not steps.doctor(Console(as_json=json), address=address, runs_dir=runs_dir, space=space, holds=holds):
        raise typer.Exit(1)


@app.command()
def pipeline(
    space: Space,
    name: Annotated[str, typer.Option(help="The run's name; the same name continues it.")],
    trials: Annotated[int | None, typer.Option(min=1, help="How many trials, in place of search.trials.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings a method and fold at the evaluation.")] = 10,
    folds: Annotated[
        str | None, typer.Option(metavar="all|0,1,...", help="Of the evaluation, as in pkdray evaluate.")
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, help="Retrain so many of the best trials of each; validation chooses.")
    ] = 1,
    against: Annotated[
        list[str] | None, typer.Option(metavar="METHOD,...", help="Other methods to compare with, as pkd,kl.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", parser=open_root, help="The student's folder; default: student in the run."),
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS,
    assignments: Assignments = None,
    address: Address = None,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Teach, sweep, evaluate, report, export: what is done is kept, and the same command goes on after any end."""
    from pkdray import steps

    steps.pipeline(
        space,
        runs_dir,
        assignments or [],
        Console(as_json=json),
        name=name,
        trials=trials,
        seeds=seeds,
        folds=folds,
        top=top,
        against=against or [],
        output=output,
        address=address,
        verbose=verbose,
    )


@app.command()
def submit(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job's YAML, or the name of a ready one.")],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Replace a field of the job's YAML; may be repeated."),
    ] = None,
    address: Dashboard = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow its log to the end, whose status is the exit code's.")
    ] = True,
    json: Json = False,
) -> None:
    """Run a step, or the whole pipeline, on a Ray cluster. Exit code 1: the job failed; 2: it was not submitted."""
    from pkdray import steps

    if not steps.submit(job, assignments or [], Console(as_json=json), address=address, wait=wait):
        raise typer.Exit(1)


@jobs_app.command("list")
def list_jobs(address: Dashboard = None, json: Json = False) -> None:
    """The jobs of a cluster, newest first."""
    from pkdray import steps

    steps.list_jobs(Console(as_json=json), address=address)


@jobs_app.command("logs")
def job_logs(
    job: JobName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends; exit code 1: it failed.")
    ] = False,
    address: Dashboard = None,
    json: Json = False,
) -> None:
    """What a job has printed."""
    from pkdray import steps

    if not steps.job_logs(job, Console(as_json=json), address=address, follow=follow):
        raise typer.Exit(1)


@jobs_app.command("status")
def job_status(job: JobName, address: Dashboard = None, json: Json = False) -> None:
    """How a job stands, why it ended, and what to type next."""
    from pkdray import steps

    steps.job_status(job, Console(as_json=json), address=address)


@jobs_app.command("stop")
def stop_job(job: JobName, address: Dashboard = None, json: Json = False) -> None:
    """Stop a job as Ctrl-C would: what is finished is kept, and it may be submitted again."""
    from pkdray import steps

    steps.stop_job(job, Console(as_json=json), address=address)
