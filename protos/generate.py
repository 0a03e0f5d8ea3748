"""Generate the Python code of every .proto file here; `--check` only says whether it is current.

Run as `python protos/generate.py`. Needs grpcio-tools, of the version that the constraints file pins.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
PACKAGE = ROOT / "hyle_protos"


def generate(target: Path) -> None:
    """Write the generated modules of all .proto files under `target`."""
    sources = sorted(str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.proto"))
    arguments = ["protoc", f"-I{ROOT}", f"--python_out={target}", f"--pyi_out={target}", f"--grpc_python_out={target}"]
    if protoc.main([*arguments, *sources]) != 0:
        raise SystemExit("protoc refused a .proto file; its message is above.")
    for path in target.rglob("*_pb2.py"):
        text = path.read_text()
        own_pool = text.replace("_descriptor_pool.Default()", "_pool.POOL")
        own_pool = re.sub(
            r"(from google\.protobuf import descriptor_pool as _descriptor_pool)",
            r"from hyle_protos import pool as _pool",
            own_pool,
        )
        path.write_text(own_pool)
    for path in target.rglob("*_pb2_grpc.py"):
        if "class " not in path.read_text().replace("class object", ""):
            path.unlink()


def main() -> int:
    """Generate in place, or compare with what is committed."""
    if "--check" not in sys.argv[1:]:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*_pb2*")}
    stale = [
        str(path) for path, data in fresh.items() if not (ROOT / path).is_file() or (ROOT / path).read_bytes() != data
    ]
    print("\n".join(f"{path} is not current: run python protos/generate.py" for path in stale), file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
