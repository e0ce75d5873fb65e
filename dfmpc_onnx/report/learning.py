"""How images were learned: the data, and the lines that a terminal shows."""

from __future__ import annotations

import msgspec
from rich.console import Console

from dfmpc_onnx.errors import printable
from dfmpc_onnx.inputs.learned_file import LearnedRecord
from dfmpc_onnx.report.tables import table


class LayerDistance(msgspec.Struct, frozen=True):
    """How far mean and deviation of a BatchNormalization's input are off what it measured in training: in deviations,
    the two added, averaged over the channels; before and after learning."""

    name: str
    before: float
    after: float


class LearningReport(msgspec.Struct, frozen=True):
    """What learning did.

    record: what stands in the file. images: how many, and of which shape. device: cpu or cuda. losses: before each
    step, averaged over the batches. layers: what was matched. output: the file; None for memory only.
    """

    record: LearnedRecord
    images: tuple[int, ...]
    device: str
    losses: tuple[float, ...]
    layers: tuple[LayerDistance, ...]
    seconds: float = 0.0
    output: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def distance(self) -> tuple[float, float]:
        """The mean over the layers, before and after."""
        count = len(self.layers)
        return sum(layer.before for layer in self.layers) / count, sum(layer.after for layer in self.layers) / count


def learning_table(report: LearningReport, console: Console) -> None:
    """What a run of `images --learn` shows."""
    record, (before, after) = report.record, report.distance
    rows = table("", "")
    rows.show_header = False
    size = "x".join(map(str, report.images[1:]))
    rows.add_row("images", f"{report.images[0]} of {size}, preprocess {printable(record.preprocess)}")
    start = "noise" if record.start == "noise" else f"{record.start} images"
    rows.add_row("learned", f"{record.objective} from {start}, {record.steps} steps, seed {record.seed}")
    rows.add_row("on", report.device)
    rows.add_row("loss", f"{report.losses[0]:.4g} before, {report.losses[-1]:.4g} at the last step")
    what = "BatchNormalization" if len(report.layers) == 1 else "BatchNormalizations"
    rows.add_row("distance", f"{before:.3f} to {after:.3f} deviations, over {len(report.layers)} {what}")
    rows.add_row("time", f"{report.seconds:.1f} s")
    if report.output is not None:
        rows.add_row("file", printable(report.output))
    console.print(rows)
    console.print("Learned, not real: take statistics from them, and judge files by real pictures.", soft_wrap=True)
