#!/usr/bin/env python3
"""The figures of the documents, drawn from the tables of measured rows beside them.

python -m tools.figures            writes docs/figures/*.svg; needs the extra `docs` (matplotlib)

size_against_accuracy: docs/tables/peers.md, sizes of float files from docs/tables/measured.md
readings: docs/tables/readings.md
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

TABLES = pathlib.Path("docs/tables")
FIGURES = pathlib.Path("docs/figures")
TOOLS = {  # setting in the table: label, colour, marker
    "onnxruntime static, random inputs": ("onnxruntime static, random inputs", "#c44e52", "x"),
    "onnxruntime static, 32 real images": ("onnxruntime static, 32 real images", "#8c8c8c", "s"),
    "onnxruntime dynamic": ("onnxruntime dynamic", "#ccb974", "^"),
    "ours, int8": ("ours, int8, no data", "#4c72b0", "o"),
    "ours, mixed": ("ours, default, no data", "#55a868", "D"),
}
LINEAR_UP_TO = 3.0  # points of top-1; beyond, the axis is logarithmic


def rows(name: str, folder: pathlib.Path = TABLES) -> list[dict[str, str]]:
    """The rows of a table as mappings from its header."""
    lines = (folder / f"{name}.md").read_text(encoding="utf-8").splitlines()
    header, _, *body = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines)
    return [dict(zip(header, cells, strict=True)) for cells in body]


def sizes_and_drops(folder: pathlib.Path = TABLES) -> dict[str, list[tuple[float, float, str]]]:
    """For each setting of `TOOLS` its points: per cent of the float file, points of top-1 lost, network."""
    float_bytes = {row["network"]: 1e6 * float(row["FP32 MB"]) for row in rows("measured", folder)}
    found: dict[str, list[tuple[float, float, str]]] = {setting: [] for setting in TOOLS}
    for row in rows("peers", folder):
        if row["setting"] in found:
            size = 100 * int(row["bytes"]) / float_bytes[row["network"]]
            found[row["setting"]].append((size, float(row["drop"]), row["network"]))
    return found


def draw_sizes(axes: Any) -> None:
    for setting, points in sizes_and_drops().items():
        label, colour, marker = TOOLS[setting]
        x, y, _ = zip(*points, strict=True)
        axes.scatter(x, y, s=34, c=colour, marker=marker, label=label, alpha=0.9)
    axes.axhline(0, color="#444444", linewidth=0.8)
    axes.set_yscale("symlog", linthresh=LINEAR_UP_TO, linscale=1.4)
    axes.set_ylim(100, -2.2)
    axes.set_yticks([-2, -1, 0, 1, 2, 3, 10, 30, 77], ["-2", "-1", "0", "1", "2", "3", "10", "30", "77"])
    axes.set_xlim(0, 36)
    axes.set_xlabel("size of the file, % of the float model")
    axes.set_ylabel("top-1 lost, points (above 0: gained)")
    axes.set_title("Nine trained networks: smaller is left, better is up", fontsize=10, loc="left")
    axes.legend(fontsize=8, loc="lower left", frameon=False)


def draw_readings(axes: Any) -> None:
    table = rows("readings")
    first, *columns = table[0]
    labels = [row[first] for row in table]
    height = 0.8 / len(columns)
    for index, column in enumerate(columns):
        places = [place + index * height for place in range(len(table))]
        axes.barh(places, [float(row[column]) for row in table], height, label=column.replace("`", ""))
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(table))], labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("top-1 at ternary/6, %")
    axes.legend(fontsize=7, loc="upper right", frameon=False)


DRAWN: dict[str, tuple[Callable[[Any], None], tuple[float, float]]] = {
    "size_against_accuracy": (draw_sizes, (7.2, 3.9)),
    "readings": (draw_readings, (7.2, 4.6)),
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "dfmpc-onnx"  # the same bytes from the same rows
    from matplotlib import pyplot

    FIGURES.mkdir(exist_ok=True)
    for name, (draw, inches) in DRAWN.items():
        figure, axes = pyplot.subplots(figsize=inches, layout="constrained")
        axes.grid(color="#e5e5e5", linewidth=0.6)
        axes.set_axisbelow(True)
        draw(axes)
        figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None})
        pyplot.close(figure)


if __name__ == "__main__":
    main()
