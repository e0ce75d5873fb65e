"""Run a quantized file beside its float model: python examples/run.py [MODEL [OUTPUT]]"""

import sys

import numpy as np
import onnxruntime

import dfmpc_onnx


def main(model: str = "models/resnet20_cifar10.onnx", output: str = "small.onnx") -> None:
    dfmpc_onnx.quantize(model, output, recipe="int8")
    sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (model, output)]
    given = sessions[0].get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in given.shape]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    wanted, got = (session.run(None, {given.name: x})[0] for session in sessions)
    print("largest difference:", float(np.abs(wanted - got).max()), "of", float(np.abs(wanted).max()))


if __name__ == "__main__":
    main(*sys.argv[1:])
