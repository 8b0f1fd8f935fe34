"""Our backbones as encoders of segmentation-models-pytorch."""

import pytest
import segmentation_models_pytorch as smp
import timm
import torch

from lk_downstream import load_weights


@pytest.mark.parametrize("name", ["test_replknet", "test_slak"])
@pytest.mark.parametrize("decoder", [smp.UPerNet, smp.Unet])
def test_our_models_are_encoders(name, decoder):
    model = decoder(f"tu-{name}", encoder_weights=None, classes=7)
    image = torch.randn(2, 3, 64, 96)
    logits = model(image)
    assert logits.shape == (2, 7, 64, 96)
    logits.square().mean().backward()
    trained = [key for key, tensor in model.encoder.named_parameters() if tensor.grad is not None]
    assert any("stages.3" in key and "large_kernel" in key for key in trained)
    maps = model.eval().encoder(image)[-4:]
    assert [tuple(item.shape[-2:]) for item in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize("name", ["test_replknet", "test_slak"])
def test_published_weights_load_into_the_encoder(name):
    """And give the maps of the classifier that they come from."""
    classifier = timm.create_model(name).eval()
    for tensor in classifier.parameters():
        tensor.data.normal_(std=0.2)
    model = smp.UPerNet(f"tu-{name}", encoder_weights=None, classes=7).eval()
    load_weights(model.encoder.model, {"model": classifier.state_dict()}, verbose=False)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = classifier.forward_intermediates(image, intermediates_only=True)
        for one, other in zip(expected, model.encoder(image)[-4:], strict=True):
            torch.testing.assert_close(one, other)
