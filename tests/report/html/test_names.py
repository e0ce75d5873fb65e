"""Short names: what they leave out, and that no two become one."""

from __future__ import annotations

from dfmpc_onnx.report.html.names import ShortNames


def test_what_all_have_in_common_goes_and_the_operator() -> None:
    names = ["/net/features.0/conv/Conv", "/net/features.1/fc/Gemm", "/net/features.1/Add_output_0"]
    short = ShortNames(names)
    assert [short(name) for name in names] == ["features.0/conv", "features.1/fc", "features.1/Add"]
    assert short("/net/features.1/Add") == "features.1/Add"  # the node, of which the tensor is known


def test_a_part_that_the_next_one_repeats_goes() -> None:
    short = ShortNames(["/layer1/layer1.0/conv1/Conv", "/layer2/layer2.0/conv1/Conv"])
    assert short("/layer2/layer2.0/conv1/Conv") == "layer2.0/conv1"


def test_two_names_never_become_one() -> None:
    names = ["a/Conv", "a/Gemm", "b"]
    short = ShortNames(names)
    assert [short(name) for name in names] == names


def test_a_name_without_parts_stays_and_so_does_an_unknown_one() -> None:
    assert ShortNames(["conv1"])("conv1") == "conv1"
    assert ShortNames(["Conv"])("Conv") == "Conv"
    assert ShortNames([])("x/y/Conv") == "x/y/Conv"


def test_control_characters_are_shown_as_data() -> None:
    assert "\x1b" not in ShortNames(["a\x1b[31m/Conv"])("a\x1b[31m/Conv")
