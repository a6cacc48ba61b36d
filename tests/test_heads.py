"""Heads take maps, tokens and vectors; conditional heads read the row of the given class."""

import pytest
import torch

from efface.errors import ConfigError, ShapeError
from efface.heads import TRUNKS, ImageDecoder, as_map, build_head, map_shape, pooled

SHAPES = [(16, 8, 8), (16, 3, 5), (17, 24), (16, 24), (40,)]


@pytest.mark.parametrize("shape", SHAPES)
def test_as_map_agrees_with_map_shape(shape):
    assert as_map(torch.randn(3, *shape)).shape[1:] == map_shape(shape)


def test_tokens_keep_their_place_and_the_class_token_is_seen():
    tokens = torch.randn(2, 5, 4)
    grid = as_map(tokens)
    torch.testing.assert_close(grid[:, :, 0, 1], tokens[:, 2] + tokens[:, 0])


def test_map_shape_refuses_other_shapes():
    with pytest.raises(ShapeError, match=r"Expected `features` to be maps \[D, H, W\].*but got \(1, 2, 3, 4\)"):
        map_shape((1, 2, 3, 4))


def test_pooled_is_mean_maximum_and_spread():
    maps = torch.randn(3, 5, 4, 6)
    mean, top, spread = pooled(maps).chunk(3, dim=1)
    torch.testing.assert_close(mean, maps.mean((2, 3)))
    torch.testing.assert_close(top, maps.amax((2, 3)))
    torch.testing.assert_close(spread, maps.flatten(2).std(2, correction=0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", TRUNKS)
def test_heads_take_every_shape(kind, shape):
    head = build_head(kind, shape, classes=5, width=16, given=3)
    logits, projection = head(torch.randn(4, *shape), torch.tensor([0, 1, 2, -1]))
    assert logits.shape == (4, 5)
    torch.testing.assert_close(projection.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("kind", TRUNKS)
def test_a_conditional_head_answers_by_the_given_class(kind):
    head = build_head(kind, (16, 8, 8), classes=3, width=16, given=2).eval()
    features = torch.randn(4, 16, 8, 8)
    zero, one = (head(features, torch.full((4,), y))[0] for y in (0, 1))
    mixed = head(features, torch.tensor([0, 1, 0, 1]))[0]
    torch.testing.assert_close(mixed, torch.where(torch.tensor([[True], [False], [True], [False]]), zero, one))
    assert not torch.allclose(zero, one)


@pytest.mark.parametrize("kind", TRUNKS)
def test_a_change_of_scale_cannot_blind_a_head(kind):
    torch.manual_seed(0)
    head = build_head(kind, (16, 8, 8), classes=3, width=16)
    features = torch.rand(64, 16, 8, 8) + 0.5
    torch.testing.assert_close(head(features)[0], head(1000 * features)[0], atol=0.05, rtol=0.05)


def test_unknown_kind_names_the_valid_ones():
    with pytest.raises(ConfigError, match="Did you mean 'conv'"):
        build_head("convv", (16, 8, 8), 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("image", [(3, 32, 32), (1, 48, 40), (3, 50, 50)])
def test_decoder_gives_an_image_of_the_right_size(shape, image):
    decoder = ImageDecoder(shape, image, width=16, condition=(2, 5))
    given = [torch.tensor([0, 1, -1]), torch.tensor([4, -1, 0])]
    assert decoder(torch.randn(3, *shape), given).shape == (3, *image)


def test_decoder_reads_the_attribute_it_is_given():
    decoder = ImageDecoder((16, 8, 8), (3, 32, 32), width=16, condition=(2,)).eval()
    features = torch.randn(2, 16, 8, 8)
    images = [decoder(features, [torch.full((2,), z)]) for z in (0, 1, -1)]
    assert not torch.allclose(images[0], images[1])
    assert not torch.allclose(images[0], images[2])
