"""Holds an agent's whole device and drives it until killed: `lease_holder.py ADDRESS program|apply|idle`."""

from __future__ import annotations

import sys

import numpy as np
from hyle_substrates.leased import lease

if __name__ == "__main__":
    driver = lease({"address": sys.argv[1]}, holder="test holder", purpose=sys.argv[2])
    targets = np.full((256, 256), 100, dtype=np.int32)
    for tile in range(8):
        driver.program(tile, -targets)
    print("held", flush=True)
    codes = np.full((4096, 256), 100, dtype=np.int32)
    number = 0
    while sys.argv[2] != "idle":
        number += 1
        if sys.argv[2] == "program":
            driver.program(number % 8, targets * (-1) ** number)
        else:
            driver.apply([number % 8], codes)
    while sys.stdin.readline():
        driver.apply([0], codes[:1])
        print("driven", flush=True)
