"""A generator and a digitiser with a plate between them, over SCPI on TCP: `scpi_instrument.py PORT`.

In a process of its own; the plate is a leaky nonlinear resonator that no driver knows of.
"""

from __future__ import annotations

import math
import socketserver
import struct
import sys


def plate(wave: tuple[float, ...]) -> list[float]:
    first = second = 0.0
    out = []
    for value in wave:
        new = math.tanh(0.9 * value + 0.55 * first - 0.3 * second + 0.2 * value * first)
        first, second = new, first
        out.append(new)
    return out


class Conversation(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self) -> None:
        wave: tuple[float, ...] = ()
        taken: list[float] = []
        errors: list[str] = []
        while head := self.rfile.read(1):
            command = head + self._until(b" \n")
            verb = command.strip().decode()
            if command.endswith(b" "):
                wave = self._block()
                self.rfile.readline()
                if verb != "SOUR1:TRAC:DATA:DATA":
                    errors.append(f'-113,"Undefined header; {verb}"')
            elif verb == "*IDN?":
                self.wfile.write(b"hyle tests,plate,1,0\n")
            elif verb == "INIT:IMM":
                taken = plate(wave)
            elif verb == "ACQ:SOUR1:DATA?":
                data = struct.pack(f"<{len(taken)}f", *taken)
                size = str(len(data)).encode()
                self.wfile.write(b"#" + str(len(size)).encode() + size + data + b"\n")
            elif verb == "SYST:ERR?":
                self.wfile.write((errors.pop(0) if errors else '0,"No error"').encode() + b"\n")
            elif verb:
                errors.append(f'-113,"Undefined header; {verb}"')

    def _until(self, ends: bytes) -> bytes:
        seen = b""
        while (byte := self.rfile.read(1)) and byte not in ends:
            seen += byte
        return seen + byte

    def _block(self) -> tuple[float, ...]:
        self.rfile.read(1)
        size = int(self.rfile.read(int(self.rfile.read(1))))
        return struct.unpack(f"<{size // 4}f", self.rfile.read(size))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    with Server(("127.0.0.1", int(sys.argv[1])), Conversation) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
