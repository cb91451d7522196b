"""Workloads of a made-up peer, run in the process of a contestant: they burn, log, print, fail or die."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def prepare(settings: Mapping[str, Any]) -> Callable[[], Any]:
    """A workload that takes `seconds` of processor time and writes its `name` into `log`."""
    if "fail" in settings:
        raise ValueError("no\nsuch flow")

    def run() -> list[float]:
        if "die" in settings:
            os.write(2, b"first words\nlast words\n")
            os._exit(3)
        print("a library talks")
        end = time.process_time() + settings["seconds"]
        while time.process_time() < end:
            pass
        with Path(settings["log"]).open("a") as log:
            log.write(settings["name"] + "\n")
        return [1.0, settings["seconds"]]

    return run
