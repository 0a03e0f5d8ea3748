"""A device that differs from its sheet for good, behind the substrate service: `PORT PROFILE SEED SHARE`."""

from __future__ import annotations

import sys

from hyle_substrates.mismatch import Mismatch
from hyle_substrates.profile import load_profile
from hyle_substrates.remote_server import serve
from hyle_substrates.twin import TwinDriver

if __name__ == "__main__":
    seed, share = int(sys.argv[3]), float(sys.argv[4])
    gains = Mismatch(weight=share, row=share, column=share)
    server = serve(lambda: TwinDriver(load_profile(sys.argv[2]), seed, mismatch=gains), f"127.0.0.1:{sys.argv[1]}")
    print(server.port, flush=True)
    server.wait()
