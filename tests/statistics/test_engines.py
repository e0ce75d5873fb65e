"""Statistics by name: one registration, and a recipe can choose them."""

import msgspec
import numpy as np
import pytest

from dfmpc_onnx import catalog
from dfmpc_onnx.errors import RecipeError
from dfmpc_onnx.inputs.batches import Batch
from dfmpc_onnx.pipeline.facts import Codes, MeasuredRanges
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.recipe_file import parse_recipe
from dfmpc_onnx.quantization.layer_rebuilder import ReconstructLayersOptions
from dfmpc_onnx.statistics.engines import ImageSource, Request, register, registration, unregister
from tests import graphs


class NoiseSource(ImageSource):
    """Learned data stand beside images so: activations on inputs of its own."""

    def __init__(self, request):
        noise = np.random.default_rng(request.seed).standard_normal((8, 3, 8, 8)).astype(np.float32)
        super().__init__(request, Batch({"x": noise}, "8 pictures of noise", ("noise is no picture",)))


@pytest.fixture
def noise():
    register("noise", NoiseSource)
    yield
    unregister("noise")


def rebuilt(**options):
    model = graphs.chain()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    space = graphs.workspace(model, "auto")
    steps = graphs.pipeline("reconstruct_layers", "mixed", reconstruct_layers=options)
    return space, PassManager(steps).run(space)[-1], steps[-1]


def test_one_registration_is_all_that_other_statistics_need(noise):
    space, result, step = rebuilt(statistics="noise")
    assert set(space.get(Codes).weights) == {"conv1", "conv2", "conv3", "gemm1"}
    assert result.notes[-1].startswith("statistics from 8 pictures of noise")
    assert result.warnings == ("noise is no picture",) and not step.reads_images()
    low, high = space.get(MeasuredRanges).tensors["x"]
    assert low < -3 and high > 3


def test_they_are_the_source_of_what_is_measured(noise):
    own, usual = (rebuilt(**given)[0] for given in ({"statistics": "noise"}, {}))
    assert graphs.snapshot(own.graph) != graphs.snapshot(usual.graph)


def test_the_engines_that_ship():
    assert registration("images").reads_images and not registration("gaussian").reads_images


@pytest.mark.usefixtures("noise")
def test_a_name_is_given_once():
    register("noise", NoiseSource)
    with pytest.raises(ValueError, match="there are statistics named 'noise' already"):
        register("noise", ImageSource)


def test_a_name_that_nobody_has_is_refused_with_those_there_are():
    with pytest.raises(msgspec.ValidationError, match="no statistics named 'guess'; there are images, gaussian"):
        msgspec.convert({"statistics": "guess"}, ReconstructLayersOptions)


def test_a_recipe_is_told_the_line_of_such_a_name():
    step = '[[passes]]\nuse = "reconstruct_layers"\nstatistics = "guess"\n'
    text = f'summary = "mine"\nweights = "8"\nactivations = "8"\n\n{step}'
    recipe = parse_recipe(text, "mine", "mine.toml")
    with pytest.raises(RecipeError, match=r"^mine.toml:7: pass reconstruct_layers: no statistics named 'guess'"):
        catalog.build(recipe)


@pytest.mark.parametrize(("images", "any_number", "left"), [(64, True, 32), (10, True, 8), (64, False, 64)])
def test_a_probe_runs_on_half_of_the_images(images, any_number, left):
    space = graphs.workspace(graphs.chain())
    batch = Batch({"x": np.zeros((images, 3, 8, 8), np.float32)}, "zeros", any_number=any_number)
    source = ImageSource(Request(space.graph, space.inputs, 0, lambda: batch))
    assert len(source.probe().live["x"].plain) == left


@pytest.mark.parametrize(("side", "count"), [(8, 16), (64, 16), (124, 8), (224, 8)])
def test_variants_run_on_fewer_images_where_they_are_large_but_on_eight_at_least(side, count):
    space = graphs.workspace(graphs.chain(), "auto")
    batch = Batch({"x": np.zeros((16, 3, side, side), np.float32)}, "16 black pictures", any_number=True)
    source = ImageSource(Request(space.graph, space.inputs, 0, lambda: batch))
    assert len(source.variants().live["x"].plain) == count
