"""Recipes that extend another: what may be different, and what a mistake says."""

import re

import msgspec
import pytest

from dfmpc_onnx import catalog
from dfmpc_onnx.errors import RecipeError
from dfmpc_onnx.pipeline.recipe import as_toml, recorded_steps, to_record
from dfmpc_onnx.pipeline.recipe_file import parse_recipe

BASE = """\
summary = "a base"
weights = "2/6"

[[passes]]
use = "normalize"

[[passes]]
use = "assign_bits"
edges = 8
folded = "low"

[[passes]]
use = "reconstruct_layers"
statistics = "gaussian"
fallback = [
    { use = "quantize_weights", ternary = "optimal" },
    { use = "compensate", lambda1 = 0.5 },
]
"""


@pytest.fixture
def extended(tmp_path):
    """The recipe that a text makes on top of the base."""
    (tmp_path / "base.toml").write_text(BASE)

    def read(text):
        path = tmp_path / "mine.toml"
        path.write_text(f'extends = "base.toml"\n{text}')
        return catalog.find_recipe(str(path))

    return read


def uses(steps):
    return [step.use for step in steps]


def test_a_recipe_that_only_extends_is_its_base_under_another_name(extended, tmp_path):
    recipe, base = extended(""), catalog.find_recipe(str(tmp_path / "base.toml"))
    assert recipe == msgspec.structs.replace(base, name="mine")


def test_what_stands_above_the_tables_replaces_the_bases(extended):
    recipe = extended('summary = "mine"\nweights = "4"\nactivations = "none"\nreduce_range = true\n')
    assert (recipe.summary, recipe.weights, recipe.activations, recipe.reduce_range) == ("mine", "4", "none", True)
    assert (extended("").weights, extended("").activations) == ("2/6", "8")


def test_an_option_is_changed_and_the_others_stay(extended):
    recipe = extended("[passes.assign_bits]\nedges = 0\n")
    assert recipe.steps[1].options == {"edges": 0, "folded": "low"}
    assert recipe.steps[2].fallback == extended("").steps[2].fallback


def test_a_fallback_is_replaced_as_a_whole(extended):
    recipe = extended('[passes.reconstruct_layers]\nfallback = [{ use = "quantize_weights" }]\n')
    assert recipe.steps[2].options == {"statistics": "gaussian"}
    assert [(step.use, step.options) for step in recipe.steps[2].fallback] == [("quantize_weights", {})]


def test_a_pass_is_left_out(extended):
    assert uses(extended('without = ["assign_bits"]\n').steps) == ["normalize", "reconstruct_layers"]


def inserted(*items):
    return "".join(f'[[insert]]\nuse = "{use}"\n{side} = "{anchor}"\n' for use, side, anchor in items)


def test_passes_are_inserted_in_the_order_written(extended):
    text = inserted(
        ("quantize_weights", "before", "reconstruct_layers"),
        ("recalibrate_batch_norm", "before", "reconstruct_layers"),
        ("pair_convolutions", "after", "normalize"),
        ("balance_channels", "after", "normalize"),
        ("estimate_statistics", "after", "balance_channels"),
    )
    assert uses(extended(text).steps) == [
        "normalize",
        "pair_convolutions",
        "balance_channels",
        "estimate_statistics",
        "assign_bits",
        "quantize_weights",
        "recalibrate_batch_norm",
        "reconstruct_layers",
    ]


def test_one_pass_is_replaced_by_several(extended):
    items = [(use, "before", "reconstruct_layers") for use in ("quantize_weights", "compensate")]
    recipe = extended('without = ["reconstruct_layers"]\n' + inserted(*items) + "lambda1 = 0.5\n")
    assert uses(recipe.steps) == ["normalize", "assign_bits", "quantize_weights", "compensate"]
    assert recipe.steps[-1].options == {"lambda1": 0.5}


def test_bases_may_extend_others_and_ship(extended, tmp_path):
    (tmp_path / "mine.toml").write_text('extends = "paper"\nweights = "4"\n')
    (tmp_path / "yours.toml").write_text('extends = "mine.toml"\n[passes.compensate]\nlambda2 = 0.25\n')
    recipe = catalog.find_recipe(str(tmp_path / "yours.toml"))
    assert (recipe.name, recipe.weights, recipe.activations) == ("yours", "4", "none")
    assert {s.use: s.options for s in recipe.steps}["compensate"] == {"lambda1": 0.5, "lambda2": 0.25}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'without = ["assign_bit"]\n',
            r"mine.toml:2: without 'assign_bit': base has no such pass; it has normal",
        ),
        ("\n[passes.asign_bits]\nedges = 0\n", "mine.toml:3: passes.asign_bits: base has no such pass; it has"),
        (inserted(("compensate", "after", "x")), "mine.toml:4: after 'x': base has no such pass; it has"),
        ('[[insert]]\nuse = "compensate"\n', 'mine.toml:2: insert compensate: say before = "NAME" or after = "NAME"'),
        ('[[insert]]\nuse = "a"\nbefore = "b"\nafter = "c"\n', "mine.toml:2: insert a: say before"),
        ('[[insert]]\nbefore = "normalize"\n', "mine.toml:2: a pass needs its name"),
        ("inserts = []\n", "mine.toml:2: unknown key 'inserts'"),
        ("weights = 4\n", "mine.toml:2: expected 'str', got 'int' at 'weights'"),
        ('weights = "9"\n', "mine.toml:2: weights '9': not understood"),
        (
            '[[passes]]\nuse = "normalize"\n',
            r"mine.toml:2: with extends, \[passes.NAME\] changes a pass",
        ),
        ("[passes]\nassign_bits = 3\n", "mine.toml:2: expected 'object', got 'int'"),
        ('[passes.assign_bits]\nuse = "compensate"\n', "mine.toml:3: passes.assign_bits changes options alone; to put"),
        ("[passes.assign_bits]\nfallback = 3\n", r"mine.toml:3: fallback is a list of passes, as in fallback = \["),
        ("\n[passes.assign_bits]\nedge = 0\n", "mine.toml:4: pass assign_bits: unknown key 'edge'"),
        ("[passes.assign_bits]\nedges = 9\n", "mine.toml:3: pass assign_bits: expected 'int' <= 8"),
        (
            "[passes.reconstruct_layers]\nfallback = [\n"
            '{ use = "compensate" },\n{ use = "compensate", lambda1 = -1.0 }]\n',
            "mine.toml:5: pass compensate: expected 'float' >= 0.0 at 'lambda1'",
        ),
        ('[passes.assign_bits]\nfallback = [{ used = "compensate" }]\n', "mine.toml:3: a pass needs its name"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_line(extended, text, said):
    with pytest.raises(RecipeError, match=said) as caught:
        catalog.build(extended(text))
    assert "\n" not in str(caught.value)


def test_a_mistake_in_an_option_of_the_base_names_the_file_of_the_base(extended, tmp_path):
    recipe = extended("")
    (tmp_path / "base.toml").write_text(BASE.replace("edges = 8", "edge = 8"))
    assert recipe.steps[1].options["edges"] == 8
    with pytest.raises(RecipeError, match=r"base.toml:9: pass assign_bits: unknown key 'edge'"):
        catalog.build(extended("[passes.assign_bits]\nfolded = 'high'\n"))


def test_a_text_nested_without_end_is_refused(extended):
    with pytest.raises(RecipeError, match=r"mine.toml: lists and tables are nested too deeply"):
        extended(f"without = {'[' * 5000}{']' * 5000}\n")


def test_a_pass_that_runs_twice_cannot_be_named(extended):
    twice = inserted(("normalize", "after", "assign_bits"))
    with pytest.raises(RecipeError, match=r"without 'normalize': base runs it 2 times; write the recipe in full"):
        extended(f'without = ["normalize"]\n{twice}')


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "mixd",
            r"mine.toml:1: recipe 'mixd': no such recipe \(did you mean mixed\?\); give one of .*, or a \.toml file",
        ),
        ("absent.toml", "mine.toml:1: recipe 'absent.toml': no such file"),
    ],
)
def test_a_base_that_is_not_there(tmp_path, name, said):
    (tmp_path / "mine.toml").write_text(f'extends = "{name}"\n')
    with pytest.raises(RecipeError, match=said):
        catalog.find_recipe(str(tmp_path / "mine.toml"))


def test_a_circle_names_the_files_on_it(tmp_path):
    (tmp_path / "a.toml").write_text('\nextends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    with pytest.raises(RecipeError, match=r"b.toml:1: extends goes round .*: .*a.toml -> .*b.toml -> .*a.toml"):
        catalog.find_recipe(str(tmp_path / "a.toml"))
    (tmp_path / "a.toml").write_text('extends = "a.toml"\n')
    with pytest.raises(RecipeError, match=r"a.toml:1: extends goes round in a circle: .*a.toml -> .*a.toml"):
        catalog.find_recipe(str(tmp_path / "a.toml"))


def test_a_file_may_have_the_name_of_the_recipe_that_it_extends(tmp_path):
    (tmp_path / "mixed.toml").write_text('extends = "mixed"\nweights = "3"\n')
    assert catalog.find_recipe(str(tmp_path / "mixed.toml")).weights == "3"


def test_a_text_without_recipes_around_it_cannot_extend():
    with pytest.raises(RecipeError, match=r"m.toml:1: recipe 'mixed': no recipe is known here to extend"):
        parse_recipe('extends = "mixed"\n', "m", "m.toml")


# In full


@pytest.mark.parametrize("name", sorted(catalog.recipes()))
def test_in_full_a_recipe_reads_as_itself_with_nothing_around(name):
    recipe = catalog.find_recipe(name)
    again = parse_recipe(as_toml(recipe), name, "again.toml")
    assert as_toml(again) == as_toml(recipe)
    assert [to_record(step) for step in again.steps] == [to_record(step) for step in recipe.steps]


def test_values_of_every_kind_are_written_as_toml():
    options = 'a = "q\\" \\\\ \\u202e\\n"\nb = [1, 2.5, true]\nc = { "d e" = 1979-05-27, f = inf }\n"g h" = 1e-9\n'
    text = f'summary = "s"\nweights = "8"\n[[passes]]\nuse = "x"\n{options}'
    recipe = parse_recipe(text, "m", "m.toml")
    written = as_toml(recipe)
    assert parse_recipe(written, "m", "m.toml").steps[0].options == recipe.steps[0].options
    assert "\u202e" not in written


def test_the_printed_page_shows_what_is_different_and_loads_alone(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('extends = "closed-form"\n# a remark\n[passes.assign_bits]\nedges = 0\n')
    page = catalog.recipe_page(str(mine))
    assert "#    # a remark\n" in page and "#    edges = 0\n" in page
    (assign_bits,) = (s for s in parse_recipe(page, "mine", "m.toml").steps if s.use == "assign_bits")
    assert assign_bits.options == {"edges": 0, "folded": "high"}
    assert catalog.recipe_page("mixed") == catalog.recipe_text("mixed").text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[insert]]\nuse = "absent"\nafter = "normalize"\n', "no such pass; give one of"),
        ("[passes.assign_bits]\nedge = 0\n", "unknown key 'edge'; it has edges, least, folded"),
        ('[passes.assign_bits]\nfolded = "lo"\n', "at 'folded'; give one of low, high"),
        ('without = ["pair_convolutions"]\n', "add pair_convolutions before it"),
    ],
)
def test_a_page_is_printed_only_of_a_recipe_that_can_work(text, said, tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(f'extends = "mixed"\n{text}')
    with pytest.raises(RecipeError, match=re.escape(said)):
        catalog.recipe_page(str(mine))


def test_only_what_is_different_stands_in_the_recipes_that_ship():
    for name in set(catalog.recipes()) - {"mixed"}:
        assert "[[passes]]" not in catalog.recipe_text(name).text


def test_recorded_steps_read_as_what_was_recorded():
    steps = catalog.find_recipe("closed-form").steps
    text = msgspec.json.encode([to_record(step) for step in steps]).decode()
    assert [to_record(step) for step in recorded_steps(text)] == [to_record(step) for step in steps]
    with pytest.raises(ValueError, match="Expected"):
        recorded_steps('[{"a": 3}]')


ORDER = """
[[insert]]
use = "take_widest_bits"
after = "assign_bits"

[[insert]]
use = "quantize_weights"
before = "take_widest_bits"

[[insert]]
use = "compensate"
after = "assign_bits"
"""


def test_inserts_behind_one_pass_stand_in_the_order_in_which_they_are_written(extended):
    uses = [step.use for step in extended(ORDER).steps]
    assert uses[1:5] == ["assign_bits", "quantize_weights", "take_widest_bits", "compensate"]


def test_a_fallback_is_refused_where_a_pass_never_stops(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('extends = "mixed"\n[passes.normalize]\nfallback = [{ use = "raise_opset" }]\n')
    with pytest.raises(RecipeError, match="pass normalize never stops half way, so it takes no fallback; leave it out"):
        catalog.build(catalog.find_recipe(str(mine)))


def test_a_fallback_that_reads_images_takes_those_of_the_user(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'extends = "closed-form"\n[passes.reconstruct_layers]\nfallback = [{ use = "reconstruct_layers" }]\n'
    )
    steps = catalog.build(catalog.find_recipe(str(mine)))
    assert any(step.may_read_images for step in steps) and not any(step.reads_images() for step in steps)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("x = " + "9" * 5000, "a number or date in it cannot be read"),
        ("x = 0x" + "f" * 5000, "a number or date in it cannot be read"),
        ("x = 2020-02-30", "not valid TOML|cannot be read"),
        ('summary = "a"\nweights = "8"\n' + '[[passes]]\nuse = "normalize"\n' * 300, "more than 200 passes"),
    ],
)
def test_what_no_recipe_holds_is_one_line(text, said):
    with pytest.raises(RecipeError, match=said):
        parse_recipe(text, "mine", "mine.toml")


def test_recipes_that_extend_each_other_without_end_are_refused(tmp_path):
    for number in range(40):
        (tmp_path / f"{number}.toml").write_text(f'extends = "{number + 1}.toml"\n')
    with pytest.raises(RecipeError, match="more than 20 recipes extend each other"):
        catalog.find_recipe(str(tmp_path / "0.toml"))


def test_a_recipe_that_is_no_plain_file_or_far_too_large_is_refused(tmp_path):
    (tmp_path / "a.toml").symlink_to("a.toml")
    (tmp_path / "b.toml").mkdir()
    (tmp_path / "c.toml").write_bytes(b"#" * (2**24 + 1))
    for name, said in (("a", "cannot be read"), ("b", "is a folder"), ("c", "larger than 16 MiB"), ("n" * 300, "long")):
        with pytest.raises(RecipeError, match=said):
            catalog.find_recipe(str(tmp_path / f"{name}.toml"))
