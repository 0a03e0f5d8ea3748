"""The worked example of docs/add-a-driver.md, taken from the page and built."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from rigs import BOARD

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/add-a-driver.md"

DEVICE = """
import json, socketserver, sys, tomllib
import numpy as np

sheet = tomllib.loads(open(sys.argv[2]).read())
TOP = sheet["adc"]["levels"]
UNIT = TOP / (sheet["adc"]["full_scale"] * sheet["dac"]["levels"] * sheet["weights"]["levels"])
tiles = {}

def answer(q):
    if q["do"] == "hello":
        return {"serial": "bench-42", "tiles": sheet["array"]["count"]}
    if q["do"] == "program":
        tiles[q["tile"]] = np.array(q["targets"])
    if q["do"] == "apply":
        total = np.array(q["codes"]) @ np.concatenate([tiles[t] for t in q["tiles"]], axis=1) * UNIT
        return {"codes": np.clip(np.rint(total), -TOP, TOP).astype(int).tolist()}
    return {}

class Talk(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(json.dumps(answer(json.loads(line))).encode() + b"\\n")

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

with Server(("127.0.0.1", int(sys.argv[1])), Talk) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""

CONFTEST = """
import sys
import pytest
from rigs import Process

@pytest.fixture
def bench():
    rig = Process([sys.executable, {device!r}, "0", {sheet!r}], 2)
    rig.profile = {sheet!r}
    yield rig
    rig.unplug()
"""


def blocks() -> dict[str, str]:
    found = re.findall(r"```(?:python|toml)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return dict(zip(("hyle_bench.py", "pyproject.toml", "test_hyle_bench.py"), found, strict=True))


def test_the_example_of_the_page_builds_installs_and_keeps_the_contract(tmp_path: Path) -> None:
    for name, text in blocks().items():
        (tmp_path / name).write_text(text)
    (tmp_path / "device.py").write_text(DEVICE)
    (tmp_path / "conftest.py").write_text(CONFTEST.format(device=str(tmp_path / "device.py"), sheet=str(BOARD)))
    metadata = tmp_path / "hyle_bench-1.0.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: hyle-bench\nVersion: 1.0\n")
    section = re.search(r'entry-points\."(.*?)"\]\n(.*)', blocks()["pyproject.toml"], re.DOTALL)
    assert section is not None
    points = section[2].replace('"', "")
    metadata.joinpath("entry_points.txt").write_text(f"[{section[1]}]\n{points}")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
