"""Put a pass of your own into a recipe: python examples/own_pass.py [MODEL]

The pass only counts: it says how many weights of each layer are zero. CONTRIBUTING.md has one that changes the graph,
and how to make a pass known to the command line.
"""

import sys

import numpy as np

from dfmpc_onnx.graph.query import input_constant, nodes_by_name
from dfmpc_onnx.model.source import load
from dfmpc_onnx.pipeline.facts import Layers
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassManager, PassResult, Rewrite
from dfmpc_onnx.pipeline.settings import Settings, WeightBits
from dfmpc_onnx.pipeline.workspace import Workspace


class CountZeros(Pass[NoOptions]):
    """Before: any graph
    After: the same graph

    Why: a weight of zero needs no bits.

    Requires: the layers.

    Refuses when: never.

    Reference: none.
    """

    name = "count_zeros"
    requires = (Layers,)

    def run(self, workspace: Workspace) -> PassResult:
        nodes = nodes_by_name(workspace.graph)
        found = []
        for layer in workspace.get(Layers).all:
            weight = input_constant(nodes[layer.name], 1)
            if weight is not None:
                zeros = int(np.count_nonzero(np.asarray(weight) == 0))
                found.append(Rewrite(layer.name, "zeros counted", {"zeros": zeros, "weights": int(weight.size)}))
        return PassResult(self.name, tuple(found))


def main(model: str = "models/resnet20_cifar10.onnx") -> None:
    from dfmpc_onnx import catalog
    from dfmpc_onnx.graph.exchange import to_graph

    workspace = Workspace(to_graph(load(model)), Settings(WeightBits.parse("8"), "none"))
    steps = [catalog.find_pass("normalize")(), catalog.find_pass("pair_convolutions")(), CountZeros()]
    for rewrite in PassManager(steps).run(workspace)[-1].rewrites:
        print(rewrite.site, dict(rewrite.figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
