"""Small relatives of AlexNet, GoogLeNet and ResNet for images of 32 x 32, as torch modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10


def conv_norm(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """Convolution without a bias, batch norm, ReLU; padded so that only the stride shrinks the image."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class CifarAlexNet(nn.Module):
    """Five convolutions, the first one with a stride, three poolings, three fully connected layers.

    After Krizhevsky, Sutskever & Hinton (2012); batch norm in place of local response normalisation.
    (n, 3, 32, 32) -> logits (n, classes).
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 96, 96, 64), hidden: int = 256, classes: int = CLASSES) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.features = nn.Sequential(
            conv_norm(3, a, 5, 2),
            conv_norm(a, b, 3),
            nn.MaxPool2d(2),
            conv_norm(b, c, 3),
            conv_norm(c, d, 3),
            conv_norm(d, e, 3),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(16 * e, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Linear(hidden, hidden // 2),
            nn.ReLU(inplace=True),
            nn.Linear(hidden // 2, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, 3, 32, 32)."""
        return self.classifier(self.features(x))  # type: ignore[no-any-return]


class Inception(nn.Module):
    """Four branches side by side: 1x1; 1x1 to 3x3; 1x1 to 3x3 to 3x3; pooled to 1x1 (Szegedy et al., 2015)."""

    def __init__(self, inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pooled: int) -> None:
        super().__init__()
        self.one = conv_norm(inputs, one, 1)
        self.three = nn.Sequential(conv_norm(inputs, three[0], 1), conv_norm(three[0], three[1], 3))
        self.five = nn.Sequential(
            conv_norm(inputs, five[0], 1), conv_norm(five[0], five[1], 3), conv_norm(five[1], five[1], 3)
        )
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_norm(inputs, pooled, 1))
        self.outputs = one + three[1] + five[1] + pooled

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h, w)."""
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], dim=1)


class CifarGoogLeNet(nn.Module):
    """A stem that halves the image, inception modules at 16 x 16 and 8 x 8, average pooling, one linear layer.

    ``modules`` are (one, three, five, pooled) widths for each size. (n, 3, 32, 32) -> logits (n, classes).
    """

    def __init__(
        self,
        stem: tuple[int, int],
        modules: Sequence[Sequence[tuple[int, tuple[int, int], tuple[int, int], int]]],
        classes: int = CLASSES,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm(3, stem[0], 3), conv_norm(stem[0], stem[1], 3, 2)]
        width = stem[1]
        for i, size in enumerate(modules):
            if i:
                layers.append(nn.MaxPool2d(3, 2, 1))
            for one, three, five, pooled in size:
                module = Inception(width, one, three, five, pooled)
                layers.append(module)
                width = module.outputs
        self.features = nn.Sequential(*layers)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2))
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, 3, 32, 32)."""
        return self.fc(self.pool(self.features(x)))  # type: ignore[no-any-return]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., 2016): option A pads with zeros, B projects with 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        self.padding = 0
        if stride != 1 or inputs != outputs:
            if project:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )
            else:
                self.padding = (outputs - inputs) // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride)."""
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.padding:
            out += functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        else:
            out += self.shortcut(x)
        return functional.relu(out, inplace=True)


class CifarResNet(nn.Module):
    """Basic blocks at three sizes, average pooling, one linear layer (He et al., 2016, section 4.2).

    ``blocks`` and ``widths`` (channels) for each size. With 16, 32 and 64 channels and option A these are ResNet-20
    (3 blocks each) to ResNet-110 (18), parameter for parameter; wider ones with projections are wide ResNets
    (Zagoruyko & Komodakis, 2016), which suit a CPU better.
    (n, 3, 32, 32) -> logits (n, classes).
    """

    def __init__(
        self,
        blocks: Sequence[int],
        widths: Sequence[int] = (16, 32, 64),
        project: bool = False,
        classes: int = CLASSES,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = self._layer(widths[0], widths[0], blocks[0], 1, project)
        self.layer2 = self._layer(widths[0], widths[1], blocks[1], 2, project)
        self.layer3 = self._layer(widths[1], widths[2], blocks[2], 2, project)
        self.linear = nn.Linear(widths[2], classes)

    @staticmethod
    def _layer(inputs: int, outputs: int, blocks: int, stride: int, project: bool) -> nn.Sequential:
        first = BasicBlock(inputs, outputs, stride, project)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, project) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, 3, 32, 32)."""
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class LeNet(nn.Module):
    """Three convolutions, each halved by pooling, and two fully connected layers, for grey images of 28 x 28.

    After LeCun et al. (1998), with ReLU and maximum pooling as in BranchyNet (Teerapittayanon et al., 2016), whose
    widths these are. (n, 1, 28, 28) -> logits (n, classes).
    """

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(1, 5, 5, 1, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.conv2 = nn.Sequential(nn.Conv2d(5, 10, 5, 1, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.conv3 = nn.Sequential(nn.Conv2d(10, 20, 5, 1, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(20 * 5 * 5, 84), nn.ReLU(inplace=True), nn.Linear(84, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, 1, 28, 28)."""
        return self.classifier(self.conv3(self.conv2(self.conv1(x))))  # type: ignore[no-any-return]


class BranchyAlexNet(nn.Module):
    """The AlexNet for CIFAR-10 of BranchyNet (Teerapittayanon et al., 2016): five convolutions without a stride.

    Batch norm stands where the paper has local response normalisation. (n, 3, 32, 32) -> logits (n, classes).
    """

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(conv_norm(3, 32, 5), nn.MaxPool2d(3, 2, 1))
        self.conv2 = nn.Sequential(conv_norm(32, 64, 5), nn.MaxPool2d(3, 2, 1))
        self.conv3 = conv_norm(64, 96, 3)
        self.conv4 = conv_norm(96, 96, 3)
        self.conv5 = nn.Sequential(conv_norm(96, 64, 3), nn.MaxPool2d(3, 2, 1))
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * 64, 256),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(256, 128),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(128, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, 3, 32, 32)."""
        x = self.conv3(self.conv2(self.conv1(x)))
        return self.classifier(self.conv5(self.conv4(x)))  # type: ignore[no-any-return]
