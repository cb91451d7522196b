"""Receipts: the proof that a unit is done, one sealed JSON line each, appended after its data are on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pdediff.store.files import canonical, disk, seal, unseal


@dataclass(frozen=True)
class Making:
    """What else is known of a unit, no part of the content hash: the time it took, how often it was drawn.

    `moments` are what the statistics need of each float array of an accepted unit (absent in older stores).
    """

    seconds: float
    attempts: int = 1
    moments: dict[str, dict[str, list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Receipt:
    """What was written for unit `index`: its seed key and, per array, SHA-256 of its bytes (little endian, C order)."""

    index: int
    key: int
    sha256: dict[str, str]
    version: str
    making: Making
    status: str = "ok"
    reason: str = ""

    @property
    def seconds(self) -> float:
        """The time it took."""
        return self.making.seconds

    @property
    def attempts(self) -> int:
        """How often it was drawn."""
        return self.making.attempts

    @property
    def moments(self) -> dict[str, dict[str, list[float]]]:
        """Moments by array; see `pdediff.store.moments`."""
        return self.making.moments

    def line(self) -> str:
        """The line of the log, with its own checksum: one flat record."""
        record = vars(self) | vars(self.making)
        del record["making"]
        return seal(record)

    @staticmethod
    def parse(text: str | bytes) -> Receipt | None:
        """The receipt of a line; None when the line is torn or damaged."""
        record = unseal(text)
        if record is None:
            return None
        made = {name: record.pop(name) for name in ("seconds", "attempts", "moments") if name in record}
        try:
            return Receipt(**record, making=Making(**made))
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
