"""deploy/slurm.sh with a Slurm and a Ray that only write down what they are asked."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from patience import PATIENCE_SECONDS, until

# Ray's command line brings in Ray Serve, whose settings pydantic complains about.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments")

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm.sh"
# `srun` runs its command here; `ray symmetric-run ... -- COMMAND` runs the command, as on the first node.
SRUN = '#!/bin/bash\nexec "$@"\n'
RAY = """#!/bin/bash
echo "ray $*" >>"$HOME/said"
if [ "$1" = get-auth-token ]; then mkdir -p "$HOME/.ray"; echo token >"$HOME/.ray/auth_token"; exit; fi
while [ "$1" != -- ]; do shift; done
shift
"$@"
exit $?
"""
PKDRAY = """#!/bin/bash
echo "pkdray $*" >>"$HOME/said"
echo "mode=$RAY_AUTH_MODE threads=$OMP_NUM_THREADS" >>"$HOME/said"
trap 'echo interrupted >>"$HOME/said"; exit 130' INT
touch "$HOME/running"
[ -e "$HOME/long" ] || exit "$(cat "$HOME/code" 2>/dev/null || echo 0)"
while :; do read -r -t 0.1 <>"$HOME/fifo"; done
"""
SCONTROL = '#!/bin/bash\necho "scontrol $*" >>"$HOME/said"\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that is also the folder of the checkout."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name, text in {"srun": SRUN, "ray": RAY, "pkdray": PKDRAY, "scontrol": SCONTROL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


def start(home: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "SLURM_SUBMIT_DIR": str(home),
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "64",
        "SLURM_GPUS_ON_NODE": "8",
        "PKDRAY_HEAD_IP": "10.0.0.7",
        "TMPDIR": str(home),
        **more,
    }
    return subprocess.Popen(
        ["bash", str(SCRIPT), *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def said(home: Path) -> list[str]:
    return (home / "said").read_text().splitlines()


def test_the_pipeline_runs_on_the_first_node(home: Path) -> None:
    process = start(home, "biovid_mtpkdot", "pain", "--seeds", "10")
    output = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 0, output
    token, ray, pkdray, environment = said(home)
    assert token == "ray get-auth-token --generate"
    assert ray.startswith("ray symmetric-run --address 10.0.0.7:22345 --min-nodes 2 ")
    assert " --num-cpus=64 --num-gpus=8 -- " in ray
    assert pkdray == (
        f"pkdray pipeline biovid_mtpkdot --name pain --runs-dir {home}/runs --address 10.0.0.7:22345 --seeds 10"
    )
    assert environment == "mode=token threads=1"
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    # Nothing is left of the file that names the driver.
    assert list(home.glob("tmp.*")) == []


def test_a_failure_is_the_jobs_failure(home: Path) -> None:
    (home / "code").write_text("2")
    process = start(home, "space", "run")
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 2
    assert not any(line.startswith("scontrol") for line in said(home))


def test_a_step_that_ends_at_once_is_no_success(home: Path) -> None:
    (home / ".venv" / "bin" / "srun").write_text("#!/bin/bash\nexit 3\n")
    # The node is busy: the step is gone before the script looks at it.
    (home / "slow").write_text('set() { builtin set "$@"; if [ "$1" = +m ]; then sleep 0.5; fi; }\n')
    process = start(home, "space", "run", BASH_ENV=str(home / "slow"))
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 3


def test_when_the_time_is_up_the_driver_is_interrupted_and_the_job_goes_back(home: Path) -> None:
    (home / "long").touch()
    process = start(home, "space", "run")
    until((home / "running").exists, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 0, output
    assert said(home)[-2:] == ["interrupted", "scontrol requeue 12345"]
    assert "the next start continues the run run" in output


def test_a_signal_while_the_step_starts_ends_it_and_the_job_goes_back(home: Path) -> None:
    (home / ".venv" / "bin" / "srun").write_text('#!/bin/bash\nread -r <>"$HOME/fifo"\n')
    # The signal comes just before the step is there.
    (home / "now").write_text('set() { builtin set "$@"; if [ "$1" = -m ]; then kill -TERM $$; fi; }\n')
    process = start(home, "space", "run", BASH_ENV=str(home / "now"))
    output = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 0, output
    assert said(home)[-1] == "scontrol requeue 12345"
    assert "the next start continues the run run" in output


def test_it_says_how_to_call_it(home: Path) -> None:
    process = start(home, "space")
    output = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert (process.returncode, output) == (2, "Usage: sbatch deploy/slurm.sh SPACE RUN [OPTION_OF_PIPELINE...]\n")


def test_ray_has_what_it_asks_for() -> None:
    from ray.scripts.scripts import cli

    assert {"symmetric-run", "get-auth-token"} <= set(cli.commands)
    known = {option for parameter in cli.commands["start"].params for option in parameter.opts}
    assert {"--temp-dir", "--num-cpus", "--num-gpus"} <= known
    from ray.scripts import symmetric_run

    source = Path(symmetric_run.__file__).read_text(encoding="utf-8")
    assert "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT" in source


@pytest.mark.parametrize("path", sorted(SCRIPT.parent.glob("*.sh")), ids=lambda path: path.name)
def test_the_shell_can_read_it(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    # Files for bash alone say so, and none was written on Windows.
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\r" not in text
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(path)], check=True)
