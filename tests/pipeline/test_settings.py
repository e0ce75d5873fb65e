import pytest

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.pipeline.settings import (
    LayerOverride,
    Settings,
    WeightBits,
    WeightBudget,
    parse_activations,
    parse_input_shapes,
)


@pytest.mark.parametrize(
    ("text", "low", "high", "paired"),
    [
        ("2/6", 2, 6, True),
        ("ternary/6", "ternary", 6, True),
        ("8", 8, 8, False),
        (" 4 ", 4, 4, False),
        ("3/3", 3, 3, False),
        ("1.6/6", 1.6, 6, True),
        ("2/2.67", 2, 2.67, True),
        ("1.6", 1.6, 1.6, False),
    ],
)
def test_weights(text, low, high, paired):
    bits = WeightBits.parse(text)
    assert (bits.low, bits.high, bits.paired) == (low, high, paired)
    assert WeightBits.parse(str(bits)) == bits


@pytest.mark.parametrize(
    "text",
    ["", "9", "1", "2/9", "2/", "/6", "2/6/8", "6/ternary", "ternary", "-4", "2.5", "2.66", "1.60", "1.6/ternary", "٤"],
)
def test_weights_that_make_no_sense(text):
    with pytest.raises(OptionError, match="not understood; give LOW/HIGH such as 2/6"):
        WeightBits.parse(text)


@pytest.mark.parametrize(
    ("activations", "reduce_range", "bits", "want"),
    [("8", True, 8, 7), ("8", False, 8, 8), ("none", True, 8, 8), ("8", True, 6, 6), ("8", True, "ternary", "ternary")],
)
def test_a_reduced_range_takes_a_bit_from_eight_between_quantized_activations(activations, reduce_range, bits, want):
    settings = Settings(WeightBits.parse("8"), activations, reduce_range=reduce_range)
    assert settings.rounded_at(bits) == want


@pytest.mark.parametrize(
    ("text", "pattern", "bits"),
    [
        ("conv1=4", "conv1", 4),
        ("conv1=2.67", "conv1", 2.67),
        ("*/dw*=float", "*/dw*", "float"),
        ("a=b=ternary", "a=b", "ternary"),
    ],
)
def test_layer_overrides(text, pattern, bits):
    override = LayerOverride.parse(text)
    assert (override.pattern, override.bits, str(override)) == (pattern, bits, text)


@pytest.mark.parametrize("text", ["conv1", "=4", "conv1=", "conv1=9", "conv1=1", "conv1=2.6", "conv1=float32"])
def test_overrides_that_make_no_sense(text):
    with pytest.raises(OptionError, match="give GLOB=BITS"):
        LayerOverride.parse(text)


@pytest.mark.parametrize(
    ("glob", "name", "hit"), [("conv*", "conv12", True), ("conv?", "conv12", False), ("Conv*", "conv1", False)]
)
def test_names_match_by_glob_and_case(glob, name, hit):
    assert LayerOverride(glob, 4).matches(name) is hit


def test_activations():
    assert parse_activations("8") == parse_activations(8) == "8"
    assert parse_activations("none") == parse_activations("None") == "none"
    assert parse_activations("16") == parse_activations(16) == "16"
    for wrong in ("1", "9", "nan", "", 32):
        with pytest.raises(OptionError, match="give 4, 8, 16, auto or none, or for qonnx 2 to 8"):
            parse_activations(wrong)


def test_input_shapes():
    assert parse_input_shapes(["x:1x3x224x224", "a:b:7"]) == {"x": (1, 3, 224, 224), "a:b": (7,)}
    for wrong in ("x", ":1x3", "x:", "x:1x", "x:0x3", "x:-1x3", "x:1,3", "x:axb"):
        with pytest.raises(OptionError, match=r"give NAME:1x3x224x224"):
            parse_input_shapes([wrong])


@pytest.mark.parametrize(
    ("text", "size", "share"),
    [
        ("2MB", 2_000_000, None),
        ("1.5 mb", 1_500_000, None),
        ("512KiB", 524_288, None),
        ("123456", 123_456, None),
        ("25%", None, 0.25),
        (".5GiB", 2**29, None),
    ],
)
def test_a_size_is_bytes_or_a_share(text, size, share):
    budget = WeightBudget.parse(text)
    assert (budget.size, budget.share) == (size, share)


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "0", "2TB", "2 M B", "1e6", "nan%", "0%"])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(OptionError, match=r"max-size .*: not understood; give bytes such as 2MB or 512KiB, or 25%"):
        WeightBudget.parse(text)


def test_a_share_is_of_the_float_file():
    assert WeightBudget.parse("25%").of_file(1_000_000).size == 250_000


@pytest.mark.parametrize(
    "options", [{"mean_bits": 0.0}, {"mean_bits": 40.0}, {"min_sqnr": -3.0}, {"max_float_layers": -1}]
)
def test_budgets_out_of_range_are_refused(options):
    with pytest.raises(OptionError):
        WeightBudget.parse(**options)


def test_a_budget_says_what_was_asked_for():
    assert str(WeightBudget.parse("2MB", min_sqnr=30, max_float_layers=1)) == (
        "max-size 2000000, min-sqnr 30, max-float-layers 1"
    )
    assert not WeightBudget(other_bytes=5).asked and WeightBudget(most_float=1).asked


@pytest.mark.parametrize("wrong", ["6/2", "8/3"])
def test_low_layers_have_no_more_bits_than_the_others(wrong):
    with pytest.raises(OptionError, match=f"weights '{wrong}': LOW is more than HIGH; give {wrong[2]}/{wrong[0]}"):
        WeightBits.parse(wrong)


def test_fixed_words_are_read_in_any_case():
    assert str(WeightBits.parse("Ternary/6")) == "ternary/6" and WeightBits.parse("AUTO").auto
    assert LayerOverride.parse("head/*=FLOAT").bits == "float"


def test_a_share_above_the_whole_float_file_is_a_mistake():
    with pytest.raises(OptionError, match=r"max-size '150%': that is more than the float file; give at most 100%"):
        WeightBudget.parse("150%")
    assert WeightBudget.parse("100%").share == 1.0


@pytest.mark.parametrize("size", ["25", "0.25", "999B", 25])
def test_a_size_that_lacks_its_unit_is_refused_at_once(size: str | int) -> None:
    with pytest.raises(OptionError, match=rf"max-size {size}: that is [0-9.]+ bytes, .*; give a share such as 25% or"):
        WeightBudget.parse(size)


def test_a_budget_keeps_the_size_as_it_was_written() -> None:
    """A refusal of 25% that speaks of 23625 bytes is about nothing that the user wrote."""
    budget = WeightBudget.parse("25%").of_file(94500)
    assert (budget.stated_size, budget.size, budget.float_bytes) == ("25%", 23625, 94500)
    assert not WeightBudget().of_file(94500).asked
