"""Compiled kernels on disk: what LLVM did once for a schedule, no later network pays for again.

A kernel's code after scheduling names its object file: a better record gives other code and so another file. The files
lie beside the tuning records and are only a cache: one that is missing or damaged is made again, and all of them may be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tvm

from tvm_mnas.compiler.core.code import code_of
from tvm_mnas.compiler.core.linking import Linker
from tvm_mnas.compiler.core.marks import as_marked
from tvm_mnas.compiler.core.target import load_target

FORMAT = 1
"""Part of every name: a version of this module that compiles otherwise takes the next."""

_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class ObjectCache:
    """The compiled kernels of one target (its JSON text) in `directory`, which is made when it is needed."""

    directory: Path
    target: str

    def kernel(self, function: Any) -> str:
        """Have the object file of a scheduled `function`, compiled now if there is none; return its symbol.

        The file, `path(symbol)`, defines a packed function of that name. Raises what TVM raises for code that it
        cannot compile.
        """
        symbol = self._symbol("kernel", function)
        self._have(self.path(symbol), lambda part: self._compile(function, symbol, part))
        return symbol

    def path(self, symbol: str) -> Path:
        """Return where the object file of `symbol` is."""
        return self.directory / f"{symbol}.o"

    def library(self, function: Any, linker: Linker) -> Any:
        """Return `function`, compiled for this very machine, as a function to call now.

        The cache's target is that of the machine then, and `linker` links for it.
        """
        symbol = self._symbol("library", function)
        path = self.directory / f"{symbol}.so"

        def build(part: Path) -> None:
            objects = part.with_suffix(".o")
            self._compile(function, symbol, objects)
            linker.link([objects], part)
            objects.unlink()

        self._have(path, build)
        return tvm.runtime.load_module(str(path))[symbol]

    def _symbol(self, kind: str, function: Any) -> str:
        code = code_of(function).hash_i64 & 0xFFFF_FFFF_FFFF_FFFF
        text = f"{FORMAT}:{_tvm_version()}:{self.target}:{code:016x}"
        return f"tvm_mnas_{kind}_{hashlib.sha256(text.encode()).hexdigest()[:24]}"

    def _compile(self, function: Any, symbol: str, path: Path) -> None:
        module = tvm.IRModule({symbol: function.with_attr("global_symbol", symbol)})
        compiled = tvm.compile(as_marked(module), target=load_target(self.target))
        compiled.mod.write_to_file(str(path))

    def _have(self, path: Path, build: Callable[[Path], None]) -> None:
        """Have `path` built unless it is there; another process may do the same, and either's file will do."""
        if _is_whole(path):
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        # In a directory of its own: what is half done has no name that anybody reads.
        with tempfile.TemporaryDirectory(dir=self.directory, prefix=".part-") as directory:
            part = Path(directory) / path.name
            build(part)
            with part.open("ab") as file:
                file.write(hashlib.sha256(part.read_bytes()).digest())
            os.replace(part, path)


@cache
def _tvm_version() -> str:
    return version("apache-tvm")


def _is_whole(path: Path) -> bool:
    """Whether the file ends with its digest, which linkers and loaders pass over.

    Neither says reliably that a file is damaged: a library that was cut short can end the process.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    code, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    return hashlib.sha256(code).digest() == digest
