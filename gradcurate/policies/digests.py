"""Content hashes of files and folders."""

import hashlib
from pathlib import Path


def file_digest(path: Path) -> str:
    """Return the BLAKE2b hash of a file's bytes, as 32 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def files_digest(paths: list[Path]) -> str:
    """Return one hash of the names and bytes of files, whatever their order."""
    listing = sorted(f"{path.name} {file_digest(path)}" for path in paths)
    return hashlib.blake2b("\n".join(listing).encode(), digest_size=16).hexdigest()
