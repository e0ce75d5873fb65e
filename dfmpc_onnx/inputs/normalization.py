"""Which input normalization a network was trained with, judged by what its first BatchNormalizations measured.

A BatchNormalization holds mean and variance of its input over the training data. Under the right normalization,
images with the statistics of photographs give about the same; under another one they are off by its scale and offset.
So the part of the network in front is run on a few procedural images under each usual normalization, or followed by
covariance functions where no image is to be made, and each is judged by `numerics.moment_match`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import onnx

from dfmpc_onnx.errors import ModelError, Unknown, shown
from dfmpc_onnx.inputs.preprocess import AUTO, Preprocess
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.model.leading_norms import FirstNorms, first_norms
from dfmpc_onnx.numerics.moment_match import mismatch, shares
from dfmpc_onnx.numerics.moments import MeanVariance

# keras stands for lite too, which differs from it by under 1 %; imagenet for other data sets' own mean and deviation.
CANDIDATES = ("imagenet", "keras", "unit", "half", "raw", "caffe")
TWINS: Mapping[str, str] = {"keras": "lite"}
ASSUMED = "imagenet"  # what it makes of photographs has mean 0 and variance 1
NOTHING_FITS = 2.0  # mean mismatch; the variance is off fivefold in every channel, or mean and variance thrice
UNSURE = 80.0  # percent below which a person should look
SUREST = 99.9  # percent; to say more would be more than the model of the errors supports
UNLIKELY = 0.1  # percent, of two, below which what the user gave is doubted
ORDER_MARGIN = 0.2  # of mean mismatch between RGB and BGR, from which on the order is asserted


Predictor = Callable[[Preprocess], list[MeanVariance]]  # one for each of the first BatchNormalizations


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A way to predict what the first BatchNormalizations measure (`statistics.leading_moments` has two).

    by: "images" or "covariances". predictor: for the first BatchNormalizations and the inputs of a model; it raises
    ModelError or Unknown where it cannot follow the network up to them.
    """

    by: str
    predictor: Callable[[FirstNorms, InputSpecs], Predictor]


class Fit(msgspec.Struct, frozen=True):
    """How well a normalization explains the BatchNormalizations.

    mismatch: mean over channels, 0 is exact. share: its probability in percent among the candidates, all taken as
    equally usual.
    """

    name: str
    mismatch: float
    share: float


class UnknownInput(msgspec.Struct, frozen=True):
    """An input of whose scale nothing is known, and why. preprocess_tells: whether `--preprocess` would tell
    it; images_tell: whether images of the user's can be given."""

    name: str
    why: str
    preprocess_tells: bool = False
    images_tell: bool = False


class PreprocessChoice(msgspec.Struct, frozen=True):
    """How the preprocess came about.

    name: as `--preprocess` takes it. by: "given", "file" (what a quantized file says), "images", "covariances", "head"
    (arithmetic at the model's head), "norms" (moments that the first BatchNormalizations hold), "assumed", or "no
    image" where the network takes none. unknown: inputs of which nothing is known. reason: in words. order: "RGB" or
    "BGR"; None where there are no colours. order_asserted: whether the BatchNormalizations tell it, or the user. sure:
    percent; None where nothing was judged. norms: by which BatchNormalizations. fits: all candidates, best first.
    """

    name: str
    by: str
    reason: str
    order: str | None = None
    order_asserted: bool = False
    sure: float | None = None
    norms: tuple[str, ...] = ()
    fits: tuple[Fit, ...] = ()
    warning: str | None = None
    unknown: tuple[UnknownInput, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        return (self.warning,) if self.warning else ()


def parse_or_assume(text: str) -> Preprocess:
    """What the user wrote; for "auto", until it is found out, input of unit variance. Raises OptionError."""
    return Preprocess.parse(ASSUMED if text.strip() == AUTO else text)


def resolve_preprocess(
    model: onnx.ModelProto, inputs: InputSpecs, text: str, prediction: Prediction, *, doubt: bool = True
) -> tuple[InputSpecs, PreprocessChoice]:
    """The inputs under the preprocess that the user wrote, "auto" found out, and how that came about.

    doubt: whether what the user wrote is held against the BatchNormalizations; a warning tells of what they rule out.
    """
    if text.strip() != AUTO:
        warning = ruled_out(model, inputs, prediction) if doubt else None
        return inputs, msgspec.structs.replace(user_choice(inputs.preprocess), warning=warning)
    choice = choose_preprocess(model, inputs, prediction)
    return inputs.with_preprocess(Preprocess.parse(choice.name)), choice


def user_choice(preprocess: Preprocess) -> PreprocessChoice:
    """What the user chose."""
    return PreprocessChoice(preprocess.name, "given", "as given", _order(preprocess), order_asserted=True)


def choose_preprocess(model: onnx.ModelProto, inputs: InputSpecs, prediction: Prediction) -> PreprocessChoice:
    """The normalization that a model's first BatchNormalizations speak for.

    Where nothing can be judged, input of unit variance is assumed, with a warning; a network that takes no pictures
    gets the inputs that it would get anyway.
    """
    if not inputs.has_normalized:
        said = [f"'{shown(s.name)}' holds {s.range[0]:g} to {s.range[1]:g}, as given" for s in inputs if s.range]
        names = ", ".join(f"'{shown(spec.name)}'" for spec in inputs if spec.range is None)
        if names or not said:
            what = f"no input is a picture of 1 or 3 channels ({names or 'none'})"
            said.append(f"{what}; fed values of unit variance, not normalized")
        return PreprocessChoice(ASSUMED, "no image", "; ".join(said))
    found = first_norms(model)
    if isinstance(found, str):
        return _assumption(found)
    leading = _leading(found, inputs)
    if not leading.has_normalized:
        return _assumption("the first BatchNormalization does not read the picture")
    try:
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            predict = prediction.predictor(found, leading)
            return _judge(found, predict, leading, prediction.by)
    except FloatingPointError as error:
        return _assumption(f"what the first BatchNormalization reads is no number ({error})")
    except (ModelError, Unknown) as error:
        return _assumption(f"what the first BatchNormalization reads cannot be predicted ({error})")


def ruled_out(model: onnx.ModelProto, inputs: InputSpecs, prediction: Prediction) -> str | None:
    """Why the user's normalization cannot be right: another one fits the first BatchNormalizations, and it does not.

    None where it may be, or where nothing can be judged. The order of the channels is not.
    """
    found = first_norms(model)
    if isinstance(found, str) or not (leading := _leading(found, inputs)).has_normalized:
        return None
    names = {**{name: Preprocess.parse(name) for name in CANDIDATES}, "": inputs.preprocess}
    try:
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            predict, measured = prediction.predictor(found, leading), _norm_moments(found)
            fits = {name: _either_order(measured, predict, preprocess) for name, preprocess in names.items()}
    except (FloatingPointError, ModelError, Unknown):
        return None
    own, channels = fits.pop("")
    best = min(fits, key=lambda name: fits[name][0])
    least = fits[best][0]
    if not channels or least > NOTHING_FITS or 100 * shares(np.array([least, max(own, least)]), channels)[1] > UNLIKELY:
        return None
    return f"the first BatchNormalizations fit preprocess {best} and rule {inputs.preprocess.name} out"


def _leading(found: FirstNorms, inputs: InputSpecs) -> InputSpecs:
    """The inputs that the first BatchNormalizations depend on, in single precision."""
    leading = inputs.only({value.name for value in found.model.graph.input})
    half = {spec.name for spec in leading if spec.dtype == np.float16}
    return leading.with_dtype(half, np.dtype(np.float32))  # as first_norms leaves them


def _either_order(measured: Sequence[MeanVariance], predict: Predictor, preprocess: Preprocess) -> tuple[float, int]:
    turned = dataclasses.replace(preprocess, reverse=not preprocess.reverse)
    return min(_mean_mismatch(measured, predict(order)) for order in (preprocess, turned))


def _assumption(reason: str, fits: tuple[Fit, ...] = (), norms: tuple[str, ...] = ()) -> PreprocessChoice:
    warning = f"preprocess {ASSUMED} assumed (input of unit variance): {reason}; give --preprocess if it is another"
    return PreprocessChoice(
        ASSUMED, "assumed", f"input of unit variance assumed: {reason}", "RGB", norms=norms, fits=fits, warning=warning
    )


def _judge(found: FirstNorms, predict: Predictor, inputs: InputSpecs, by: str) -> PreprocessChoice:
    measured = _norm_moments(found)
    colours = any(spec.channels == 3 for spec in inputs if spec.is_normalized)
    names = tuple(shown(norm.name or norm.output[0]) for norm in found.norms)
    usual, other, orders = {}, {}, {}
    channels = 0
    for name in CANDIDATES:
        preprocess = Preprocess.parse(name)
        usual[name], channels = _mean_mismatch(measured, predict(preprocess))
        if not channels:
            return _assumption("the first BatchNormalization measured no signal", norms=names)
        orders[name] = preprocess
        if colours:
            orders[name] = dataclasses.replace(preprocess, reverse=not preprocess.reverse)
            other[name], _ = _mean_mismatch(measured, predict(orders[name]))
    best = {name: min(usual[name], other.get(name, usual[name])) for name in CANDIDATES}
    order = sorted(CANDIDATES, key=best.__getitem__)
    probable = shares(np.array([best[name] for name in order]), channels)
    fits = tuple(
        Fit(name, round(best[name], 4), round(100 * float(share), 1))
        for name, share in zip(order, probable, strict=True)
    )
    if best[order[0]] > NOTHING_FITS:
        return _assumption("no usual normalization fits what the first BatchNormalization measured", fits, names)
    chosen = Preprocess.parse(order[0])
    margin = usual[order[0]] - other.get(order[0], usual[order[0]])
    if margin > ORDER_MARGIN:
        chosen = Preprocess.parse(f"{order[0]}:{'rgb' if chosen.reverse else 'bgr'}")
    asserted = abs(margin) > ORDER_MARGIN
    return _in_words(chosen, fits, names, by, colours, asserted)


def _in_words(
    chosen: Preprocess, fits: tuple[Fit, ...], norms: tuple[str, ...], by: str, colours: bool, asserted: bool
) -> PreprocessChoice:
    """The choice in words."""
    first, second = fits[0], fits[1]
    twin = TWINS.get(first.name)
    count = "the first BatchNormalization" if len(norms) == 1 else f"the first {len(norms)} BatchNormalizations"
    words = [
        f"{min(first.share, SUREST):g} % sure by {count}, next {second.name}",
        *([f"{twin} is its twin"] if twin else []),
        *([f"{_order(chosen)} {'asserted' if asserted else 'assumed'}"] if colours else []),
    ]
    warning = None
    if first.share < UNSURE:
        warning = (
            f"preprocess {chosen.name} is only {first.share:g} % sure ({second.name} {second.share:g} %); "
            "give --preprocess to be certain"
        )
    order = _order(chosen) if colours else None
    return PreprocessChoice(
        chosen.name, by, "; ".join(words), order, asserted and colours, first.share, norms, fits, warning
    )


def _order(preprocess: Preprocess) -> str:
    return "BGR" if preprocess.reverse else "RGB"


def _mean_mismatch(measured: Sequence[MeanVariance], predicted: Sequence[MeanVariance]) -> tuple[float, int]:
    """Over the live channels of all BatchNormalizations, and how many there are."""
    if any(len({v.shape for v in (*m, *p)}) > 1 for m, p in zip(measured, predicted, strict=True)):
        raise ModelError("it does not have as many channels as its input")
    joined = np.concatenate([mismatch(*m, *p) for m, p in zip(measured, predicted, strict=True)])
    if not np.isfinite(joined).all():
        raise ModelError("it holds NaN or infinity")
    return (float(joined.mean()) if joined.size else 0.0), joined.size


def _norm_moments(found: FirstNorms) -> list[MeanVariance]:
    values = {t.name: t for t in found.model.graph.initializer}
    pairs = []
    for norm in found.norms:
        mean, variance = (np.asarray(onnx.numpy_helper.to_array(values[norm.input[i]]), np.float64) for i in (3, 4))
        pairs.append((mean.reshape(-1), variance.reshape(-1)))
    return pairs
