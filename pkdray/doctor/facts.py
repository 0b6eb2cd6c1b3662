"""What a machine has, as plain data. Sent to every node of a cluster, also to one that has no pkdray: it imports the
standard library alone, and travels as source code would.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("pkdray", "torch", "ray", "optuna")
"""Those whose versions have to be the same everywhere."""

EXTRAS = ("optuna-dashboard", "tensorboard", "mlflow-skinny", "wandb", "boto3")

_ASK_TORCH = """
import json
import torch
count = torch.cuda.device_count()
names = [torch.cuda.get_device_name(index) for index in range(count)]
print(json.dumps({"cuda": torch.version.cuda, "gpus": names}))
"""
_TORCH_SECONDS = 180


def gather() -> dict[str, Any]:
    """The facts of this machine, as `NodeFacts` has them."""
    return {
        "name": socket.gethostname(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "extras": [name for name in EXTRAS if _version(name)],
        **_torch(),
        **_driver(),
        "shared_memory": _space("/dev/shm")[0],
        "memory": _memory(),
        "disk": _space("/tmp"),
        "open_files": _open_files(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch() -> dict[str, Any]:
    """What torch sees, asked in a process of its own.

    Ray hides the GPUs from a task that asked for none, and looking at a GPU takes some of its memory until the process
    ends.
    """
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-c", _ASK_TORCH]
    try:
        ran = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TORCH_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"torch_cuda": None, "torch_gpus": [], "torch_error": str(error)}
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"])[-1]
        return {"torch_cuda": None, "torch_gpus": [], "torch_error": last}
    said = json.loads(ran.stdout.splitlines()[-1])
    return {"torch_cuda": said["cuda"], "torch_gpus": said["gpus"], "torch_error": None}


def _driver() -> dict[str, Any]:
    """Of NVIDIA's driver: its version, the newest CUDA that it runs, and how many GPUs it has."""
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        ran = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
        versions = ran.stdout.split() if ran.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):
        versions = []
    return {
        "driver": versions[0] if versions else None,
        "driver_cuda": _driver_cuda(),
        "driver_gpus": len(versions),
    }


def _driver_cuda() -> str | None:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(number)) != 0 or not number.value:
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _space(path: str) -> list[int]:
    """[total, free] bytes; zeros where there is no such folder."""
    if not Path(path).is_dir():
        return [0, 0]
    usage = shutil.disk_usage(path)
    return [usage.total, usage.free]


def _memory() -> int:
    """Bytes of memory that this machine, or the container, may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(limit).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def _open_files() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
