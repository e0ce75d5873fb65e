"""Quantize a model without data, and see what each layer got: python examples/quantize.py [MODEL [OUTPUT]]"""

import sys

import dfmpc_onnx


def main(model: str = "models/resnet20_cifar10.onnx", output: str = "small.onnx") -> None:
    report = dfmpc_onnx.quantize(model, output, recipe="int8").report
    print(f"{report.bytes} bytes, {report.mean_weight_bits:.2f} bits a weight, {report.fidelity.sqnr_db} dB")
    for layer in report.layers:
        print(f"{layer.name:30} {layer.bits} bits", f"stays float: {layer.refused}" if layer.refused else "")


if __name__ == "__main__":
    main(*sys.argv[1:])
