"""What the first BatchNormalizations of a model would measure under a given input normalization."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.graph.operators import name_domains
from dfmpc_onnx.inputs.generated import generate
from dfmpc_onnx.inputs.normalization import Prediction, Predictor
from dfmpc_onnx.inputs.preprocess import PIXEL_MEAN, PIXEL_STD, Preprocess
from dfmpc_onnx.inputs.procedural import dead_leaves
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.model.leading_norms import FirstNorms
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.least_squares import PatchMoments
from dfmpc_onnx.numerics.moments import MeanVariance
from dfmpc_onnx.runtime.session import Session
from dfmpc_onnx.statistics.channel_statistics import ChannelStatistics, exact_moments
from dfmpc_onnx.statistics.error_at_next_layer import Known
from dfmpc_onnx.statistics.gaussian_streams import GaussianStreams
from dfmpc_onnx.statistics.walk import walk

NEUTRAL = "imagenet"
SEED = 0  # not the user's: the choice is the network's, the same for quantize and verify
SIDE = 224  # pictures are at most so large: in front of the first BatchNormalizations a part shows what the whole does
FEWEST_PICTURES, MOST_PICTURES, PIXELS = 4, 16, 4 * 224 * 224
# Of the colours at one pixel, over the training images of CIFAR-10.
COLOUR_CORRELATION = np.array([[1.0, 0.91, 0.78], [0.91, 1.0, 0.91], [0.78, 0.91, 1.0]])

# -- prediction by a few pictures in onnxruntime


def by_pictures(found: FirstNorms, inputs: InputSpecs, seed: int = SEED) -> Predictor:
    """Run the part in front on the same few procedural pictures under each normalization. Raises ModelError.

    inputs: those that it depends on.
    """
    return _Pictures(found, inputs, seed).run


class _Pictures:
    """Feeds the part in front of the BatchNormalizations. Raises ModelError where onnxruntime cannot run it.

    Sizes that the file fixes are freed, so that a few small pictures suffice; where a model does not run on them, it
    gets one picture of the size it wants.
    """

    def __init__(self, found: FirstNorms, inputs: InputSpecs, seed: int) -> None:
        self._seed = seed
        self._names = [norm.input[0] for norm in found.norms]
        self._inputs = inputs
        model = onnx.ModelProto()
        model.CopyFrom(found.model)
        kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
        del model.graph.output[:]
        for name, norm in zip(self._names, found.norms, strict=True):
            kind = kinds[norm.output[0]]
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
        free = onnx.ModelProto()
        free.CopyFrom(model)
        pictures = {spec.name: spec for spec in inputs if spec.is_normalized}
        for value in free.graph.input:
            if value.name in pictures:
                shape = value.type.tensor_type.shape
                for index, dim in enumerate(shape.dim):
                    if index != pictures[value.name].channel_axis:
                        dim.dim_param = f"free_{index}"
        try:
            self._session = Session(free)
            self._feeds = self._paint_pixels(free_size=True)
            self.run(Preprocess.parse(NEUTRAL))
        except ModelError:
            self._session = Session(model)
            self._feeds = self._paint_pixels(free_size=False)

    def _paint_pixels(self, *, free_size: bool) -> dict[str, npt.NDArray[np.generic]]:
        """Pixels ``[n, height, width, channels]`` for pictures, and what any other input gets."""
        feeds: dict[str, npt.NDArray[np.generic]] = {}
        for spec in self._inputs:
            if not spec.is_normalized:
                feeds[spec.name] = (
                    generate(spec, spec.shape, self._seed).x.astype(spec.dtype)
                    if spec.is_float
                    else np.zeros(spec.shape, spec.dtype)
                )
                continue
            (height, width), count = spec.side, spec.shape[0]
            if free_size:
                height, width = min(height, SIDE), min(width, SIDE)
                count = int(np.clip(PIXELS // (height * width), FEWEST_PICTURES, MOST_PICTURES))
            feeds[spec.name] = _pixels(count, height, width, spec.channels, self._seed)
        return feeds

    def run(self, preprocess: Preprocess) -> list[MeanVariance]:
        feeds = dict(self._feeds)
        for spec in self._inputs:
            if spec.is_normalized:
                x = preprocess(feeds[spec.name])
                layout = x if spec.channels_last else x.transpose(0, 3, 1, 2)
                feeds[spec.name] = np.ascontiguousarray(layout, spec.dtype)
        moments = []
        for output in self._session.run(feeds, self._names):
            if output.ndim < 2:
                raise ModelError("a BatchNormalization reads no channels")
            moments.append(exact_moments(output))  # what is not finite counts as a bad prediction
        return moments


def _pixels(count: int, height: int, width: int, channels: int, seed: int) -> npt.NDArray[np.float32]:
    """Pictures whose colours have exactly the moments of photographs, which a few have but roughly."""
    pixels = dead_leaves(count, height, width, seed).astype(np.float64)
    rows = pixels.reshape(-1, 3)
    own = np.linalg.cholesky(np.cov(rows.T, bias=True) + np.eye(3))  # one pixel varies in nothing but what is added
    wanted = np.linalg.cholesky(COLOUR_CORRELATION * np.outer(PIXEL_STD, PIXEL_STD))
    mixed = (rows - rows.mean(axis=0)) @ np.linalg.solve(own.T, wanted.T) + np.array(PIXEL_MEAN)
    exact: npt.NDArray[np.float32] = mixed.reshape(pixels.shape).astype(np.float32)
    return exact.mean(axis=3, keepdims=True) if channels == 1 else exact


# -- prediction by covariance functions


class _Watcher:
    """Notes the moments in front of each BatchNormalization, and changes nothing."""

    def __init__(self) -> None:
        self.moments: dict[str, MeanVariance] = {}

    def layer(self, node: gs.Node, moments: Callable[[], PatchMoments], known: Known) -> None: ...

    def after_layer(self, node: gs.Node, shift: Callable[[], Float] | None) -> None: ...

    def batch_norm(self, node: gs.Node, norm: BatchNormParameters, statistics: ChannelStatistics) -> None:
        self.moments[node.outputs[0].name] = statistics.mean, statistics.variance

    def observe(self, tensor: str, values: npt.NDArray[np.float32]) -> None: ...


def by_covariances(found: FirstNorms, inputs: InputSpecs) -> Predictor:
    """Follow the covariance function of photographs to the BatchNormalizations; no image is made. Raises Unknown."""

    def predict(preprocess: Preprocess) -> list[MeanVariance]:
        watcher, graph = _Watcher(), gs.import_onnx(found.model)
        name_domains(graph)
        walk(graph, GaussianStreams(graph, inputs.with_preprocess(preprocess)), watcher, frozenset())
        return [watcher.moments[norm.output[0]] for norm in found.norms]

    return predict


BY_PICTURES = Prediction("images", by_pictures)
BY_COVARIANCES = Prediction("covariances", by_covariances)
