"""Receipts: the proof that a unit is done, one sealed JSON line each, appended after its data are on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pdediff.store.files import canonical, disk, seal, unseal


@dataclass(frozen=True)
class Receipt:
    """What was written for unit `index`: its seed key and, per array, SHA-256 of its bytes (little endian, C order).

    `seconds` is the time it took, `attempts` how often it was drawn; both are no part of the content hash.
    """

    index: int
    key: int
    sha256: dict[str, str]
    version: str
    seconds: float
    status: str = "ok"
    reason: str = ""
    attempts: int = 1

    def line(self) -> str:
        """The line of the log, with its own checksum."""
        return seal(asdict(self))

    @staticmethod
    def parse(text: str | bytes) -> Receipt | None:
        """The receipt of a line; None when the line is torn or damaged."""
        record = unseal(text)
        try:
            return None if record is None else Receipt(**record)
        except TypeError:
            return None


def read_receipts(log: Path) -> dict[int, Receipt]:
    """Latest receipt of each unit; torn and damaged lines count as never written."""
    try:
        lines = log.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    found = (Receipt.parse(line) for line in lines if line)
    return {receipt.index: receipt for receipt in found if receipt is not None}


def append_receipts(log: Path, receipts: Iterable[Receipt]) -> None:
    """Adds lines and forces them to disk; a torn last line is first closed, so the new ones stay readable."""
    text = "".join(receipt.line() + "\n" for receipt in receipts).encode()
    with disk(log, len(text)):
        handle = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            end = os.fstat(handle).st_size
            if end and os.pread(handle, 1, end - 1) != b"\n":
                text = b"\n" + text
            while text:
                text = text[os.write(handle, text) :]
            os.fsync(handle)
        finally:
            os.close(handle)


def hash_receipts(receipts: Mapping[int, Receipt]) -> str:
    """Content hash: SHA-256 over (index, status, hashes) in index order; the same for any worker count or resume."""
    total = hashlib.sha256()
    for index in sorted(receipts):
        receipt = receipts[index]
        total.update(canonical([index, receipt.status, receipt.sha256]).encode() + b"\n")
    return total.hexdigest()
