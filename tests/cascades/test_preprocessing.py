"""Crops and numbers equal to those of torchvision and timm, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from offramp.cascades.models.preprocessing import INTERPOLATIONS, LARGEST, Preprocessing, of_timm, of_torchvision
from offramp.features.errors import InputError

torch = pytest.importorskip("torch", reason="networks need torch")
models = pytest.importorskip("torchvision.models", reason="networks need torchvision")
timm_data = pytest.importorskip("timm.data", reason="networks need timm")

SIZES = ((640, 480), (333, 500), (224, 224), (256, 256), (257, 255), (31, 97), (1, 1), (500, 7), (225, 226))
HALF = (0.5, 0.5, 0.5)


def picture(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(size)
    noise = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def ours(preprocessing: Preprocessing, image: Image.Image) -> torch.Tensor:
    return preprocessing.normalise(torch.from_numpy(preprocessing.cropped(image)[None]))[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["AlexNet", "EfficientNet_B0", "EfficientNet_B1", "Inception_V3"])
def test_as_torchvision_does(name: str, size: tuple[int, int]) -> None:
    preset = getattr(models, f"{name}_Weights").DEFAULT.transforms()
    image = picture(size)
    assert torch.equal(ours(of_torchvision(preset), image), preset(image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("mode", "interpolation", "share", "side"),
    [
        ("center", "bicubic", 0.875, (224, 224)),
        ("center", "bilinear", 0.95, (160, 160)),
        ("center", "lanczos", 1.0, (65, 65)),
        ("squash", "bicubic", 0.9, (112, 96)),
        ("squash", "bicubic", 1.0, (128, 128)),
    ],
)
def test_as_timm_does(
    mode: str, interpolation: str, share: float, side: tuple[int, int], size: tuple[int, int]
) -> None:
    asked = {"input_size": (3, *side), "crop_pct": share, "interpolation": interpolation, "mean": HALF, "std": HALF}
    config = timm_data.resolve_data_config(asked | {"crop_mode": mode})
    transform = timm_data.create_transform(**config)
    image = picture(size)
    assert torch.equal(ours(of_timm(config), image), transform(image))


def config(**other: object) -> dict[str, object]:
    base = {"input_size": (3, 64, 64), "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic"}
    return {**base, "mean": HALF, "std": HALF, **other}


@pytest.mark.parametrize(
    "other",
    [{"crop_mode": "border"}, {"input_size": (3, 64, 32)}, {"interpolation": "random"}, {"input_size": (12, 64, 64)}],
)
def test_what_we_cannot_do_is_said(other: dict[str, object]) -> None:
    with pytest.raises(InputError, match="a timm model"):
        of_timm(config(**other), "a timm model")


def test_transforms_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match="image classifier"):
        of_torchvision(object())


def test_interpolations_are_pils() -> None:
    for name, number in INTERPOLATIONS.items():
        assert Image.Resampling[name.split("-")[0].upper()] == number


def test_images_of_the_right_size_are_taken_as_they_are() -> None:
    plain = Preprocessing(None, (32, 32), "bilinear", HALF, HALF)
    image = picture((32, 32))
    assert np.array_equal(plain.cropped(image), np.asarray(image))
    other = picture((50, 20))
    assert np.array_equal(plain.cropped(other), np.asarray(other.resize((32, 32), Image.Resampling.BILINEAR)))
    whole = Preprocessing(None, None, "bilinear", HALF, HALF)
    assert np.array_equal(whole.cropped(other), np.asarray(other))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_modes_become_colours_or_grey(mode: str) -> None:
    image = picture((40, 40), mode)
    assert Preprocessing(None, (32, 32), "bilinear", HALF, HALF).cropped(image).shape == (32, 32, 3)
    assert Preprocessing(None, (32, 32), "bilinear", (0.5,), (0.5,), 1).cropped(image).shape == (32, 32, 1)


def test_normalised_by_hand() -> None:
    two = Preprocessing(None, None, "bilinear", (0.5,), (0.25,), 1)
    x = torch.tensor([[[[0], [255]], [[51], [102]]]], dtype=torch.uint8)
    assert two.normalise(x).tolist() == [[[[-2.0, 2.0], pytest.approx([-1.2, -0.4])]]]
    assert x.flatten().tolist() == [0, 255, 51, 102]


def test_normalised_batches_lie_channels_last() -> None:
    three = Preprocessing(None, None, "bilinear", HALF, HALF)
    done = three.normalise(torch.zeros(2, 4, 5, 3, dtype=torch.uint8))
    assert done.shape == (2, 3, 4, 5)
    assert done.dtype == torch.float32
    assert done.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match=r"\(n, h, w, 3\), found \(2, 3, 4, 5\)"):
        three.normalise(torch.zeros(2, 3, 4, 5, dtype=torch.uint8))


def test_equal_keys_are_equal_crops() -> None:
    one = Preprocessing(40, (32, 32), "bilinear", HALF, HALF)
    assert one.pixels_key == Preprocessing(40, (32, 32), "bilinear", (0.1, 0.2, 0.3), HALF).pixels_key
    others = [
        Preprocessing(41, (32, 32), "bilinear", HALF, HALF),
        Preprocessing(40, (32, 31), "bilinear", HALF, HALF),
        Preprocessing(40, (32, 32), "bicubic", HALF, HALF),
        Preprocessing(40, (32, 32), "bilinear", (0.5,), (0.5,), 1),
    ]
    assert len({one.pixels_key, *(other.pixels_key for other in others)}) == 5


def test_a_long_strip_fills_no_memory() -> None:
    """Resized whole, it would have 224 * 224 * 20,000 pixels; what is seen of it is what a shorter strip shows."""
    way = Preprocessing(224, (224, 224), "bilinear", HALF, HALF)
    ramp = np.repeat(np.linspace(0, 255, 20_000).astype(np.uint8)[:, None, None], 3, axis=2)
    assert 224 * 224 * len(ramp) > LARGEST
    seen = way.cropped(Image.fromarray(ramp))
    middle = way.cropped(Image.fromarray(ramp[len(ramp) // 2 - 50 : len(ramp) // 2 + 50]))
    assert np.abs(seen.astype(int) - middle.astype(int)).max() <= 1
