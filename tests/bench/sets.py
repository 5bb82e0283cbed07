"""The files that are moved: made on disk once, their SHA-1 known beforehand."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

KB, MB, GB = 1000, 1000**2, 1000**3
STAMPED_FROM = 64 * MB
"""From this size on files are sparse: all zero, but for a number at the start of each MiB."""
CACHED_UP_TO = 4 * GB
STEP = 1024 * 1024


@dataclass(frozen=True)
class FileSet:
    """So many files of so many bytes each, in groups."""

    name: str
    groups: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        """Number of files."""
        return sum(count for count, _ in self.groups)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(count * size for count, size in self.groups)

    def scaled(self, divisor: int) -> FileSet:
        """The same shape with fewer files, or smaller ones where there is but one."""
        if divisor == 1:
            return self
        groups = tuple(
            (1, max(24 * MB, size // divisor)) if count == 1 else (max(2, count // divisor), size)
            for count, size in self.groups
        )
        return FileSet(f"{self.name} ÷ {divisor}", groups)


ONE_GB = FileSet("1 × 1 GB", ((1, GB),))
TWO_GB = FileSet("1 × 2 GB", ((1, 2 * GB),))
TWENTY_GB = FileSet("1 × 20 GB", ((1, 20 * GB),))
MEDIUM = FileSet("200 × 1 MB", ((200, MB),))
SMALL = FileSet("2,000 × 20 KB", ((2000, 20 * KB),))
MIXED = FileSet("mixed: 300 MB, 10 × 30 MB, 50 × 1 MB, 500 × 20 KB",
                ((1, 300 * MB), (10, 30 * MB), (50, MB), (500, 20 * KB)))  # fmt: skip
NOTHING = FileSet("nothing", ())


@dataclass(frozen=True)
class SourceFile:
    """A file on disk and what must arrive."""

    path: Path
    size: int
    sha1: str


def make_files(files: FileSet, folder: Path) -> list[SourceFile]:
    """Write the files; once more is no work. They are read once, so that the page cache has them."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    sizes = [size for count, size in files.groups for _ in range(count)]
    for number, size in enumerate(sizes):
        path = folder / f"file-{number:05d}.bin"
        made.append(SourceFile(path, size, _write(path, number, size)))
    return made


def _write(path: Path, seed: int, size: int) -> str:
    if size < STAMPED_FROM:
        content = random.Random(f"{seed}:{size}").randbytes(size)  # noqa: S311 -- not for secrets
        path.write_bytes(content)
        return hashlib.sha1(content).hexdigest()
    # Parts that are swapped, doubled or missing change the digest; the zeros cost no disk.
    digest, zeros = hashlib.sha1(), bytes(STEP)
    with path.open("wb") as file:
        for number, start in enumerate(range(0, size, STEP)):
            stamp = (seed * 2**32 + number + 1).to_bytes(8, "big")
            file.seek(start)
            file.write(stamp)
            digest.update(stamp)
            digest.update(zeros[: min(STEP, size - start) - len(stamp)])
        file.truncate(size)
    return digest.hexdigest()


def read_once(files: list[SourceFile]) -> None:
    """Bring them into the page cache, but for those that could push others out."""
    block = bytearray(STEP)
    for source in files:
        if source.size > CACHED_UP_TO:
            continue
        with source.path.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass
