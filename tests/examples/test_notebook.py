"""The notebook in examples runs from its first cell to its last, and what it prints is what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

nbformat: Any = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient: Any = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")
pytest.importorskip("torch", reason="torch is not installed")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "torch_to_agent" / "digits.ipynb"
LIMIT_S = 600
LEAST = 90.0  # the kept run has 95.8; six standard deviations of a share of 450 samples are 5.7 points
SCRIPT = """
import pathlib, sys, nbclient, nbformat
from jupyter_client.manager import AsyncKernelManager
source, out = map(pathlib.Path, sys.argv[1:3])
notebook = nbformat.read(source, 4)
for cell in notebook.cells:
    if cell.cell_type == "code":
        cell.outputs = []
kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(out.parent / "k"))
where = {"metadata": {"path": str(source.parent)}}
nbclient.NotebookClient(notebook, timeout=int(sys.argv[3]), km=kernel, resources=where).execute()
nbformat.write(notebook, out)
"""


def printed(notebook: Any) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert all(output["output_type"] == "stream" for output in outputs)
    return "".join(output["text"] for output in outputs if output["name"] == "stdout")


def test_the_notebook_goes_from_a_torch_model_to_answers_of_an_agent(tmp_path: Path) -> None:
    out = tmp_path / "run.ipynb"
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(NOTEBOOK), str(out), str(LIMIT_S)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S + 60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    notebook = nbformat.read(out, 4)
    said = printed(notebook)
    asked = re.search(r"the agent's answers: ([\d.]+) %", said)
    assert asked is not None, said
    assert float(asked[1]) > LEAST
    assert len(re.findall(r"after +\d+ s: [\d.]+ ± [\d.]+ %", said)) == 3


def test_what_the_notebook_keeps_is_small_and_speaks_of_no_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 20_000
    kept = printed(nbformat.reads(text, 4))
    assert "the agent's answers" in kept
    assert "/tmp" not in kept
