"""What a run reports: frozen data that tables, JSON and a user's script read alike."""

from __future__ import annotations

import msgspec

from dfmpc_onnx.evaluation.fidelity import Fidelity
from dfmpc_onnx.evaluation.island_times import TimeTable
from dfmpc_onnx.evaluation.kernel_census import Census
from dfmpc_onnx.evaluation.layer_errors import LayerErrors
from dfmpc_onnx.evaluation.provider_use import ProviderUse
from dfmpc_onnx.evaluation.time_trials import LatencyReport
from dfmpc_onnx.evaluation.verdict import Verdict
from dfmpc_onnx.inputs.normalization import PreprocessChoice
from dfmpc_onnx.pipeline.manager import PassResult, Refusal


class LayerReport(msgspec.Struct, frozen=True):
    """One layer with a weight.

    bits: width of its codes, 32 for float; of blocks of a codebook that of the index over how many it stands for.
    stored_bits: what each takes in the file, 1.6 for ternary codes five to a byte. role: low, high, 8-bit or float;
    where the recipe chose the bits by measured error, that of the width it chose. refused: why the layer is not
    quantized; None where it is. integer: whether it computes in integers. why: what decided its bits. refused_code:
    the code of `refused`, as in refusals. loss: the share of the output that its width costs, as measured before it
    was chosen; None where no measurement chose it. sqnr_db, error, own_error, own_share, amplification: of the tensor
    that it computes, as in `LayerError`; None where they were not measured. block: how many codes an index of a
    codebook stands for; 0 where each code is stored by itself.
    """

    name: str
    op: str
    bits: int | float
    role: str
    refused: str | None
    stored_bits: float
    ternary: bool
    integer: bool
    weights: int
    why: str
    refused_code: str | None = None
    loss: float | None = None
    sqnr_db: float | None = None
    error: float | None = None
    own_error: float | None = None
    own_share: float | None = None
    amplification: float | None = None
    block: int = 0


class PassReport(msgspec.Struct, frozen=True):
    """One pass: its result as data, and its wall-clock seconds."""

    name: str
    seconds: float
    result: PassResult


class Report(msgspec.Struct, frozen=True):
    """What `quantize` did. Sizes in bytes; mean_weight_bits: as `qdq.stored_bits.mean_bits`, over all layers.

    peak_bytes: the most memory that this process has held so far; None where the system does not tell. latency: what a
    limit on time came to; None where there was none, or nothing could be timed. verdict: what to think of the result;
    None where it was not compared. images: which of the user's gave the statistics; None where none were given. model:
    where the float model came from. output: where the result was written; None for memory. version: this package's.
    layer_errors: of the tensors inside; None where they were not asked for, or cannot be compared. max_seconds: the
    limit on the time of the run, None for none; cut_short: what was cut short to keep to it, in words.
    activation_widths: how many quantized activations there are of each number of bits.
    """

    recipe: str
    weights: str
    activations: str
    target: str
    preprocess: str
    preprocess_choice: PreprocessChoice
    seed: int
    opset: int
    oldest_onnxruntime: str
    float_bytes: int
    bytes: int
    mean_weight_bits: float
    layers: tuple[LayerReport, ...]
    refusals: tuple[Refusal, ...]
    warnings: tuple[str, ...]
    fidelity: Fidelity | None
    seconds: float
    passes: tuple[PassReport, ...]
    peak_bytes: int | None = None
    latency: LatencyReport | None = None
    verdict: Verdict | None = None
    images: str | None = None
    model: str = ""
    output: str | None = None
    version: str = ""
    layer_errors: LayerErrors | None = None
    max_seconds: float | None = None
    cut_short: tuple[str, ...] = ()
    activation_widths: dict[int, int] = {}

    def count(self, role: str) -> int:
        """How many layers have a role: low, high, 8-bit or float."""
        return sum(layer.role == role for layer in self.layers)

    @property
    def summary(self) -> str:
        """The run in a line."""
        times = self.float_bytes / max(self.bytes, 1)
        sqnr = f", SQNR {self.fidelity.sqnr_db} dB" if self.fidelity is not None else ""
        size = f"{self.float_bytes} -> {self.bytes} bytes, {times:.2f}x smaller"
        return f"recipe {self.recipe}, {len(self.layers)} layers, {size}{sqnr}"

    def __repr__(self) -> str:
        return f"Report({self.summary})"


class Expansion(msgspec.Struct, frozen=True):
    """What `expand` did: the layers whose weights it unpacked, sizes in bytes, and what the plain file declares."""

    layers: tuple[str, ...]
    packed_bytes: int
    bytes: int
    opset: int
    ir_version: int
    oldest_onnxruntime: str


class RecipeForecast(msgspec.Struct, frozen=True):
    """What a recipe would do to a model: layers by role, and the bytes of its packed weights.

    weight_bytes counts codes alone, neither scales nor biases nor the graph. auto: layers whose width the recipe
    chooses while it runs; counted at the most that it may choose, and 2 bits as four levels where it may find them
    ternary. bits: of each layer, "ternary", "float" or "auto" where that is not a number.
    """

    recipe: str
    weights: str
    activations: str
    low: int
    high: int
    eight_bit: int
    auto: int
    float: int
    weight_bytes: int
    bits: dict[str, str] = {}


class InspectedLayer(msgspec.Struct, frozen=True):
    """One layer of a model not yet quantized.

    role: its place where layers get two widths (--weights LOW/HIGH, and recipes with such weights). refused: why it
    stays in float; not_low: why it cannot be low. repaired_in: the layer that repairs a low one, the first where
    several do; also_repaired_in: the others. refused_code, not_low_code: the codes of both reasons.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    weights: int
    role: str
    repaired_in: str | None
    refused: str | None
    not_low: str | None
    also_repaired_in: tuple[str, ...] = ()
    refused_code: str | None = None
    not_low_code: str | None = None


class QuantizedLayer(msgspec.Struct, frozen=True):
    """One layer of a file that holds quantized layers.

    stored_bits: what each weight takes there, scales left out; 32 or 16 for a float one. coded: whether the file holds
    codes for it. integer: whether onnxruntime computes it in integers; None where that is not known. pair_sum: how far
    from zero two neighbouring codes of one sign reach at most; over 128, processors without VNNI cut sums of their
    products with uint8 activations. None where no two products are added in 16 bits.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    weights: int
    stored_bits: float
    coded: bool
    integer: bool | None
    pair_sum: int | None = None


class Inspection(msgspec.Struct, frozen=True):
    """What `inspect` found in a model.

    Of a quantized one: census, what onnxruntime makes of it; quantized_layers, the layers as the file holds them;
    mean_weight_bits, as in `Report`. `layers` and `recipes` are then those of what is still float, if anything.
    latency: where the time of a run goes; None where that was not asked for, or could not be measured.
    """

    model: str
    bytes: int
    opset: int
    ir_version: int
    producer: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: dict[str, str]
    layers: tuple[InspectedLayer, ...]
    notes: tuple[str, ...]
    recipes: tuple[RecipeForecast, ...]
    census: Census | None = None
    quantized_layers: tuple[QuantizedLayer, ...] = ()
    mean_weight_bits: float | None = None
    latency: TimeTable | None = None

    def __repr__(self) -> str:
        layers = len(self.quantized_layers) or len(self.layers)
        state = "quantized" if self.quantized_layers else "float"
        return f"Inspection({self.model}, {self.bytes} bytes, {state}, {layers} layers)"


class ProviderFidelity(msgspec.Struct, frozen=True):
    """A quantized file on one provider. use: how it was used there, None for the CPU's. verdict: by `fidelity`."""

    provider: str
    fidelity: Fidelity
    use: ProviderUse | None = None
    verdict: Verdict | None = None


class Verification(msgspec.Struct, frozen=True):
    """What `verify` measured, by provider; bytes of both files, where they and the images came from, this version.

    layer_errors: of the tensors inside; None where they were not asked for, or cannot be compared.
    """

    float_bytes: int
    bytes: int
    preprocess: str
    preprocess_choice: PreprocessChoice
    warnings: tuple[str, ...]
    providers: tuple[ProviderFidelity, ...]
    model: str = ""
    quantized: str = ""
    images: str | None = None
    version: str = ""
    layer_errors: LayerErrors | None = None

    def __repr__(self) -> str:
        each = ", ".join(f"{row.provider} SQNR {row.fidelity.sqnr_db} dB" for row in self.providers)
        return f"Verification({each}, {self.float_bytes} -> {self.bytes} bytes)"

    @property
    def verdict(self) -> Verdict | None:
        """That of the provider on which least is left."""
        found = [row.verdict for row in self.providers if row.verdict is not None]
        return min(found, key=lambda verdict: verdict.sqnr_db or 0.0, default=None)
