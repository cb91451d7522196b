"""The report of an evaluation: one HTML file without remote parts, and the same tables as Markdown."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

import numpy as np

from pdediff.metrics import field_figures, figures
from pdediff.metrics.canvas import quantise
from pdediff.metrics.doubts import Doubt, Verdict, most_accurate
from pdediff.metrics.doubts import doubts as find_doubts
from pdediff.metrics.doubts import verdict as find_verdict
from pdediff.metrics.report_data import ReportData
from pdediff.metrics.score import CASE
from pdediff.metrics.summary import Table, paired, summarise
from pdediff.metrics.table import grid, label, number

MAX_BYTES = 2_000_000
_TEXT_BYTES = 300_000  # left for everything but the images
_LARGE = 60_000  # images above this get a palette


@dataclass(frozen=True)
class Figure:
    """A PNG with its caption; `rank` 0 is kept first when a report would grow too large."""

    name: str
    caption: str
    image: bytes
    rank: int = 0

    @property
    def source(self) -> str:
        """The image as a data address."""
        return "data:image/png;base64," + base64.b64encode(self.image).decode("ascii")

    @property
    def size(self) -> int:
        """Characters of that address."""
        return len("data:image/png;base64,") + 4 * -(-len(self.image) // 3)


def draw(data: ReportData, table: Table | None = None) -> list[Figure]:
    """All figures of a report: cases first, then charts over all cases."""
    table = summarise(data.rows) if table is None else table
    made = []
    for place, case in enumerate(data.cases):
        for info in data.fields:
            if any(info.name in p.draws for p in case.posteriors.values()):
                image = field_figures.case_figure(case, info, data.methods)
                text = f"Case {case.index}, {info.long_name or info.name}: every quantity on one scale for all methods."
                made.append(Figure(f"case-{case.index}-{info.name}", text, image, place + 1))
    return made + _charts(data, table)


def _charts(data: ReportData, table: Table) -> list[Figure]:
    made = []
    names = [f.name for f in data.fields if any(p.field == f.name for p in data.profiles)]
    if names:
        image = figures.coverage_curve(data.profiles, data.methods, names)
        text = "Coverage of central intervals; below the diagonal is over-confident. Bands: one standard error."
        made.append(Figure("coverage", text + _resolutions(data), image))
        image = figures.rank_histograms(data.profiles, data.methods, names)
        text = "Rank of the truth among the draws; flat is right, U is too narrow, a hump too wide, a slope a bias."
        made.append(Figure("ranks", text, image))
        for name in names:
            info = data.field(name)
            image = figures.spectra_chart(data.profiles, data.methods, name, info.units, info.boundary)
            made.append(
                Figure(f"spectra-{name}", f"Radial power spectra of {name}: draws should follow the truth.", image)
            )
    scored = {f.name: f.units for f in data.fields if "crps" in table.metrics.get(f.name, ())}
    if scored and {"seconds", "denoiser_calls"} & set(table.metrics.get(CASE, ())):
        image = figures.cost_accuracy(table, data.methods, scored)
        made.append(Figure("cost", "Accuracy against cost; lower left is better. Bars: 95 % intervals.", image))
    if data.training is not None:
        made.append(Figure("training", "Training of the prior.", figures.training_curve(data.training)))
    if (image := figures.ess_curve(data.cases, data.methods)) is not None:
        made.append(Figure("ess", "Effective sample size of the particles, one line per case.", image))
    return made


def _resolutions(data: ReportData) -> str:
    coarse = [f"{f.name} closer than {number(f.resolution)} {f.units}" for f in data.fields if f.resolution > 0.0]
    return f" Values of {', '.join(coarse)} count as equal." if coarse else ""


def fit(made: Sequence[Figure], budget: int) -> tuple[list[Figure], list[str]]:
    """Figures within `budget` bytes as data addresses: large ones with a palette, then cases left out, last first."""
    kept = [replace(f, image=quantise(f.image)) if len(f.image) > _LARGE else f for f in made]
    left_out = []
    while kept and sum(f.size for f in kept) > budget:
        worst = max(range(len(kept)), key=lambda i: (kept[i].rank, i))
        left_out.append(f"{kept.pop(worst).name} is left out to keep this file small.")
    return kept, left_out


def html(data: ReportData, made: Sequence[Figure] | None = None) -> str:
    """The report as one HTML page under 2 MB; `made` are figures drawn before (default: `draw`)."""
    from jinja2 import Environment, StrictUndefined

    table = summarise(data.rows)
    found = find_doubts(data, table)
    verdict = find_verdict(data, found, table)
    shown, left_out = fit(draw(data, table) if made is None else made, MAX_BYTES - _TEXT_BYTES)
    # Everything is escaped: names of runs, methods and fields come from configs.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("pdediff.metrics") / "report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        title=data.title,
        provenance=data.provenance,
        verdict=verdict,
        cases=_cases(data),
        tables=_tables(data, table, verdict),
        comparisons=comparisons(data, table),
        doubts=_grouped(data, found),
        figures=shown,
        left_out=left_out,
        facts=_facts(data),
        config=_config(data),
    )


def _cases(data: ReportData) -> str:
    scored = {r.case for r in data.rows if r.field != CASE} or {r.case for r in data.rows}
    return f"{len(scored)} case{'' if len(scored) == 1 else 's'}."


def _tables(data: ReportData, table: Table, verdict: Verdict) -> list[dict[str, object]]:
    units = {f.name: f.units for f in data.fields}
    titles = {f.name: f.long_name or f.name for f in data.fields} | {CASE: "Whole case"}
    blocks = []
    for name in table.fields:
        columns, lines = grid(table, name)
        rows = [
            {
                "method": data.method(m).shown,
                "biased": data.method(m).biased,
                "light": verdict.lights[m],
                "cells": cells,
            }
            for m, cells in lines.items()
        ]
        heads = [label(k, units.get(name, "")) for k in columns]
        blocks.append({"name": titles.get(name, name), "heads": heads, "rows": rows})
    return blocks


def comparisons(data: ReportData, table: Table) -> list[str]:
    """The most accurate method against each other one, paired by case: relative CRPS with interval and p-value."""
    best = most_accurate(table)
    lines = []
    for name in (f for f in table.fields if f != CASE and best is not None):
        for other in (m for m in table.methods if m != best and table.get(m, name, "crps") is not None):
            try:
                found = paired(data.rows, str(best), other, name, "crps")
            except ValueError:  # the two share no finite case: nothing to compare
                continue
            relative = found.relative
            interval = f" (95 % interval {relative.lower:+.0%} to {relative.upper:+.0%})" if relative.count > 1 else ""
            lines.append(
                f"CRPS of {name}: {data.method(str(best)).shown} against {data.method(other).shown} "
                f"{relative.mean:+.0%}{interval}, lower in {found.wins} of {relative.count} cases, "
                f"sign-flip p = {found.p_value:.2g}."
            )
    return lines


def _grouped(data: ReportData, found: Sequence[Doubt]) -> list[dict[str, object]]:
    groups = [("All methods", [d for d in found if d.method is None])]
    groups += [(m.shown, [d for d in found if d.method == m.name]) for m in data.methods]
    return [{"name": name, "found": tuple(items)} for name, items in groups if items]


def _facts(data: ReportData) -> list[tuple[str, str]]:
    source = data.provenance
    facts = [("id", source.id), ("wall time", f"{source.seconds:.1f} s")]
    facts += [(name.replace("_", " "), str(count)) for name, count in source.counts.items()]
    for kind, values in (("seed", source.seeds), ("hash", source.hashes), ("version", source.versions)):
        facts += [(f"{kind} of {name}", str(value)) for name, value in values.items()]
    return facts


def _config(data: ReportData) -> str:
    return json.dumps(data.provenance.config, indent=2, sort_keys=True, default=str, ensure_ascii=False)


def _plain(text: object) -> str:
    """Text that Markdown shows as it is."""
    shown = re.sub(r"([\\`*_\[\]|#])", r"\\\1", str(text)).replace("\n", " ")
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def markdown(data: ReportData) -> str:
    """Verdict, tables, doubts, provenance and re-run command as Markdown, without figures."""
    table = summarise(data.rows)
    found = find_doubts(data, table)
    verdict = find_verdict(data, found, table)
    out = [f"# {_plain(data.title)}", "", f"**{verdict.light}**: {_plain(verdict.text)}", "", _cases(data), ""]
    for block in _markdown_tables(data, table, verdict):
        out += [*block, ""]
    out += [f"- {_plain(line)}" for line in comparisons(data, table)] + ["", "## What to doubt", ""]
    for group in _grouped(data, found):
        out += [f"### {_plain(group['name'])}", ""]
        out += [f"- **{d.severity}** {_plain(d.text)}" for d in found if d in group["found"]] + [""]  # type: ignore[operator]
    out += ["## Where it comes from", "", _line(["what", "value"]), _line(["---", "---"])]
    out += [_line([_plain(a), _plain(b)]) for a, b in _facts(data)]
    fence = "`" * (3 + max((len(t) for t in re.findall("`+", _config(data) + data.provenance.command)), default=0))
    out += [
        "",
        f"{fence}json",
        _config(data),
        fence,
        "",
        "To run it again:",
        "",
        fence,
        data.provenance.command,
        fence,
        "",
    ]
    return "\n".join(out)


def _markdown_tables(data: ReportData, table: Table, verdict: Verdict) -> list[list[str]]:
    units = {f.name: f.units for f in data.fields}
    blocks = []
    for name in table.fields:
        columns, lines = grid(table, name)
        heads = ["method", "light", *(label(k, units.get(name, "")) for k in columns)]
        block = [f"## {_plain('whole case' if name == CASE else name)}", "", _line([_plain(h) for h in heads])]
        block.append(_line(["---"] * len(heads)))
        for method, cells in lines.items():
            texts = [
                f"**{c.mean}** {c.interval}".strip() if c.best else f"{c.mean} {c.interval}".strip() for c in cells
            ]
            block.append(_line([_plain(data.method(method).shown), verdict.lights[method], *texts]))
        blocks.append(block)
    return blocks


def finite_json(table: Table) -> str:
    """The table's records as JSON text without NaN, for `scores.json`."""
    return json.dumps(table.records(), indent=1, allow_nan=False, default=_number)


def _number(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")
