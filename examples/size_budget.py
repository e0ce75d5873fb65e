"""What does each size cost? python examples/size_budget.py [MODEL [PLAN]]

The model is measured once. Every further budget is planned from the table in the plan file.
"""

import sys

import dfmpc_onnx
from dfmpc_onnx import OptionError


def main(model: str = "models/resnet20_cifar10.onnx", plan: str = "plan.toml") -> None:
    record = dfmpc_onnx.plan(model, plan, mean_bits=8).record
    print(f"8 bits a weight: {record.bytes} bytes, {record.sqnr_db} dB predicted")
    for bits in (6, 4, 3):
        try:
            record = dfmpc_onnx.plan(table_from=plan, mean_bits=bits).record
        except OptionError as error:
            print(f"{bits} bits a weight: {error}")
        else:
            print(f"{bits} bits a weight: {record.bytes} bytes, {record.sqnr_db} dB predicted")


if __name__ == "__main__":
    main(*sys.argv[1:])
