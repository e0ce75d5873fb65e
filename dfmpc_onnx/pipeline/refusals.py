"""Why a site was left as it was: a sentence for people, and a code that stays the same for programs."""

from __future__ import annotations

import dataclasses

import msgspec

REFUSAL_CODES = {
    # of a layer that stays in float
    "computed-weight": "the weight is computed by nodes, handed in by the caller, or quantized already",
    "constant-input": "the input of the layer is a constant, so nothing flows through it",
    "weight-type": "the weight is of a type other than float32",
    "weight-shape": "the weight has too few or too many dimensions, or an empty one",
    "gate-cannot-move": "a hard gate with nothing in front that takes its factor, or whose argument others read",
    "gate-not-equalized": "a gate whose argument others read, or behind which not all can take a factor a channel back",
    "grouped-conv-transpose": "the output channels of a grouped ConvTranspose lie along no axis of its weight",
    "transposed-input": "a Gemm that transposes its input",
    "nested-layer": "the layer lies within control flow or a function, which no pass enters",
    "asked-for-float": "the user asked for it with --layer",
    "planned-float": "a plan of bits leaves it in float",
    "codes-cost-more": "codes, scales and the nodes that decode them take more bytes than the floats",
    # of a layer that is quantized, but cannot get the few bits of two widths
    "not-a-conv": "only the error of a Conv can be repaired in the next layer",
    "first-layer": "nothing in front of the first layer is normalized",
    "depthwise-conv": "the few weights of a depthwise Conv leave nothing to average over",
    "grouped-conv": "a Conv of several groups",
    "computed-bias": "the bias is computed, so the statistics without it are not known",
    "joined-1x1-conv": "a 1x1 Conv whose output is joined to others repairs the wider ones in front of it",
    "no-chain": "what follows the layer is not the chain to a next layer that could repair it",
    "channels-differ": "a BatchNormalization that reads the layer has another number of channels",
    "repairs-a-low-layer": "the layer repairs another that gets few bits",
    "next-layer-is-low": "the layer that would repair this one gets few bits itself",
    "next-layer-unfit": "the layer that would repair this one cannot be quantized, or its weight is computed",
    "no-batch-norm": "no BatchNormalization behind the layer, and the recipe measures nothing on images",
    # of a layer with integer weights that computes in float
    "no-integer-kernel": "onnxruntime has no fast integer kernel for the operator",
    "float-activation": "its input or output stays in float, since its 8 bits cost the output too much",
    "range-unknown": "the range of the input or output is not known",
    "scaled-product": "a Gemm whose alpha or beta is not 1",
    "bias-too-large": "the bias does not fit int32 at the scale of the products",
    "noisy-input": "rounding its input would make most of the noise",
    "output-layer": "the values of the layer go to the outputs, no sample bounds them, and float costs next to nothing",
    "whole-map": "the layer reads averages over whole maps, errs alike at every position, and costs little in float",
    "slower-in-integers": "integers, and the steps to and from them, would make the layer slower; it stays in float",
    "codes-too-wide": "the codes less their zero points do not fit the integer type",
    # of an operator that the target does not take
    "operator-not-taken": "what the target runs on does not take the operator; the processor runs it",
    # of an operator that stays in float32 where float16 was wanted
    "no-float16": "the operator has no float16 form, or carries control flow",
    "float16-range": "values of the operator do not fit float16, or their range is not known",
    # of a layer that was quantized in a simpler way
    "rounded-to-nearest": "each weight was rounded by itself; the layer repairs nothing",
    "codes-stored-again": "its weight is in the file in another form too: other codes, or as floats",
    "bias-not-constant": "the bias is not one constant a channel, so the mean of the output is not corrected",
    # of a BatchNormalization
    "computed-parameters": "the parameters of the BatchNormalization are computed",
    "no-layer-in-front": "no layer stands alone in front of the BatchNormalization",
    "scale-cannot-move": "the layer in front of the BatchNormalization cannot take its scale",
    "not-a-map": "the input of the BatchNormalization is no map of two dimensions",
    "input-type": "the input of the BatchNormalization is of another type than float32",
    "no-integer-reader": "no layer that computes in integers reads the BatchNormalization",
    "joined-to-unscaled": "the channels are joined to others that are not scaled",
    # of a tensor
    "moments-unknown": "mean and variance of the tensor do not follow from what is known",
    "costly-activation": "the 8 bits of the activation cost the output too much; it stays in float",
    # of the whole model
    "functions-kept": "functions of the model's own stay calls",
    "opset-kept": "the opset cannot be converted",
    "opset-too-old": "the opset has no DequantizeLinear with an axis",
    "half-precision-kept": "the network cannot be computed in float32",
    "outputs-not-comparable": "the outputs cannot be measured, or differ from run to run",
    "covariances-unknown": "covariance functions cannot be followed through the network",
}
NOT_LOW = frozenset(
    {
        "not-a-conv",
        "first-layer",
        "depthwise-conv",
        "grouped-conv",
        "computed-bias",
        "joined-1x1-conv",
        "no-chain",
        "channels-differ",
        "repairs-a-low-layer",
        "next-layer-is-low",
        "next-layer-unfit",
        "no-batch-norm",
    }
)
UNSTATED = "unstated"  # of passes that give none


@dataclasses.dataclass(frozen=True)
class Reason:
    """code: one of REFUSAL_CODES, or of another package's pass. text: the sentence, with the names of the case."""

    code: str
    text: str

    def __str__(self) -> str:
        return self.text


class Refusal(msgspec.Struct, frozen=True):
    """One site that a pass left alone, and why.

    site: a node, a tensor, or "model". reason: the sentence. code: as in Reason. by: the pass, which the manager fills
    in; "pass" in JSON.
    """

    site: str
    reason: str
    code: str = UNSTATED
    by: str = msgspec.field(default="", name="pass")

    @classmethod
    def of(cls, site: str, reason: Reason) -> Refusal:
        return cls(site, reason.text, reason.code)
