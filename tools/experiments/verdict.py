#!/usr/bin/env python3
"""How often the interval of the verdict holds: agreement with the float network on real images, row by row.

    python -m tools.experiments.verdict [--only NETWORK] [--setting NAME] [--rows FILE.json] > docs/tables/verdict.md

For each network and setting: what `quantize` says without images, what it says with a few dozen real ones, and the
agreement on all real images that are at hand. Each interval is made with the law of the other networks alone, so that
no network judges itself. At the end, the laws of all networks together, which `evaluation/verdict.py` holds, and the
share of rows whose agreement lies in the interval. Networks as in `tools.experiments.measure`.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence

import msgspec

import dfmpc_onnx
from dfmpc_onnx.evaluation.fidelity import Fidelity
from dfmpc_onnx.numerics.changed_answers import ErrorLaw, changed_share
from tools.experiments.measure import Network, Row, folded_twins, networks

SETTINGS = {
    "int8": ("int8", None, None),
    "mixed": ("mixed", None, None),
    "int4": ("int4", None, None),
    "mixed 4": ("mixed", "4", "none"),
    "mixed 2/6": ("mixed", "2/6", "none"),
    "closed-form 4": ("closed-form", "4", "none"),
}
A_FEW = 24  # images of the user's
RUINED = 2.0  # tangent, beyond which nothing is left that a law could be fitted to


class Measured(msgspec.Struct):
    """One network in one setting. tangents and counts: on generated inputs, on a few real ones, on all real ones."""

    network: str
    setting: str
    sqnr_db: float
    generated: float
    few: float
    few_changed: int
    few_rows: int
    real: float
    changed: int
    rows: int

    @property
    def agreement(self) -> float:
        return 1 - self.changed / self.rows

    @property
    def log_odds(self) -> float:
        """Of a change, with half a change more of either kind, since none of a thousand does not mean never."""
        return math.log10((self.changed + 0.5) / (self.rows - self.changed + 0.5))


def measured(name: str, network: Network, setting: str) -> Measured:
    """Quantize and compare."""
    row = Row(name, *SETTINGS[setting])
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.onnx"
        made = dfmpc_onnx.quantize(
            str(network.model),
            out,
            row.recipe,
            weights=row.weights,
            activations=row.activations,
            preprocess=network.preprocess,
        )
        few, real = (
            dfmpc_onnx.verify(str(network.model), out, images=network.images, count=count).providers[0].fidelity
            for count in (A_FEW, None)
        )
    return Measured(
        name,
        setting,
        made.report.fidelity.sqnr_db if made.report.fidelity else 0.0,
        _tangent(made.report.fidelity),
        _tangent(few),
        few.rows - few.agreeing,
        few.rows,
        _tangent(real),
        real.rows - real.agreeing,
        real.rows,
    )


def _tangent(found: Fidelity | None) -> float:
    assert found is not None and found.tangent is not None  # these networks are classifiers
    return found.tangent


def family(row: Measured) -> str:
    """A network and its folded twin are one."""
    return row.network.removesuffix("folded")


def law(rows: Sequence[Measured], tangent: Callable[[Measured], float]) -> ErrorLaw:
    """The law of some networks: deviation between networks, for one more, and within."""
    by_network: dict[str, list[float]] = {}
    for row in rows:
        if tangent(row) < RUINED:
            by_network.setdefault(family(row), []).append(row.log_odds - math.log10(tangent(row)))
    means = [statistics.fmean(values) for values in by_network.values()]
    within = statistics.fmean(statistics.variance(values) for values in by_network.values() if len(values) > 1)
    between = statistics.variance(means) * (1 + 1 / len(means))
    return ErrorLaw(statistics.fmean(means), math.sqrt(between + within), len(means) - 1)


def interval(share: tuple[float, float, float]) -> tuple[float, float]:
    """Of agreement, from the share that changes; outwards to a tenth of a per cent, as it is printed."""
    return math.floor(1000 * (1 - share[2])) / 1000, math.ceil(1000 * (1 - share[0])) / 1000


def table(rows: Sequence[Measured]) -> list[str]:
    """The rows, each judged by the other networks, and how often the intervals hold."""
    lines = ["| network | setting | SQNR dB | real agreement % | without images | with a few |", "|" + "---|" * 6]
    held: list[list[bool]] = [[], []]
    for row in rows:
        others = [other for other in rows if family(other) != family(row)]
        found = [
            interval(changed_share(law(others, _generated), row.generated)),
            interval(changed_share(law(others, _real), row.few, row.few_changed, row.few_rows)),
        ]
        cells = []
        for hits, (low, high) in zip(held, found, strict=True):
            hits.append(low <= row.agreement <= high)
            cells.append(f"{100 * low:.1f} to {100 * high:.1f}{'' if hits[-1] else ' (missed)'}")
        figures = (row.network, row.setting, f"{row.sqnr_db:.1f}", f"{100 * row.agreement:.1f}", *cells)
        lines.append(f"| {' | '.join(figures)} |")
    lines.append("")
    for kind, hits in zip(("without images", f"with {A_FEW} images"), held, strict=True):
        lines.append(
            f"- {kind}: {sum(hits)} of {len(hits)} rows lie in the interval ({100 * statistics.fmean(hits):.0f} %)"
        )
    for kind, fitted in (("generated inputs", law(rows, _generated)), ("images", law(rows, _real))):
        lines.append(
            f"- law of {kind}: mean {fitted.mean:.2f}, deviation {fitted.deviation:.2f}, freedom {fitted.freedom}"
        )
    return lines


def _generated(row: Measured) -> float:
    return row.generated


def _real(row: Measured) -> float:
    return row.real


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {**networks(), **folded_twins()}
    parser.add_argument("--only", action="append", choices=list(known), help="a network; may be repeated")
    parser.add_argument("--setting", action="append", choices=list(SETTINGS), help="may be repeated")
    parser.add_argument("--rows", type=pathlib.Path, help="keep rows in this file, and measure only those not in it")
    args = parser.parse_args()
    rows = msgspec.json.decode(args.rows.read_bytes(), type=list[Measured]) if args.rows and args.rows.exists() else []
    done = {(row.network, row.setting) for row in rows}
    for setting in args.setting or SETTINGS:
        for name in args.only or known:
            if (name, setting) in done:
                continue
            rows.append(measured(name, known[name], setting))
            print(json.dumps(msgspec.to_builtins(rows[-1])), file=sys.stderr, flush=True)
            if args.rows:
                args.rows.write_bytes(msgspec.json.encode(rows))
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
