"""What may be said of a target: one frozen description, and where each of its rules comes from."""

from __future__ import annotations

from typing import Literal

import msgspec

Activations = Literal["2", "3", "4", "5", "6", "7", "8", "16", "auto", "none"]
LEAST_INTEGER_BITS = 8  # of activations that a runtime has integer kernels for
LAYER_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class RuleSource(msgspec.Struct, frozen=True):
    """Where rules come from.

    rules: the fields of `Target` that it is the source of. title: of the page, or what was measured, with versions.
    url: of the page; empty where we measured.
    """

    rules: tuple[str, ...]
    title: str
    url: str = ""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One way to write a file, as what runs it wants it. The fields from `activations` on are its rules.

    name: as `--target` takes it. summary: in a few words. takes: what the file is for. ran: where such files were run,
    with versions. not_run: where not; empty where that would say nothing. sources: of the rules, each of which has one.

    activations: their bits where nobody asks for others; "none" where the runtime has no integer kernels for them.
    activation_bits: the widths that may be asked for. activation_type: uint8 with any zero point, or int8 with zero
    point 0. scales: any float, or powers of two alone. per_channel: the operators whose weights may have a scale a
    channel; those of others have one for all. bias: int32 at the scale of the products; float; or int8 at a scale of
    its own. pairs_in_16_bits: whether kernels for some of its processors add two products of uint8 and int8 in 16 bits,
    which codes are then kept from leaving. between: whether operators between layers have integer kernels of their own,
    so that every tensor on the way is quantized; else only what layers read. fused_sums: whether a sum is computed
    within the Conv that ends one of its branches, so that the other branch is quantized and the output of that Conv is
    not. float_operators: that are never quantized. spatial_dimensions: of a Conv that has an integer kernel.
    all_quantized: whether every operator that can be is to be quantized, because a float one would leave the device.
    may_leave_device: whether it may all the same where its codes cost the output too much. every_operator: whether
    that means more than the CPU provider has integer kernels for, outputs included. fixed_scales: the operators whose
    output has the scale of its own bounds, a power of two. operators: that its runtime takes; empty where it takes all
    that onnxruntime does. weight_zero_points: whether few bits may have them. quantizers: QuantizeLinear and
    DequantizeLinear, or nodes of QONNX. storage: of weights, packed in as few bits as the opset has types or tables
    for, or plain int8. float_type: of what is not quantized. static_shapes: whether every dimension must be known.
    lowest_opset, highest_opset: that its runtimes load. newest_opset: whose types weights may be stored in.
    """

    name: str
    summary: str
    takes: str
    ran: str
    not_run: str = ""
    sources: tuple[RuleSource, ...]
    activations: Activations = "8"
    activation_bits: tuple[int, ...] = (8,)
    activation_type: Literal["uint8", "int8"] = "uint8"
    scales: Literal["free", "power-of-two"] = "free"
    per_channel: tuple[str, ...] = LAYER_OPERATORS
    bias: Literal["int32", "float", "int8"] = "int32"
    pairs_in_16_bits: bool = False
    between: bool = True
    fused_sums: bool = False
    float_operators: tuple[str, ...] = ("ConvTranspose",)
    spatial_dimensions: tuple[int, ...] = (2,)
    all_quantized: bool = False
    fixed_scales: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    weight_zero_points: bool = True
    quantizers: Literal["qdq", "qonnx"] = "qdq"
    may_leave_device: bool = False
    every_operator: bool = False
    storage: Literal["packed", "int8"] = "packed"
    float_type: Literal["float32", "float16"] = "float32"
    static_shapes: bool = False
    lowest_opset: int = 13
    newest_opset: int = 25
    highest_opset: int = 26

    @property
    def signed(self) -> bool:
        """Whether activations are int8 with zero point 0."""
        return self.activation_type == "int8"

    @property
    def keeps_costly_floats(self) -> bool:
        """Whether what 8 bits would cost too much may stay in float."""
        return not self.all_quantized or self.may_leave_device

    @property
    def packing_opset(self) -> int:
        """The opset whose types and tables weights may be stored in; 0, which has none, where they are plain int8."""
        return self.newest_opset if self.storage == "packed" else 0


def with_few_bits(target: Target) -> Target:
    """The rules of a target where activations have fewer bits than its integer kernels take.

    Then floats are computed between: what a layer reads is rounded, and nothing else; biases stay in float, and no
    kernel adds products in 16 bits.
    """
    return msgspec.structs.replace(target, between=False, fused_sums=False, bias="float", pairs_in_16_bits=False)


NO_RULES = frozenset({"name", "summary", "takes", "ran", "not_run", "sources"})
RULES = tuple(field.name for field in msgspec.structs.fields(Target) if field.name not in NO_RULES)


def without_source(target: Target) -> list[str]:
    """The rules of a target that nobody has said the source of, in order."""
    stated = {rule for source in target.sources for rule in source.rules}
    return [rule for rule in RULES if rule not in stated]


def sources_with(target: Target, *own: RuleSource) -> tuple[RuleSource, ...]:
    """The sources of a target that resembles another: its own ones, and the other's for all rules that they leave."""
    said = {rule for source in own for rule in source.rules}
    left = (
        RuleSource(tuple(rule for rule in source.rules if rule not in said), source.title, source.url)
        for source in target.sources
    )
    return (*own, *(source for source in left if source.rules))
