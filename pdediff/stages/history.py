"""The course of a training, read back for the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pdediff import checkpoint
from pdediff.metrics import Training


def training_of(run: Path) -> Training:
    """Loss by step from `history.jsonl`, validation error by noise level from the final checkpoint."""
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines() if line.endswith("}")]
    validation = checkpoint.load(run)[1]["validation"]
    assert isinstance(validation, list)
    return Training(
        steps=np.array([line["step"] for line in lines]),
        loss=np.array([line["loss"] for line in lines]),
        levels=np.array([row["sigma"] for row in validation]),
        level_loss=np.array([row["rmse"] ** 2 for row in validation]),
    )
