"""The files that browsers load, each read and compressed once."""

from __future__ import annotations

import gzip
import hashlib
import stat
from datetime import UTC, datetime
from pathlib import Path

STATIC = Path(__file__).parents[1] / "static"


class Asset:
    """One file."""

    def __init__(self, path: Path, changed: int) -> None:
        self.changed = changed
        """The file's mtime in nanoseconds; the file is read again when it changes."""
        self.plain = path.read_bytes()
        self.compressed = gzip.compress(self.plain, mtime=0)
        digest = hashlib.sha256(self.plain).hexdigest()
        self.etag, self.compressed_etag = f'"{digest}"', f'"{digest}-gzip"'
        """What is compressed is another representation, so it has another strong validator."""
        self.modified = datetime.fromtimestamp(changed // 1_000_000_000, UTC)
        self.kind = _KINDS[path.suffix]


_KINDS = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".ts": "text/plain",
}
_files: dict[Path, Asset] = {}
"""The cache; only files in the folder get in."""


def read_all() -> None:
    """Read and compress every file now, so that no request waits for it."""
    for path in STATIC.iterdir():
        find(path.name)


def find(name: str) -> Asset | None:
    """The file of that name in the package's folder; None if it does not exist."""
    path = STATIC / name
    try:
        about = path.stat()
    except OSError:
        return None
    if path.suffix not in _KINDS or not stat.S_ISREG(about.st_mode):
        return None
    found = _files.get(path)
    if found is None or found.changed != about.st_mtime_ns:
        found = _files[path] = Asset(path, about.st_mtime_ns)
    return found
