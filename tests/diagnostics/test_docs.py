"""docs/diagnostics.md: its example runs."""

from __future__ import annotations

import re
from pathlib import Path

from pkdray.search.run import Run

PAGE = (Path(__file__).parents[2] / "docs" / "diagnostics.md").read_text(encoding="utf-8")


def test_the_example_runs_and_tells_of_the_run(small_dataset, trained, tmp_path, monkeypatch, capsys) -> None:
    trained(small_dataset(), {"method.name": "pkd", "method.theta": 0.4}, "demo")
    (tmp_path / "demo").mkdir()
    (tmp_path / "runs").rename(tmp_path / "demo" / "runs")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "docs/diagnostics.md", "exec"), names)  # noqa: S102
    said = capsys.readouterr().out
    assert "The gate (theta 0.4)" in said
    assert "teacher joint" in said
    assert names["best"] == Run(tmp_path / "demo" / "runs" / "demo").ledger().best().number
