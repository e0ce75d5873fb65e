import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto

import dfmpc_onnx
from dfmpc_onnx.numerics.codebook import Blocks, Codebook, trits
from dfmpc_onnx.qdq.code_formats import (
    PLAIN,
    RUNTIMES,
    Form,
    Kind,
    Plane,
    choose_forms,
    forms,
    oldest_runtime,
    opset_for,
)
from tests.graphs import Net

LARGE = 1_000_000  # weights, so that nodes and tables count for nothing
TABLE = "table"


def chosen(bits, opset=25, size=LARGE, ternary=False):
    return choose_forms({"w": Kind(size, bits, ternary)}, opset)["w"]


def encodings(form):
    return [(plane.bits, plane.encoding) for plane in form.planes]


@pytest.mark.parametrize(("bits", "opset", "planes"), [
    (2, 25, [(2, "type")]), (2, 21, [(2, TABLE)]), (2, 13, [(2, TABLE)]),
    (3, 25, [(2, "type"), (1, TABLE)]), (3, 21, [(2, TABLE), (1, TABLE)]), (3, 13, [(2, TABLE), (1, TABLE)]),
    (4, 25, [(4, "type")]), (4, 21, [(4, "type")]), (4, 13, [(4, TABLE)]),
    (5, 25, [(4, "type"), (1, TABLE)]), (5, 21, [(4, "type"), (1, TABLE)]), (5, 13, [(4, TABLE), (1, TABLE)]),
    (6, 25, [(4, "type"), (2, "type")]), (6, 21, [(4, "type"), (2, TABLE)]), (6, 13, [(4, TABLE), (2, TABLE)]),
    (7, 25, [(4, "type"), (2, "type"), (1, TABLE)]), (7, 13, [(4, TABLE), (2, TABLE), (1, TABLE)]),
    (8, 25, [(8, "type")]), (8, 13, [(8, "type")]),
])  # fmt: skip
def test_a_large_weight_takes_as_many_bits_as_its_codes_have_in_every_opset(bits, opset, planes):
    form = chosen(bits, opset)
    assert encodings(form) == planes
    assert form.bits == bits and form.bytes(LARGE) == LARGE * bits // 8
    assert form.opset <= opset


@pytest.mark.parametrize("opset", [13, 21, 25])
def test_ternary_codes_take_a_fifth_of_a_byte(opset):
    form = chosen(2, opset, ternary=True)
    assert encodings(form) == [(2, "blocks")] and form.planes[0].book == trits()
    assert (form.bits, form.bytes(LARGE), form.bytes(LARGE + 1)) == (1.6, LARGE // 5, LARGE // 5 + 1)


@pytest.mark.parametrize("opset", [13, 21, 25])
@pytest.mark.parametrize(("length", "run", "each"), [(5, 1000, 200), (5, 1001, 201), (4, 1000, 250), (3, 1000, 334)])
@pytest.mark.parametrize("bits", [8, 9, 10])
def test_blocks_of_a_codebook_take_their_indices_and_begin_anew_in_each_channel(length, bits, run, each, opset):
    form = choose_forms({"w": blocks_kind(64, run, length, bits)}, opset)["w"]
    assert (encodings(form), form.bits, form.bytes(64 * run)) == ([(7, "blocks")], bits / length, 8 * bits * each)
    assert (form.opset, oldest_runtime([form], 13)) == (13, "1.16")


def test_indices_that_do_not_come_out_even_take_another_form():
    assert len(forms(blocks_kind(10, 63, 3, 8))) > len(forms(blocks_kind(10, 63, 3, 9)))
    assert len(forms(blocks_kind(8, 63, 3, 8))) == len(forms(blocks_kind(8, 63, 3, 9)))


def test_a_table_that_one_small_layer_alone_would_pay_for_is_not_written():
    assert choose_forms({"w": blocks_kind(8, 40, 4)})["w"] == PLAIN


@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
def test_below_opset_13_everything_takes_8_bits(bits, ternary):
    assert chosen(bits, 12, ternary=ternary) == PLAIN


@pytest.mark.parametrize(("bits", "ternary", "opset", "runtime"), [
    (2, True, 13, "1.16"), (2, False, 25, "1.24"), (3, False, 25, "1.24"), (4, False, 21, "1.23"),
    (5, False, 21, "1.23"), (6, False, 25, "1.24"), (7, False, 25, "1.24"), (8, False, 13, "1.16"),
])  # fmt: skip
def test_what_the_smallest_form_of_each_width_needs(bits, ternary, opset, runtime):
    form = chosen(bits, ternary=ternary)
    assert (form.opset, opset_for([PLAIN, form]), oldest_runtime([form, PLAIN], opset)) == (opset, opset, runtime)


def test_nothing_stored_needs_the_least():
    assert (opset_for([]), oldest_runtime([], 13)) == (13, "1.16")


@pytest.mark.parametrize(("bits", "size", "stored"), [
    (6, 100, 8), (6, 576, 8), (6, 2304, 6), (4, 60, 8), (4, 576, 4), (3, 576, 4), (2, 40, 8), (2, 576, 2),
])  # fmt: skip
def test_small_weights_stay_in_types_whose_nodes_cost_less(bits, size, stored):
    assert chosen(bits, size=size).bits == stored


def test_a_table_is_taken_where_the_layers_that_share_it_pay_for_it_together():
    one = {"a": Kind(4608, 3)}
    many = {str(i): Kind(4608, 3) for i in range(20)}
    assert {form.bits for form in choose_forms(one).values()} == {4}
    assert {form.bits for form in choose_forms(many).values()} == {3}


def test_types_are_preferred_where_a_table_saves_next_to_nothing():
    typed, table = Form((Plane(4),)), Form((Plane(4, encoding="table"),))
    assert chosen(4) == typed
    assert typed.bytes(LARGE) == table.bytes(LARGE) and typed.cost(LARGE) < table.cost(LARGE)


def total(choice, kinds):
    tables = frozenset().union(*(form.tables for form in choice.values()))
    return sum(form.cost(kinds[name].size) for name, form in choice.items()) + sum(t.table.size for t in tables)


def blocks_kind(channels, run, length, bits=8):
    """Of a weight whose output channels are blocks of a codebook."""
    return Kind(channels * run, 7, book=Codebook.nominal(Blocks(length, bits)), run=run)


kinds_of_a_model = st.dictionaries(
    st.text(max_size=3),
    st.builds(Kind, st.integers(0, 40_000), st.integers(2, 8), st.just(False))
    | st.builds(Kind, st.integers(0, 40_000), st.just(2), st.just(True))
    | st.builds(blocks_kind, st.integers(0, 400), st.integers(1, 100), st.integers(2, 5), st.integers(8, 10)),
    max_size=12,
)


@given(kinds_of_a_model, st.sampled_from([9, 13, 14, 21, 25, 26]))
@example({"small": Kind(932, 2)}, 13)  # one table after the other is given up, and each leads to the next
def test_a_plan_holds_every_code_in_an_opset_that_can_decode_it_and_is_no_larger_than_8_bits(kinds, opset):
    plan = choose_forms(kinds, opset)
    assert list(plan) == list(kinds)
    for name, form in plan.items():
        assert form == PLAIN or form.opset <= opset
        assert form.planes[0].encoding == "blocks" or sum(form.widths) >= kinds[name].bits
        assert form in forms(kinds[name], opset)
    assert total(plan, kinds) <= sum(kind.size for kind in kinds.values()) + 1e-6


@given(kinds_of_a_model)
def test_the_opset_that_a_plan_needs_gives_the_same_plan(kinds):
    plan = choose_forms(kinds)
    again = choose_forms(kinds, opset_for(plan.values()))
    assert total(again, kinds) <= total(plan, kinds) + 1e-6


@given(st.integers(0, 200), st.integers(2, 8), st.booleans())
def test_every_form_has_a_plane_for_every_bit_and_a_runtime(size, bits, ternary):
    for form in forms(Kind(size, bits, ternary and bits == 2)):
        assert form.opset in RUNTIMES
        first, *others = form.planes
        assert first.signed and not any(plane.signed for plane in others)
        assert form.planes[-1].shift == 0
        assert form.bytes(size) * 8 >= size * form.bits - 1e-9
        for plane in form.planes:
            found = plane.table
            assert found is None or (found.table.dtype == np.int8 and found.length == plane.codes_each)


@pytest.mark.parametrize(("opset", "runtime"), [(9, "1.16"), (19, "1.16"), (22, "1.21"), (24, "1.24"), (99, "1.31")])
def test_the_opset_of_the_graph_counts_too(opset, runtime):
    assert oldest_runtime([PLAIN], opset) == runtime


@pytest.mark.parametrize("target", ["cpu", "portable", "tensorrt", "webgpu"])
@pytest.mark.parametrize("weights", ["ternary/6", "4", "7", "8"])
def test_a_file_holds_little_but_its_codes(weights, target):
    """At most 1.03 times the codes, the float and int32 numbers beside them, and 1.5 kB a layer."""
    net = Net()
    x = net.block("x", 64)
    for width in (96, 128, 96):
        x = net.block(x, width)
    made = dfmpc_onnx.quantize(
        net.model(net.tail(x, 10)), None, "per-channel", weights=weights, target=target, check=False
    )
    codes = sum(layer.weights * (1.6 if layer.ternary else layer.bits) / 8 for layer in made.report.layers)
    numbers = (TensorProto.FLOAT, TensorProto.INT32)
    beside = sum(len(t.raw_data) for t in made.model.graph.initializer if t.data_type in numbers)
    assert made.report.bytes <= 1.03 * codes + beside + 1500 * len(made.report.layers)
