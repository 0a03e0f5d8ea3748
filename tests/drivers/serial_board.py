"""A board on a pseudo-terminal, in a process of its own: `serial_board.py LINK PROFILE`.

Written from docs/drivers/serial.md alone; it shares no code with the driver. Its matter is a matrix product whose
columns it multiplies by the scale that the profile's converters imply.
"""

from __future__ import annotations

import os
import pty
import sys
import tomllib
import tty
from pathlib import Path


def xor(text: bytes) -> int:
    seen = 0
    for byte in text:
        seen ^= byte
    return seen


class Board:
    def __init__(self, sheet: dict) -> None:
        self.rows, self.cols = sheet["array"]["rows"], sheet["array"]["cols"]
        self.tiles = sheet["array"]["count"]
        self.top = sheet["adc"]["levels"]
        self.unit = self.top / (sheet["adc"]["full_scale"] * sheet["dac"]["levels"] * sheet["weights"]["levels"])
        self.matter: dict[int, list[list[int]]] = {}

    def answer(self, words: list[str]) -> str:
        verb, rest = words[0], words[1:]
        if verb == "HELLO":
            return f"OK pty-board {self.tiles} {self.rows} {self.cols}"
        if verb == "HEALTH":
            return "OK temperature_c=21.5"
        if verb == "TILE":
            tile, rows, cols = map(int, rest)
            self.matter[tile] = [[0] * cols for _ in range(rows)]
            return "OK"
        if verb == "ROW":
            self.matter[int(rest[0])][int(rest[1])] = [int(word) for word in rest[2:]]
            return "OK"
        if verb == "READ":
            return " ".join(["OK", *map(str, self.matter[int(rest[0])][int(rest[1])])])
        codes = [int(word) for word in rest[1:]]
        sums = []
        for tile in map(int, rest[0].split(",")):
            for column in zip(*self.matter[tile], strict=True):
                total = sum(code * weight for code, weight in zip(codes, column, strict=True)) * self.unit
                sums.append(max(-self.top, min(self.top, round(total))))
        return " ".join(["OK", *map(str, sums)])


def main() -> None:
    link, sheet = Path(sys.argv[1]), tomllib.loads(Path(sys.argv[2]).read_text())
    board = Board(sheet)
    master, slave = pty.openpty()
    tty.setraw(slave)
    name = os.ttyname(slave)
    fresh = link.with_name(link.name + ".new")
    fresh.symlink_to(name)
    fresh.replace(link)
    print("ready", flush=True)
    pending = b""
    while True:
        pending += os.read(master, 4096)
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            body, _, check = line.rpartition(b" *")
            number, *words = body.decode().split() or ["0"]
            try:
                said = board.answer(words) if f"{xor(body):02X}" == check.decode() else "ERR damaged"
            except (KeyError, ValueError, IndexError) as error:
                said = f"ERR {type(error).__name__} {error}"
            text = f"{number} {said}".encode()
            os.write(master, text + b" *%02X\n" % xor(text))


if __name__ == "__main__":
    main()
