"""Flow: the whole job, from solver data to the report."""

from __future__ import annotations

from typing import Any

from prefect import flow

from pdediff.flows.evaluate import evaluate_task
from pdediff.flows.generate import generate_task
from pdediff.flows.reconstruct import reconstruct_task
from pdediff.flows.sample import sample_task
from pdediff.flows.stage import configure
from pdediff.flows.train import train_task
from pdediff.stages.configs import DemoConfig


@flow(name="pipeline")
def pipeline(overrides: list[str] | None = None, data_root: str = "data", config: str = "demo") -> dict[str, Any]:
    """Generate, train, sample, reconstruct with every posterior, evaluate: `config` names the file in `configs/`.

    The whole config is checked before any compute. Stages that are done return at once, so a run that died
    continues where it was when it is run again.
    """
    values, compute = configure(config, DemoConfig, overrides or [])
    checked = DemoConfig.model_validate(values)

    data = generate_task(checked.generate.model_dump(mode="json"), data_root, compute)
    prior = train_task(checked.train.model_dump(mode="json"), data["path"], data_root, compute)
    draws = sample_task(checked.sample.model_dump(mode="json"), prior["path"], data_root, compute)
    reconstructions = {
        name: reconstruct_task(one.model_dump(mode="json"), prior["path"], data["path"], data_root, compute)
        for name, one in checked.reconstructions().items()
    }
    paths = [one["path"] for one in reconstructions.values()]
    report = evaluate_task(checked.evaluate.model_dump(mode="json"), paths, data_root, compute)
    return {
        "generate": data,
        "train": prior,
        "sample": draws,
        "reconstruct": reconstructions,
        "evaluate": report,
        "report": f"{report['path']}/report.html",
    }
