"""A board of four DACs and two ADCs that speaks iiod's protocol, in a process of its own: `iio_board.py HOST PORT`.

libiio's network backend talks to it as to any board with iiod. Between the converters lies a circuit that no driver
knows of: two nodes that saturate, each fed by two outputs.
"""

from __future__ import annotations

import math
import socketserver
import sys

SCALE_MV = 0.805664  # 3.3 V over 4096 steps
ENOENT, EINVAL = -2, -22


def channel(name: str, direction: str) -> str:
    prefix = "out" if direction == "output" else "in"
    attributes = "".join(f'<attribute name="{a}" filename="{prefix}_{name}_{a}" />' for a in ("raw", "scale"))
    return f'<channel id="{name}" type="{direction}">{attributes}</channel>'


DACS = "".join(channel(f"voltage{i}", "output") for i in range(4))
ADCS = "".join(channel(f"voltage{i}", "input") for i in range(2))
CONTEXT = f"""<?xml version="1.0" encoding="utf-8"?><!DOCTYPE context [
<!ELEMENT context (device)*><!ELEMENT device (channel | attribute)*><!ELEMENT channel (attribute)*>
<!ELEMENT attribute EMPTY><!ATTLIST context name CDATA #REQUIRED description CDATA #IMPLIED>
<!ATTLIST device id CDATA #REQUIRED name CDATA #IMPLIED>
<!ATTLIST channel id CDATA #REQUIRED type (input|output) #REQUIRED name CDATA #IMPLIED>
<!ATTLIST attribute name CDATA #REQUIRED filename CDATA #IMPLIED>]>
<context name="network" description="board"><device id="iio:device0" name="dac">{DACS}</device>
<device id="iio:device1" name="adc">{ADCS}</device></context>"""

raw = [0, 0, 0, 0]


def measured(index: int) -> int:
    volts = [value * SCALE_MV / 1000.0 - 1.65 for value in raw]
    node = math.tanh(0.9 * volts[index] + 0.5 * volts[index + 2] + 0.2 * volts[0] * volts[3])
    return round((1.65 + 1.5 * node) * 1000.0 / SCALE_MV)


class Conversation(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = line.decode().split()
            if not words:
                continue
            if words[0] == "EXIT":
                return
            self.wfile.write(self._answer(words))

    def _answer(self, words: list[str]) -> bytes:
        if words[0] == "VERSION":
            return b"0.24.abcdefg\n"
        if words[0] == "PRINT":
            return f"{len(CONTEXT)}\n{CONTEXT}\n".encode()
        if words[0] == "TIMEOUT":
            return b"0\n"
        if words[0] == "READ" and len(words) == 5:
            return self._read(words[2], words[3], words[4])
        if words[0] == "WRITE" and len(words) == 6:
            data = self.rfile.read(int(words[5]))
            return self._write(words[2], words[3], words[4], data)
        return f"{EINVAL}\n".encode()

    def _read(self, direction: str, name: str, attribute: str) -> bytes:
        index = int(name.removeprefix("voltage"))
        if attribute == "scale":
            text = f"{SCALE_MV:.6f}"
        elif attribute == "raw":
            text = str(raw[index] if direction == "OUTPUT" else measured(index))
        else:
            return f"{ENOENT}\n".encode()
        return f"{len(text) + 1}\n{text}\0\n".encode()

    def _write(self, direction: str, name: str, attribute: str, data: bytes) -> bytes:
        if (direction, attribute) != ("OUTPUT", "raw"):
            return f"{EINVAL}\n".encode()
        value = int(data.rstrip(b"\0"))
        if not 0 <= value <= 4095:
            return f"{EINVAL}\n".encode()
        raw[int(name.removeprefix("voltage"))] = value
        return f"{len(data)}\n".encode()


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    with Server((sys.argv[1], int(sys.argv[2])), Conversation) as server:
        print("there", flush=True)
        server.serve_forever()
