"""A network of a user's own."""

from torch import nn


def small(classes: int) -> nn.Module:
    layers = {
        "stage": nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "head": nn.Linear(4, classes),
    }
    made = nn.Sequential()
    for name, layer in layers.items():
        made.add_module(name, layer)
    return made


def no_network(classes: int) -> int:
    return classes
