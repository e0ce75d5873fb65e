"""Use pictures of yours: python examples/own_images.py [MODEL [IMAGES [OUTPUT]]]

IMAGES: an .npz with x (uint8 [n, height, width, 3]) and optionally labels y, or a folder of pictures.
"""

import sys

import dfmpc_onnx


def main(
    model: str = "models/resnet20_cifar10.onnx",
    images: str = "models/cifar10_sample.npz",
    output: str = "small.onnx",
) -> None:
    dfmpc_onnx.quantize(model, output, recipe="int8", images=images)
    for row in dfmpc_onnx.verify(model, output, images=images).providers:
        print(f"{row.fidelity.agreeing} of {row.fidelity.rows} agree, {row.fidelity.sqnr_db} dB")
        if row.fidelity.top1 is not None:
            print(f"top-1 {row.fidelity.top1} %, of the float model {row.fidelity.float_top1} %")


if __name__ == "__main__":
    main(*sys.argv[1:])
