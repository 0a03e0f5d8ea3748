"""Compile the converters of a twin while hyle is built or installed, where there is a C compiler; go on without."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("runtime/hyle_runtime/kernels")
# No value may differ from what onnxruntime's own operators give: no fused multiply-add, no reordering.
FLAGS = "-std=c11 -O3 -ffp-contract=off -fvisibility=hidden -fPIC -shared -Wl,-z,relro,-z,now"


class CompileConverters(BuildHookInterface):  # type: ignore[misc]
    """Build hook of hatchling: leaves `converters.so` beside its source, or says why there is none."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before files are collected."""
        if self.target_name != "wheel":
            return
        folder = Path(self.root) / KERNELS
        library, fresh = folder / "converters.so", folder / "converters.so.new"
        command = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS.split(), "-o", str(fresh)]
        try:
            subprocess.run([*command, str(folder / "converters.c")], check=True, capture_output=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as error:
            output = getattr(error, "stderr", None) or b""
            last = output.decode(errors="replace").strip().splitlines()[-1:]
            self.app.display_warning(f"the twin's converters are not compiled: {(last or [str(error)])[0]}")
            fresh.unlink(missing_ok=True)
            library.unlink(missing_ok=True)
            return
        fresh.replace(library)
        build_data["artifacts"].append(str(KERNELS / "converters.so"))
        if version != "editable":
            # The library knows nothing of Python, only of the processor and the C library.
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"], build_data["tag"] = False, f"py{sys.version_info.major}-none-{platform}"
