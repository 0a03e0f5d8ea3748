"""An agent with the test's program in a process of its own: `python agent_process.py STORE READY_FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from agent_fakes import FakeExecutor, config_for, connect_twin
from hyle_agent.cli import announce, serve

if __name__ == "__main__":
    store, ready = Path(sys.argv[1]), Path(sys.argv[2])
    serve(config_for(store), ready=lambda address: announce(address, ready), load=FakeExecutor(), connect=connect_twin)
