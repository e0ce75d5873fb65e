"""Plans as files: what is written reads as it was, and a mistake is one line with its place."""

from __future__ import annotations

import pathlib

import pytest

from dfmpc_onnx import catalog
from dfmpc_onnx.errors import RecipeError
from dfmpc_onnx.pipeline.plan_file import plan_as_toml, read_plan, record_of
from dfmpc_onnx.pipeline.recipe_file import read_recipe
from dfmpc_onnx.pipeline.recipe_lines import Lines
from dfmpc_onnx.pipeline.weight_plan import PlanRow, PlanTable, WeightPlan

BITS_ARE = 'bits are 2 to 8, 1.6, 2.67, "ternary" or "float", not '
WIDTHS = ("ternary", 4, 8, "float")
TABLE = PlanTable(
    (
        PlanRow(
            ("conv1",), (8, 3, 3, 3), 8, WIDTHS, (0.5, 0.01, 1e-5, 0.0), (0.1, 0.002, 2e-6, 0.0), (99, 150, 300, 864)
        ),
        PlanRow(
            ("a[b]", "c"), (16, 8), 16, WIDTHS, (0.5, 0.01, 1e-5, 0.0), (0.2, 0.004, 4e-6, 0.0), (88, 120, 228, 512)
        ),
    ),
    other_bytes=1000,
    other_weights=10,
    other_bits=80.0,
    floor=1e-4,
    opset=25,
    integer=True,
    float_bytes=9000,
    estimator="probe",
    inputs="16 procedural images",
)
PLAN = WeightPlan((4, 8), 0.002104, 1378, 5.5)


def text(**stated) -> str:
    whys = {"conv1": "adds 0.2 % to the output's error"}
    return plan_as_toml(record_of(TABLE, PLAN, whys, model="net.onnx", **stated), "mixed")


def written(tmp_path: pathlib.Path, content: str) -> pathlib.Path:
    path = tmp_path / "plan.toml"
    path.write_text(content, encoding="utf-8")
    return path


def test_what_is_written_reads_as_it_was() -> None:
    import tomllib

    found = text(sha256="ab" * 32)
    record = read_plan(tomllib.loads(found)["plan"], Lines("plan.toml", found))
    assert record.plan_table("plan.toml") == TABLE
    assert (record.bytes, record.sha256) == (1378, "ab" * 32)
    assert [(layer.layer, layer.bits) for layer in record.layers] == [("conv1", 4), ("a[b]", 8), ("c", 8)]


def test_a_plan_is_a_recipe_that_measures_nothing(tmp_path: pathlib.Path) -> None:
    recipe = catalog.find_recipe(str(written(tmp_path, text())))
    names = [step.use for step in recipe.steps]
    assert names[names.index("assign_bits") + 1] == "apply_plan"
    assert not {"measure_sensitivity", "plan_bits"} & set(names)
    catalog.build(recipe)


def test_a_plan_by_hand_needs_layers_alone(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path, 'extends = "mixed"\n[plan]\n[[plan.layers]]\nlayer = "*"\nbits = 4\n')
    assert "apply_plan" in [step.use for step in catalog.find_recipe(str(path)).steps]


HEAD = 'extends = "mixed"\n\n[plan]\n'


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (HEAD + "sise = 3\nlayers = []\n", 4, "unknown key 'sise'"),
        (HEAD, 3, "missing key 'layers'"),
        (
            HEAD + '[[plan.layers]]\nlayer = "a"\nbits = 4\n[[plan.layers]]\nlayer = "b"\nbit = 4\n',
            9,
            "unknown key 'bit'",
        ),
        (HEAD + '[[plan.layers]]\nlayer = "a"\n', 4, "missing key 'bits'"),
        (
            HEAD + '[[plan.layers]]\nlayer = "a"\nbits = 9\n',
            6,
            'bits are 2 to 8, 1.6, 2.67, "ternary" or "float", not 9',
        ),
        (
            HEAD + '[[plan.layers]]\nlayer = "a"\nbits = "4"\n',
            6,
            'bits are 2 to 8, 1.6, 2.67, "ternary" or "float", not "4"',
        ),
        (HEAD + '[[plan.layers]]\nlayer = "a"\nbits = 4.5\n', 6, "bits are 2 to 8, 1.6, 2.67"),
        (
            HEAD + "layers = []\nwidths = [4, 8]\n[[plan.table]]\nlayers = ['a']\nshape = [1]\nchannels = 1\n"
            "loss = [0.1]\ndamage = [0.1, 0.2]\nbytes = [1, 2]\n",
            6,
            "loss, damage and bytes need a figure for each of 2 widths",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: pathlib.Path, content: str, line: int, message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, catalog.LIBRARY)
    assert f"plan.toml:{line}: " in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("floor = 0.0001", "floor = nan", "floor is from 0 to 1e+15, not nan"),
        ("floor = 0.0001", "floor = inf", "floor is from 0 to 1e+15, not inf"),
        ("mean_bits = 5.5", "mean_bits = nan", "mean_bits is from 0 to 1e+15, not nan"),
        ("other_bytes = 1000", "other_bytes = -1", "other_bytes is from 0 to 1e+15, not -1"),
        ("damage = 0.002", "damage = inf", "damage is from 0 to 1e+15, not inf"),
        ("damage = [0.1, ", "damage = [1e308, ", "damage is from 0 to 1e+15, not 1e+308"),
        ("loss = [0.5, ", "loss = [nan, ", "loss is from 0 to 1e+15, not nan"),
        ("bytes = [99, ", "bytes = [-99, ", "bytes is from 0 to 1e+15, not -99"),
        ("bytes = [99, ", "bytes = [999999999999999, ", "all rows together are more than any file holds"),
        ("shape = [8, 3, 3, 3]", "shape = [0]", "no weight has the shape [0]"),
        (
            "shape = [8, 3, 3, 3]",
            "shape = [1000000000, 1000000000]",
            "no weight has the shape [1000000000, 1000000000]",
        ),
        ("channels = 8", "channels = 0", "channels are 1 or more, and no more than weights, not 0"),
        ("channels = 8", "channels = 1000000", "channels are 1 or more, and no more than weights, not 1000000"),
        ('widths = ["ternary", 4, 8, "float"]', "widths = []", "widths in [plan] are 2 to 8, 1.6, 2.67"),
        ('layer = "c"', 'layer = "conv1"', "layer 'conv1' stands in line"),
        ('layers = ["a[b]", "c"]', 'layers = ["a[b]", "conv1"]', "layer 'conv1' stands in line"),
    ],
)
def test_figures_that_nobody_can_reckon_with_are_refused(tmp_path: pathlib.Path, old: str, new: str, said: str) -> None:
    content = text()
    assert old in content
    with pytest.raises(RecipeError) as caught:
        read_recipe(written(tmp_path, content.replace(old, new, 1)), catalog.LIBRARY)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    line = int(str(caught.value).partition("plan.toml:")[2].partition(":")[0])
    assert line > 1


def test_rows_of_no_widths_are_refused(tmp_path: pathlib.Path) -> None:
    content = (
        HEAD + "layers = []\nwidths = []\n[[plan.table]]\nlayers = ['a']\nshape = [1]\nchannels = 1\n"
        "loss = []\ndamage = []\nbytes = []\n"
    )
    with pytest.raises(RecipeError, match=r"plan\.toml:5: widths in \[plan\] are 2 to 8"):
        read_recipe(written(tmp_path, content), catalog.LIBRARY)


def test_a_plan_of_thousands_of_layers_is_read_in_one_go(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    tables = Lines.tables
    monkeypatch.setattr(Lines, "tables", lambda self, name: [asked.append(name), tables(self, name)][1])
    entry = '[[plan.layers]]\nlayer = "/backbone/{0}/Conv"\nbits = 4\nwhy = "{1}"\n'
    content = HEAD + "".join(entry.format(number, "w" * 500) for number in range(3000))
    assert len(content) > 2**20
    step = next(s for s in read_recipe(written(tmp_path, content), catalog.LIBRARY).steps if s.use == "apply_plan")
    assert step.options["lines"] == [4 + 4 * number for number in range(3000)]
    assert len(asked) < 10


def test_a_plan_without_its_table_says_that_another_budget_needs_one(tmp_path: pathlib.Path) -> None:
    record = read_plan({"layers": [{"layer": "*", "bits": 4}]}, Lines("plan.toml", ""))
    with pytest.raises(RecipeError, match=r"plan\.toml: holds no \[\[plan.table\]\]"):
        record.plan_table("plan.toml")
