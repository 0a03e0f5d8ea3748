"""A twin behind the substrate service, in a process of its own: `remote_device.py PORT PROFILE`."""

from __future__ import annotations

import sys

from hyle_substrates.profile import load_profile
from hyle_substrates.remote_server import serve
from hyle_substrates.twin import TwinDriver

if __name__ == "__main__":
    server = serve(lambda: TwinDriver(load_profile(sys.argv[2]), 7), f"127.0.0.1:{sys.argv[1]}")
    print(server.port, flush=True)
    server.wait()
