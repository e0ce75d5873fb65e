"""What quantize() returns: the model, and the report on it in the forms that a script or a notebook wants."""

from __future__ import annotations

import dataclasses
import html
import os
import pathlib
from typing import Any

import msgspec
import onnx

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.evaluation.verdict import Verdict
from dfmpc_onnx.model.write import check_target, save
from dfmpc_onnx.report.json_text import report_json
from dfmpc_onnx.report.layer_groups import grouped_layers
from dfmpc_onnx.report.schema import Report


@dataclasses.dataclass(frozen=True, repr=False)
class Quantized:
    """A quantized model, and the report on how it was made."""

    model: onnx.ModelProto
    report: Report

    @property
    def verdict(self) -> Verdict | None:
        """How much of the float network is left; None where nothing was compared."""
        return self.report.verdict

    @property
    def layers(self) -> list[dict[str, Any]]:
        """A row for each layer, as ``pandas.DataFrame`` takes them: the fields of `LayerReport`."""
        return [msgspec.to_builtins(layer) for layer in self.report.layers]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dictionaries and lists: what ``--json`` prints."""
        found: dict[str, Any] = msgspec.json.decode(report_json(self.report))
        return found

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> int:
        """Write the model, whole or not at all; returns the bytes written.

        force: over a file that is no ONNX model, too. Raises OptionError where nothing can be written there, and for
        the float model's own file.
        """
        target, source = check_target(path, None, force=force), pathlib.Path(self.report.model)
        if target.exists() and source.exists() and target.samefile(source):
            raise OptionError(f"{shown(str(target))}: is the input itself; choose another output")
        return save(self.model, target, external=False)

    def __repr__(self) -> str:
        return f"Quantized({self.report.summary})"

    def _repr_html_(self) -> str:
        """A notebook's view: the summary, and a row for each group of like layers."""
        columns = ("layer", "op", "bits", "loss %", "computes in")
        head = "".join(f"<th>{column}</th>" for column in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in (
                (group.name, group.op, group.bits, group.loss, group.computes)
                for group in grouped_layers(self.report.layers)
            )
        )
        return f"<p>{html.escape(self.report.summary)}</p><table><tr>{head}</tr>{body}</table>"
