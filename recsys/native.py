"""C++ kernels, compiled for the processor at hand the first time they are needed.

A kernel is one C++17 file with C functions, and the headers of its own folder: none of torch or
Python, so that it compiles in seconds and is called through `ctypes`, which releases the
interpreter lock. A kernel is never
required: where it cannot be built, a warning says so and its caller takes another path.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

logger = logging.getLogger(__name__)

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared", "-w")
TIMEOUT_S = 120


def load_kernel(source: Path) -> ctypes.CDLL | None:
    """The compiled `source`, from the cache or built now; None, with a warning, where it cannot be.

    The compiler is `$CXX`, else c++, g++ or clang++. The cache is `$TORCH_EXTENSIONS_DIR/recsys`,
    by default `~/.cache/torch_extensions/recsys`; an entry is named after the source, the headers
    beside it, the compiler and the processor's features, so that machines may share a home
    directory.
    """
    compiler = _find_compiler()
    if compiler is None:
        _warn(source, "no C++ compiler was found; install g++ or set CXX")
        return None
    try:
        target = _cache_folder() / f"{source.stem}-{_digest(source, compiler)}.so"
        if not target.exists():
            _compile(source, compiler, target)
        return ctypes.CDLL(str(target))
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines() or [str(error)]
        _warn(source, f"{compiler} failed with: {lines[0]}")
    except (OSError, subprocess.TimeoutExpired) as error:
        _warn(source, str(error))
    return None


def _find_compiler() -> str | None:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((path for path in map(shutil.which, names) if path), None)


def _cache_folder() -> Path:
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or "~/.cache/torch_extensions"
    return Path(root).expanduser() / "recsys"


def _digest(source: Path, compiler: str) -> str:
    """What a compiled kernel depends on. The compiler's macros name its version and the features
    that `-march=native` found."""
    command = [compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull]
    macros = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    ).stdout
    headers = (path.read_text() for path in sorted(source.parent.glob("*.h")))
    parts = (source.read_text(), *headers, *FLAGS, macros)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compile(source: Path, compiler: str, target: Path) -> None:
    """Build into a temporary file and rename it, so that processes may build side by side."""
    target.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / target.name
        subprocess.run(
            [compiler, *FLAGS, "-o", str(built), str(source)],
            check=True,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        built.replace(target)
    logger.info("compiled %s in %.1f s: %s", source.name, time.perf_counter() - start, target)


def _warn(source: Path, reason: str) -> None:
    logger.warning(
        "%s could not be built, so a slower equivalent runs: %s.",
        source.name,
        reason,
    )
