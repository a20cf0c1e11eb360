"""Text files, compressed or not, as LAMMPS writes and reads them."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO, cast

# How a compressed file begins, and what opens it.
MAGIC: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
ZSTANDARD = b"\x28\xb5\x2f\xfd"
SUFFIXES = {".gz", ".bz2", ".xz", ".lzma", ".zst"}

# What reading a damaged file raises.
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError)


class CompressionError(Exception):
    """A compressed file that cannot be read here; the message says what to do."""


def suffix(path: Path) -> str:
    """The suffix of a file's name, without that of compression."""
    return Path(path.stem).suffix if path.suffix in SUFFIXES else path.suffix


def open_text(path: Path) -> tuple[BinaryIO, TextIO]:
    """The file itself, whose position tells how far reading has come, and its text.

    Raises:
        CompressionError: reading this kind of file needs a program that is not installed.
        OSError: the file cannot be opened.
    """
    raw, content = open_bytes(path)
    return raw, io.TextIOWrapper(cast(Any, content))


def open_bytes(path: Path) -> tuple[BinaryIO, IO[bytes]]:
    """The file itself and what it holds, which is the same file if it is not compressed.

    Raises:
        CompressionError: reading this kind of file needs a program that is not installed.
        OSError: the file cannot be opened.
    """
    raw = path.open("rb")
    try:
        start = raw.peek(8)
        for magic, decompress in MAGIC.items():
            if start.startswith(magic):
                return raw, decompress(raw)
        if start.startswith(ZSTANDARD):
            return raw, _zstandard(raw)
    except BaseException:
        raw.close()
        raise
    return raw, raw


def _zstandard(raw: BinaryIO) -> IO[bytes]:
    for name in ("compression.zstd", "backports.zstd"):  # the former since Python 3.14
        try:
            return cast("IO[bytes]", importlib.import_module(name).ZstdFile(raw))
        except ImportError:
            continue
    try:
        opener = importlib.import_module("zstandard").ZstdDecompressor()
    except ImportError:
        raise CompressionError(
            "is compressed with Zstandard, which this Python cannot read; write "
            "'pip install zstandard', or decompress it with 'zstd -d'"
        ) from None
    return cast("IO[bytes]", opener.stream_reader(raw, read_across_frames=True))
