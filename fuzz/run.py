"""Fuzz one target with atheris (`pip install atheris`), corpus kept in fuzz/corpus/TARGET.

Run: python fuzz/run.py TARGET [-max_total_time=600] [any option of libFuzzer]
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hyle_agent", "hyle_bundle", "hyle_substrates", "hyle_protos"]):
    from seeds import seeds
    from targets import TARGETS


def main() -> None:
    """Run libFuzzer on one target until it is told to stop."""
    name, *options = sys.argv[1:]
    corpus = Path(__file__).parent / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        (corpus / "seed").write_bytes(seeds(Path(folder))[name])
    atheris.Setup([sys.argv[0], *options, "-rss_limit_mb=2048", "-timeout=10", str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
