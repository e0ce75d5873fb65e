"""What an HTML report is made of: all that was measured, before it becomes charts and sentences."""

from __future__ import annotations

from typing import Literal

import msgspec

from dfmpc_onnx.evaluation.activation_ranges import ActivationRange
from dfmpc_onnx.evaluation.diagnosis.schema import Diagnosis
from dfmpc_onnx.evaluation.fidelity import Fidelity
from dfmpc_onnx.evaluation.island_times import TimeTable
from dfmpc_onnx.evaluation.verdict import Verdict
from dfmpc_onnx.evaluation.weight_grids import WeightGrid
from dfmpc_onnx.pipeline.manager import Refusal
from dfmpc_onnx.qdq.stored_bytes import Content


class FileFacts(msgspec.Struct, frozen=True):
    """A file of a report: where it lies, or "" for a model in memory; its bytes, and what these hold."""

    label: str
    path: str
    bytes: int
    contents: dict[Content, int]


class WidthStep(msgspec.Struct, frozen=True):
    """Another width of a layer, by the table that its bits were planned from. bits: as `PageLayer` has them. loss: the
    share of the output's power that it adds as error; bytes: what the file grows by."""

    bits: str
    loss: float
    bytes: int


class PageLayer(msgspec.Struct, frozen=True):
    """A layer with a weight, as the quantized file holds it.

    bits: the width of its codes, "ternary" or "float". stored_bits: what a weight takes in the file. role: low, high,
    8-bit or float. computes: "integers", "float", or "" where that is not known. why: what decided its bits, or why it
    is float. planned: the share of the output's power that its width was measured to add as error before it was chosen;
    None where nothing measured it. less, more: the next smaller and the next larger width; None where there is none, or
    nothing measured it. alike: all layers that read its weight, itself among them. block: of a codebook, how many
    weights an index stands for, else 0. place: its place among `ReportPage.places`, from 1; None where it has none.
    """

    name: str
    op: str
    weights: int
    bits: str
    stored_bits: float
    role: str
    computes: str
    why: str = ""
    planned: float | None = None
    place: int | None = None
    less: WidthStep | None = None
    more: WidthStep | None = None
    alike: tuple[str, ...] = ()
    block: int = 0


class Place(msgspec.Struct, frozen=True):
    """Where an error may enter: a layer, or a tensor between layers that is rounded, such as a sum.

    name: of the layer or tensor. op: what computes it. bits: of a layer. sqnr_db: signal over noise behind it, with all
    that went wrong in front of it. added: the power of the error made here, beside the signal here, as a share of what
    all places make; None where no tensor behind it stands in both files. tensor: what was compared, by its name in both
    files. effect: what it costs the output, as `ReportPage.effect_by` says; None where that was not measured.
    """

    name: str
    op: str
    bits: str = ""
    weights: int = 0
    sqnr_db: float | None = None
    added: float | None = None
    tensor: str = ""
    effect: float | None = None


class RunTimes(msgspec.Struct, frozen=True):
    """Milliseconds of a run of both files on this machine, with how many threads, and where those of the quantized one
    go; fed: what was fed."""

    float_ms: float
    quantized_ms: float
    threads: int
    table: TimeTable | None = None
    fed: str = ""


class ShownImages(msgspec.Struct, frozen=True):
    """Inputs that both files ran on. origin: what they are. pictures: data addresses of PNG pictures; note: why there
    are none, or which these are."""

    origin: str
    pictures: tuple[str, ...] = ()
    note: str = ""


class ReportPage(msgspec.Struct, frozen=True):
    """All that one report says.

    made: how the quantized file was made, as keys and values. places: from input to output. drawn: the grids of the
    layers that lose most. diagnosis: what causes the loss, and what was tried. untold: what could not be found out, and
    why, by the anchor of the section. effect_by: what measured `Place.effect`: "plan", the share of the output's power
    that the bits of its weights add; "blame", the share of the outputs' error that goes away where it is restored to
    float; or "", nothing. command: the command line that this is from, "" where a script called; date: when, UTC;
    machine: where, with `processor`. plan_options: those by which `plan` gives
    the bits again, and those by which `quantize` makes the file of that plan; "" each where the run did not plan them,
    or under a limit of the user's. plan_file: the plan that stated the bits, if one did.
    """

    float_file: FileFacts
    quantized_file: FileFacts
    verdict: Verdict | None
    fidelity: Fidelity | None
    warnings: tuple[str, ...]
    made: tuple[tuple[str, str], ...]
    layers: tuple[PageLayer, ...]
    places: tuple[Place, ...]
    mean_bits: float
    drawn: tuple[WeightGrid, ...]
    ranges: tuple[ActivationRange, ...]
    times: RunTimes | None
    refusals: tuple[Refusal, ...]
    images: ShownImages
    version: str
    diagnosis: Diagnosis | None = None
    untold: dict[str, str] = {}
    effect_by: Literal["plan", "blame", ""] = ""
    command: str = ""
    date: str = ""
    machine: str = ""
    processor: str = ""
    plan_options: tuple[str, str] = ("", "")
    plan_file: str = ""


class QuantizedFile(msgspec.Struct, frozen=True):
    """One of several quantized files of a network. letter: what stands for it in charts. ms: of a run on this machine;
    None where it was not timed. bits: of each layer by name, as `PageLayer` has them."""

    letter: str
    label: str
    bytes: int
    mean_bits: float | None
    verdict: Verdict | None
    fidelity: Fidelity
    ms: float | None
    bits: dict[str, str]
    warnings: tuple[str, ...] = ()


class Comparison(msgspec.Struct, frozen=True):
    """Several quantized files of one network side by side. front: the letters of those that no other is both smaller
    and nearer to the float network than. threads: with how many the runs were timed."""

    float_label: str
    float_bytes: int
    float_ms: float | None
    files: tuple[QuantizedFile, ...]
    front: tuple[str, ...]
    origin: str
    threads: int
    warnings: tuple[str, ...]
    version: str = ""
