"""A study before it is searched: its plan, what its networks cost, its teachers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pkdray import mirrors
from pkdray.console import Console, teaching_line
from pkdray.errors import (
    ConfigError,
    InterruptedWorkError,
)
from pkdray.interrupts import noticed
from pkdray.steps.wording import next_steps, short_path

if TYPE_CHECKING:
    from pkdray.data.dataset import Dataset
    from pkdray.models.cost import Cost
    from pkdray.resources import Footprint
    from pkdray.training.plan import Plan
    from pkdray.training.pools import Pool


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
    path = mirrors.open_root(config.dataset.path).expanduser()
    if path.name in MODALITIES and not mirrors.exists(path):
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
            plan = placed(plan, dataset, runs_dir, address, console, trials=False)
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
    with console.progress("Embeddings ...") as meter:

        def waiting(holder: str) -> None:
            meter.show(f"Waiting for {holder}, which has this pool in hand.")

        with pool.trained_alone(waiting) as check:
            meter.show("Embeddings ...")
            embed_pool(plan, dataset, pool)
            check()
            pool.write(plan, metrics)
    _show_pool(pool, console)


def placed(
    plan: Plan, dataset: Dataset, runs_dir: Path, address: str | None, console: Console, *, trials: bool = True
) -> Plan:
    """The plan on the cluster that is connected: with a number for every ``auto``, said if there are GPUs.

    Raises:
        ConfigError: a local Ray never has room for it, see `check_room`.
    """
    from pkdray.resources import cluster_nodes, resolve, wording

    nodes = cluster_nodes()
    if any(node.gpus for node in nodes):
        plan = replace(plan, resources=resolve(plan.config.resources, nodes, _footprint(plan, len(dataset))))
        if trials:
            console.say(f"Resources: {wording(plan.resources)}.")
    check_room(plan, runs_dir, address, trials=trials)
    return plan


def _footprint(plan: Plan, samples: int) -> Footprint:
    """What the student as configured needs of a GPU: inputs and privileged features, and what each teacher says."""
    from pkdray.profile import student_cost
    from pkdray.resources import Footprint

    kinds = {name: plan.info.modalities[name].kind for name in (*plan.prevalent, *plan.taught)}
    held = [name for name in kinds if kinds[name] != "images"]
    inputs = sum(math.prod(plan.info.modalities[name].shape) for name in held)
    said = len(plan.pool) * (plan.info.target_frames or 1) * (plan.config.teachers.embedding + plan.task.outputs + 2)
    return Footprint(
        parameters=student_cost(plan, plan.config).total.parameters,
        nbytes=4 * samples * (inputs + said),
        images=any(kinds[name] == "images" for name in plan.prevalent),
        any_images=len(held) < len(kinds),
    )


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
    has, resources = ray.cluster_resources(), plan.resources
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


OnTeachers = Callable[[Mapping[str, float], Sequence[str]], None]
"""Called with the trained teachers and their metric, and with the names of those in training."""


def taught(
    plan: Plan, dataset: Dataset, runs_dir: Path, console: Console, on_teachers: OnTeachers | None = None
) -> Pool:
    """The plan's finished pool, trained now if need be."""
    with console.progress("Teachers ...") as meter:
        pool, said = finished_pool(plan, dataset, runs_dir, meter.show, on_teachers)
    console.say(said)
    return pool


def finished_pool(
    plan: Plan,
    dataset: Dataset,
    runs_dir: Path,
    show: Callable[[str], object],
    on_teachers: OnTeachers | None = None,
) -> tuple[Pool, str]:
    """The plan's finished pool, trained now if need be, and a line about it."""
    from pkdray.search.run import POOLS
    from pkdray.training.pools import Pool
    from pkdray.training.workers import teach as train

    fold = f" of fold {plan.config.dataset.fold}" if plan.config.dataset.fold is not None else ""
    pool = Pool.at(runs_dir / POOLS, plan)
    if pool.finished:
        pool.verify(plan)
        return pool, f"Teachers{fold}: the pool {pool.path.name} is reused."
    names = [member.name for member in plan.pool.values() if member.adapter_of is None]
    values: dict[str, float] = {}

    def tell() -> None:
        training = [name for name in names if name not in values]
        if on_teachers:
            on_teachers(values, training)
        line = teaching_line({"teachers": {"trained": values, "training": training}})
        counted = f" ({len(values)} of {len(names)} trained)" if values else ""
        show(f"{line}{fold}{counted}")

    def trained(name: str, metrics: dict[str, float]) -> None:
        values[name] = metrics[plan.metric.name]
        tell()

    def waiting(holder: str | None) -> None:
        if holder is None:
            tell()
            return
        if on_teachers:
            on_teachers({}, [])
        show(f"Teachers{fold}: waiting for {holder}, which has this pool in hand")

    pool = train(plan, dataset, runs_dir / POOLS, trained, waiting)
    if not values:
        return pool, f"Teachers{fold}: the pool {pool.path.name}, which another process has trained meanwhile."
    done = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    return pool, f"Teachers{fold}: {done} ({plan.metric.name} on validation)."


def _show_pool(pool: Pool, console: Console) -> None:
    about = pool.read()
    metrics = list(next(iter(about["teachers"].values()))["validation"])
    console.table(
        f"Teacher pool {short_path(pool.path)} (validation)",
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
