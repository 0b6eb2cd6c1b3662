"""Pin every package that pkdray and its development need: writes requirements.lock.

Run it with the Python of a virtual environment:  .venv/bin/python scripts/lock.py
It asks pip to resolve pyproject.toml (with the dev extra) against the pins below, and writes down what pip chose.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"

PINS = [
    # The newest trio that belongs together: torchaudio ends at 2.11.
    "torch==2.11.0",
    "torchaudio==2.11.0",
    "torchvision==0.26.0",
    # 2.6.0 pins torch below 2.3.
    "facenet-pytorch==2.5.3",
    # The searcher and the scheduler use what these versions really do; see docs/decisions.md before raising them.
    "ray==2.60.0",
    "optuna==5.0.0",
]


def main() -> None:
    """Resolve and write."""
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        keep = LOCK.read_text().splitlines() if LOCK.exists() and "--upgrade" not in sys.argv else []
        pinned = {line.split("==")[0] for line in PINS}
        kept = [line for line in keep if "==" in line and line.split("==")[0] not in pinned]
        constraints.write_text("\n".join([*PINS, *kept]) + "\n")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", report, "-c", constraints, f"{ROOT}[dev]"], check=True)
        installs = json.loads(report.read_text())["install"]
    packages = sorted((item["metadata"]["name"].lower(), item["metadata"]["version"]) for item in installs)
    lines = [f"{name}=={version}" for name, version in packages if name != "pkdray"]
    header = "# Made by scripts/lock.py (Python 3.11, Linux x86-64). `--upgrade` there takes newer versions.\n"
    LOCK.write_text(header + "\n".join(lines) + "\n")
    print(f"{LOCK.name}: {len(lines)} packages")


if __name__ == "__main__":
    main()
