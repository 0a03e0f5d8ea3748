"""libFuzzer on one target, as a process of its own: python fuzz/fuzzer.py PROGRAM TARGET [options of libFuzzer].

PROGRAM is the path under which libFuzzer may start this again.
"""

import sys

import atheris

with atheris.instrument_imports(include=["hyle_agent", "hyle_bundle", "hyle_substrates", "hyle_protos"]):
    from targets import TARGETS

if __name__ == "__main__":
    program, name, *options = sys.argv[1:]
    atheris.Setup([program, *options], TARGETS[name])
    atheris.Fuzz()
