"""Attention on the U-Net's lowest level: no effect at first, over all places, aware of which."""

import pytest
import torch
from torch import nn

from shapefit.scene.unet import Attention, AttentiveUNet, places


def unet(attention: int, channels: tuple[int, ...] = (4, 8, 16)) -> AttentiveUNet:
    torch.manual_seed(0)
    strides = (2,) * (len(channels) - 1)
    return AttentiveUNet(
        attention, spatial_dims=2, in_channels=2, out_channels=4, channels=channels, strides=strides
    )


def awake(block: Attention) -> Attention:
    """One whose last layers do something."""
    torch.manual_seed(1)
    for layer in (block.take, block.narrow):
        nn.init.normal_(layer.weight, std=0.2)
    return block.eval()


@pytest.mark.parametrize("channels", [2, 6, 16])
def test_a_new_block_changes_nothing(channels):
    image = torch.randn(2, channels, 5, 3)
    assert torch.equal(Attention(channels)(image), image)


def test_a_network_that_gets_blocks_answers_as_before():
    plain, attentive = unet(0).eval(), unet(2).eval()
    known, own = plain.state_dict(), attentive.state_dict()
    attentive.load_state_dict({k: known.get(k.replace(".bottom.", "."), v) for k, v in own.items()})
    image = torch.randn(1, 2, 24, 16)
    assert torch.equal(attentive(image), plain(image))
    assert len(own) > len(known)


def test_every_place_sees_all_the_others():
    image = torch.randn(1, 8, 6, 7, requires_grad=True)
    block = awake(Attention(8))
    block(image)[0, :, 0, 0].square().sum().backward()
    assert (image.grad.abs().sum(1) > 0).all()


def test_what_is_seen_depends_on_where_it_is():
    block, image = awake(Attention(16)), torch.randn(1, 16, 4, 6)
    turned = block(image.flip(-1)).flip(-1)
    assert (turned - block(image)).abs().max() > 1e-3
    known = places(7, 9, 16)
    apart = torch.cdist(known, known) + torch.eye(63)
    assert apart.min() > 0.1
    # a step to the right is the same step everywhere: sums of angles
    grid = known.unflatten(0, (7, 9))
    near = (grid[:, 1:] * grid[:, :-1]).sum(-1)
    torch.testing.assert_close(near, near[:1, :1].expand_as(near))


def test_blocks_are_counted_from_none():
    with pytest.raises(ValueError, match="no or some blocks of attention, got -1"):
        unet(-1)
