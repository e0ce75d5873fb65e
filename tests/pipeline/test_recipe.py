import pytest

from dfmpc_onnx import catalog
from dfmpc_onnx.errors import RecipeError
from dfmpc_onnx.pipeline.recipe_file import parse_recipe, read_recipe
from dfmpc_onnx.pipeline.settings import WeightBits

GOOD = """\
summary = "an example"
weights = "2/6"
activations = 8

[[passes]]
use = "normalize"

[[passes]]
use = "compensate"
lambda1 = 0.5
"""


def test_a_recipe_is_frozen_data():
    recipe = parse_recipe(GOOD, "mine", "mine.toml")
    assert (recipe.name, recipe.summary, recipe.weight_bits) == ("mine", "an example", WeightBits(2, 6))
    assert recipe.activation_bits == "8"
    assert [(s.use, s.options, s.position) for s in recipe.steps] == [
        ("normalize", {}, "mine.toml:5"),
        ("compensate", {"lambda1": 0.5}, "mine.toml:8"),
    ]
    with pytest.raises(AttributeError):
        recipe.name = "yours"


def test_activations_are_8_unless_said():
    assert parse_recipe(GOOD.replace("activations = 8\n", ""), "m", "m.toml").activation_bits == "8"


def message(text):
    """The one line that a mistake makes, from reading or from building."""
    with pytest.raises(RecipeError) as caught:
        catalog.build(parse_recipe(text, "mine", "mine.toml"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('weights = "2/6"', 'weights = "2/6"\nwieghts = "4"', "mine.toml:3: unknown key 'wieghts'"),
        ('weights = "2/6"', "weights = 6", "mine.toml:2: expected 'str', got 'int' at 'weights'"),
        ('weights = "2/6"', 'weights = "9"', "mine.toml:2: weights '9': not understood; give LOW/HIGH"),
        ("activations = 8", "activations = 12", "mine.toml:3: activations '12': not understood"),
        ('summary = "an example"\n', "", "missing key 'summary'"),
        (
            'use = "compensate"',
            'use = "compensat"',
            "mine.toml:8: pass 'compensat': no such pass (did you mean compensate?)",
        ),
        ('use = "compensate"', "uses = 3", 'mine.toml:8: a pass needs its name, as in use = "estimate_ranges"'),
        ("lambda1 = 0.5", "lamda1 = 0.5", "mine.toml:10: pass compensate: unknown key 'lamda1'"),
        ("lambda1 = 0.5", 'lambda1 = "a"', "mine.toml:10: pass compensate: expected 'float', got 'str' at 'lambda1'"),
        ("lambda1 = 0.5", "lambda1 = -1.0", "mine.toml:10: pass compensate: expected 'float' >= 0.0 at 'lambda1'"),
        ("lambda1 = 0.5", "lambda1 = ", "mine.toml:10: not valid TOML: Invalid value"),
        ("[[passes]]\nuse", "[[passes\nuse", "mine.toml:5: not valid TOML"),
        ('use = "compensate"\nlambda1 = 0.5\n', 'use = "comp', "mine.toml:9: not valid TOML"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_line(old, new, said):
    assert old in GOOD
    assert said in message(GOOD.replace(old, new, 1))


def test_the_line_of_an_option_is_that_of_its_own_pass():
    text = GOOD + '\n[[passes]]\nuse = "compensate"\nlambda1 = "a"\n'
    assert message(text).startswith("mine.toml:14: pass compensate")


def test_passes_that_are_no_tables_are_refused():
    text = 'summary = "s"\nweights = "8"\npasses = 3\n'
    assert message(text) == "mine.toml:3: expected 'array', got 'int' at 'passes'"


def test_a_file_is_named_by_its_stem(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert read_recipe(path).name == "mine"
    assert catalog.find_recipe(str(path)).name == "mine"


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(RecipeError, match="no such file"):
        catalog.find_recipe(str(tmp_path / "mine.toml"))
    with pytest.raises(RecipeError, match="no such file"):
        read_recipe(tmp_path / "mine.toml")
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not a text file in UTF-8"):
        read_recipe(tmp_path / "mine.toml")
