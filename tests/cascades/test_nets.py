"""Small networks: shapes, sizes known from the papers, blocks worked by hand."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="networks need torch")
from offramp.cascades.models.nets import BasicBlock, CifarAlexNet, CifarGoogLeNet, CifarResNet, Inception, conv_norm  # noqa: E402

MODULES = [[(4, (4, 6), (2, 3), 3)], [(4, (4, 6), (2, 3), 3)] * 2]


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("blocks", "millions"), [(3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85), (18, 1.7)])
def test_resnets_have_the_papers_number_of_parameters(blocks: int, millions: float) -> None:
    """He et al. (2016), table 6."""
    assert parameters(CifarResNet((blocks,) * 3)) / 1e6 == pytest.approx(millions, abs=0.031)


@pytest.mark.parametrize(
    "module",
    [
        CifarAlexNet((4, 4, 4, 4, 4), 8, 7),
        CifarGoogLeNet((4, 6), MODULES, 7),
        CifarResNet((1, 1, 1), classes=7),
        CifarResNet((1, 2, 1), (4, 8, 8), True, 7),
    ],
    ids=["alexnet", "googlenet", "resnet", "wide"],
)
def test_one_logit_a_class_and_every_example_on_its_own(module: torch.nn.Module) -> None:
    module.eval()
    x = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        logits = module(x)
        assert logits.shape == (3, 7)
        assert torch.allclose(module(x[1:2]), logits[1:2], atol=1e-5)
        assert torch.allclose(module(x.contiguous(memory_format=torch.channels_last)), logits, atol=1e-5)


def test_only_the_stride_shrinks() -> None:
    x = torch.randn(1, 3, 16, 16)
    for size in (1, 3, 5):
        assert conv_norm(3, 4, size)(x).shape == (1, 4, 16, 16)
        assert conv_norm(3, 4, size, 2)(x).shape == (1, 4, 8, 8)


def test_inception_puts_its_branches_side_by_side() -> None:
    module = Inception(5, 2, (3, 4), (2, 6), 7).eval()
    x = torch.randn(2, 5, 8, 8)
    with torch.no_grad():
        out = module(x)
        assert out.shape == (2, 19, 8, 8)
        assert module.outputs == 19
        assert torch.equal(out[:, :2], module.one(x))
        assert torch.equal(out[:, -7:], module.pooled(x))


def silent(block: BasicBlock) -> BasicBlock:
    """Both convolutions zero, so that the shortcut is seen alone."""
    torch.nn.init.zeros_(block.conv1.weight)
    torch.nn.init.zeros_(block.conv2.weight)
    return block.eval()


def test_option_a_takes_every_second_pixel_and_pads_channels_with_zeros() -> None:
    x = torch.rand(1, 2, 4, 4)
    with torch.no_grad():
        out = silent(BasicBlock(2, 4, 2, project=False))(x)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert out[:, 0].abs().sum() == out[:, 3].abs().sum() == 0


def test_a_shortcut_of_the_same_shape_is_the_identity() -> None:
    x = torch.rand(1, 3, 4, 4)
    for project in (False, True):
        with torch.no_grad():
            assert torch.equal(silent(BasicBlock(3, 3, 1, project))(x), x)


def test_option_b_projects() -> None:
    block = silent(BasicBlock(2, 4, 2, project=True))
    x = torch.rand(1, 2, 4, 4)
    with torch.no_grad():
        assert torch.equal(block(x), torch.relu(block.shortcut(x)))
    assert len(block.shortcut) == 2
