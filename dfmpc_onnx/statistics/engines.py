"""Where statistics come from, by name: the engines that a recipe can choose (`reconstruct_layers`, `statistics =`).

To add one, write a source (what is prepared once for a network, and makes engines for walks over it) and register it
under a name of its own; a recipe can name it from then on::

    class LearnedSource(ImageSource):
        def __init__(self, request):
            super().__init__(request, learned_images(request.graph, request.seed))

    register("learned", LearnedSource, reads_images=True)

An engine that is not made of values on inputs implements `dfmpc_onnx.statistics.walk.Engine` itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.inputs.batches import Batch
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.statistics.gaussian_streams import GaussianStreams
from dfmpc_onnx.statistics.image_streams import ImageStreams
from dfmpc_onnx.statistics.layer_variants import LayerVariants
from dfmpc_onnx.statistics.recoloured_streams import RecolouredStreams
from dfmpc_onnx.statistics.walk import Engine

PROBE_PATCHES = 1000  # of a layer, enough for the few numbers of it that a probe is for
# Images of variants: fewer of large pictures, which take long. Plans by four are 0.1 to 2 dB worse.
FEWEST_OF_VARIANTS, MOST_OF_VARIANTS, VALUES_OF_VARIANTS = 8, 16, 16 * 3 * 64 * 64
FEWEST_IMAGES_OF_PROBE = 8  # images of a probe


@dataclasses.dataclass(frozen=True)
class Request:
    """What statistics are wanted of.

    inputs: what the network is fed. batch: samples of it, procedural or the user's; made when asked for. recoloured:
    whether what layers read is moved until BatchNormalizations behind see what they saw in training; an engine that is
    not made of values on inputs need not heed it.
    """

    graph: gs.Graph
    inputs: InputSpecs
    seed: int
    batch: Callable[[], Batch]
    recoloured: bool = False


class StatisticsSource(Protocol):
    """What is prepared once for a network. warnings: what the user must hear; ranges: of inputs, by name."""

    warnings: tuple[str, ...]
    ranges: Mapping[str, tuple[float, float]]

    def engine(self) -> Engine[Any]:
        """A fresh engine for one walk. Raises Unknown where the network cannot be followed."""

    def probe(self) -> Engine[Any] | None:
        """A cheaper one, to measure what errors cost the outputs; None where that cannot be measured."""

    def variants(self, **options: Any) -> LayerVariants:
        """An engine that runs variants of the network, on inputs that `probe` does not take where there are enough.

        options: of `LayerVariants`. Raises Unknown where no inputs are made.
        """

    def note(self, peak: int) -> str:
        """For the report: what the statistics come from. peak: bytes that were alive at once; 0 leaves them out."""


@dataclasses.dataclass(frozen=True)
class Registration:
    """reads_images: whether the user's images matter."""

    prepare: Callable[[Request], StatisticsSource]
    reads_images: bool


_registered: dict[str, Registration] = {}


def register(name: str, prepare: Callable[[Request], StatisticsSource], *, reads_images: bool = False) -> None:
    """Make statistics known under a name. Raises ValueError where another has it."""
    given = Registration(prepare, reads_images)
    if _registered.setdefault(name, given) != given:
        raise ValueError(f"there are statistics named '{name}' already")


def unregister(name: str) -> None:
    """Forget statistics that were registered under a name."""
    del _registered[name]


def registration(name: str) -> Registration:
    """Raises ValueError where there is none of that name."""
    if name not in _registered:
        raise ValueError(f"no statistics named '{name}'; there are {', '.join(_registered)}")
    return _registered[name]


class ImageSource:
    """Activations on a batch of inputs: procedural images, the user's, or any other."""

    def __init__(self, request: Request, batch: Batch | None = None) -> None:
        """batch: in place of the request's."""
        self._request = request
        self._batch = request.batch() if batch is None else batch
        self.warnings = self._batch.warnings
        self.ranges: Mapping[str, tuple[float, float]] = {
            name: (float(x.min()), float(x.max()))
            for name, x in self._batch.feeds.items()
            if x.dtype.kind == "f" and x.size
        }

    def engine(self) -> ImageStreams:
        streams = RecolouredStreams if self._request.recoloured else ImageStreams
        return streams(self._request.graph, self._batch.feeds, self._request.seed)

    def probe(self) -> ImageStreams:
        few = self._batch.first(max(FEWEST_IMAGES_OF_PROBE, self._batch.count // 2))
        return ImageStreams(self._request.graph, few.feeds, self._request.seed, PROBE_PATCHES)

    def variants(self, **options: Any) -> LayerVariants:
        size = sum(x.nbytes // x.itemsize for x in self._batch.feeds.values()) // max(self._batch.count, 1)
        count = min(max(VALUES_OF_VARIANTS // max(size, 1), FEWEST_OF_VARIANTS), MOST_OF_VARIANTS)
        return LayerVariants(self._request.graph, self._batch.last(count).feeds, **options)

    def note(self, peak: int) -> str:
        live = f"; live activations at most {peak / 1e6:.0f} MB" if peak else ""
        return f"statistics from {self._batch.origin}{live}"


class GaussianSource:
    """Covariance functions of photographs: no input is made."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.warnings: tuple[str, ...] = ()
        self.ranges: Mapping[str, tuple[float, float]] = {}

    def engine(self) -> GaussianStreams:
        return GaussianStreams(self._request.graph, self._request.inputs)

    def probe(self) -> None:
        """What errors cost an output is not followed to it."""

    def variants(self, **options: Any) -> LayerVariants:
        raise Unknown("covariance functions alone run no network")

    def note(self, peak: int) -> str:
        return "statistics from covariance functions; no image was made"


register("images", ImageSource, reads_images=True)
register("gaussian", GaussianSource)
