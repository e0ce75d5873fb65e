import pytest

from dfmpc_onnx.graph.chains import Chain, Link, Match, Mismatch
from tests import graphs

CHAIN = Chain(
    (
        Link("conv", frozenset({"Conv"})),
        Link("act", frozenset({"Relu", "Clip"}), optional=True),
        Link("pool", frozenset({"MaxPool"}), repeated=True),
        Link("end", frozenset({"Flatten"})),
    )
)


def matched(*operators, chain=CHAIN, domain=""):
    """The chain matched against Conv and the operators behind it."""
    net = graphs.Net()
    x = net.conv("x", 4)
    for op in operators:
        extra = {"kernel_shape": [1, 1]} if op == "MaxPool" else {}
        x = net.node(op, x, domain=domain if op == "Relu" else "", **extra)
    graph = graphs.workspace(net.model(x)).graph
    return chain.match(graph, graph.nodes[0])


@pytest.mark.parametrize(
    ("operators", "names"),
    [
        (["Relu", "Flatten"], {"act": ["relu1"], "pool": []}),
        (["Flatten"], {"act": [], "pool": []}),
        (["MaxPool", "MaxPool", "Flatten"], {"act": [], "pool": ["maxpool1", "maxpool2"]}),
        (["Clip", "MaxPool", "Flatten"], {"act": ["clip1"], "pool": ["maxpool1"]}),
    ],
)
def test_optional_and_repeated_steps(operators, names):
    found = matched(*operators)
    assert isinstance(found, Match)
    assert {step: [n.name for n in found.nodes[step]] for step in ("act", "pool")} == names
    assert found.one("conv").name == "conv1" and found.one("end").name == "flatten1"
    assert found.one("act") is (found.nodes["act"][0] if found.nodes["act"] else None)


@pytest.mark.parametrize(
    ("operators", "mismatch"),
    [
        (["Sigmoid"], Mismatch("Sigmoid 'sigmoid1' follows, not Clip or Relu or MaxPool or Flatten", 1)),
        (["Relu", "Relu", "Flatten"], Mismatch("Relu 'relu2' follows, not MaxPool or Flatten", 2)),
        (["MaxPool", "Relu"], Mismatch("Relu 'relu1' follows, not MaxPool or Flatten", 2)),
        (["Relu"], Mismatch("'relu1' is an output of the model", 2)),
    ],
)
def test_a_mismatch_says_where_and_why_and_how_far_it_came(operators, mismatch):
    assert matched(*operators) == mismatch


def test_the_first_node_must_fit():
    chain = Chain((Link("gemm", frozenset({"Gemm"})),))
    assert matched("Relu", chain=chain) == Mismatch("Conv 'conv1' is not Gemm", 0)


def test_a_check_refuses_with_its_own_reason():
    chain = Chain(
        (Link("conv", frozenset({"Conv"})), Link("act", frozenset({"Relu"}), check=lambda n: "it is on holiday"))
    )
    assert matched("Relu", chain=chain) == Mismatch("Relu 'relu1': it is on holiday", 1)


def test_operators_of_other_domains_are_strangers():
    assert isinstance(matched("Relu", "Flatten", domain="com.example"), Mismatch)


def test_two_readers_break_a_chain():
    net = graphs.Net()
    x = net.conv("x", 4)
    graph = graphs.workspace(net.model(net.node("Add", net.relu(x), net.node("Sigmoid", x)))).graph
    reason = "'conv1' has 2 consumers (Relu 'relu1', Sigmoid 'sigmoid1')"
    assert CHAIN.match(graph, graph.nodes[0]) == Mismatch(reason, 1)
