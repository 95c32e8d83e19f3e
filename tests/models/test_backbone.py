import pytest
import torch
from torch import nn

from vibray.config import UserError
from vibray.models.backbone import LAYERS, BatchNorm, Decoder, Trunk, TrunkConfig, batch_norms, freeze_statistics, map_shape

TINY = TrunkConfig(width=4)


def test_the_trunk_is_torchvisions_resnet18_up_to_bias_and_activation():
    """Same weights, same map: torchvision's batch norms start with scale 1 and shift 0, which is what ours always have."""
    trunk = Trunk(TrunkConfig(), in_channels=3)  # the first net makes torchvision importable beside a CPU build of torch
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs: nn.Module = resnet18()
    theirs.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    for module in list(theirs.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.LeakyReLU())
    missing, unexpected = trunk.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing
    assert all(key.endswith((".weight", ".bias")) and ("bn" in key or "downsample.1" in key) for key in unexpected)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(trunk.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(trunk.train()(x), theirs.train()(x), rtol=1e-4, atol=1e-4)


def test_no_bias_anywhere_and_unbounded_activations():
    trunk = Trunk(TINY, in_channels=2)
    assert not [name for name, _ in trunk.named_parameters() if "bias" in name]
    for module in trunk.modules():
        assert getattr(module, "bias", None) is None
        assert not isinstance(module, nn.ReLU)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert isinstance(module, BatchNorm)
            assert module.weight is None
    assert sum(isinstance(module, nn.LeakyReLU) for module in trunk.modules()) == 9
    assert set(LAYERS) <= {name for name, _ in trunk.named_children()}


def test_without_biases_nothing_is_mapped_to_nothing():
    """A bias-free net is homogeneous: f(0) = 0 and f(2x) = 2 f(x), so that no constant map but 0 can be learnt."""
    trunk = Trunk(TINY, in_channels=1).eval()
    x = torch.randn(2, 1, 32, 32)
    assert trunk(torch.zeros_like(x)).abs().max() == 0
    torch.testing.assert_close(trunk(2 * x), 2 * trunk(x))
    control = Trunk(TrunkConfig(width=4, bias=True), in_channels=1).eval()
    for name, parameter in control.named_parameters():
        if "bias" in name:
            nn.init.constant_(parameter, 0.1)
    assert control(torch.zeros_like(x)).abs().max() > 0


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 33, 65), (3, 96, 128)])
def test_shapes_of_map_and_decoder(shape):
    rows, columns = map_shape(shape)
    x = torch.randn(2, *shape)
    trunk = Trunk(TINY, shape[0])
    assert trunk.feature_map(x).shape == (2, 32, rows, columns)
    assert trunk(x).shape == (2, 32)
    assert Decoder(8, 4, shape)(torch.randn(2, 8, rows, columns)).shape == x.shape


def test_a_vector_is_no_image():
    with pytest.raises(UserError, match="choose an image"):
        map_shape((1200,))


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5, 4)])
@pytest.mark.parametrize("reduce", [None, torch.clone])
def test_batch_norm_against_torch(shape, reduce):
    """Output, gradient and running statistics, by torch's kernel and by our own sums."""
    torch.manual_seed(0)
    ours = BatchNorm(3).double()
    ours.reduce = reduce
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    theirs = kind(3, affine=False).double()
    for _ in range(3):
        x = (torch.randn(shape, dtype=torch.float64) * 2 + 5).requires_grad_()
        twin = x.detach().clone().requires_grad_()
        weight = torch.randn(shape, dtype=torch.float64)
        (ours(x) * weight).sum().backward()
        (theirs(twin) * weight).sum().backward()
        torch.testing.assert_close(x.grad, twin.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-12, atol=1e-12)
    for norm in (ours, theirs):
        norm.eval()
    torch.testing.assert_close(ours(x), theirs(x))


def test_batch_norm_takes_one_value_a_channel():
    norm = BatchNorm(3)
    assert norm(torch.randn(1, 3)).abs().max() == 0
    assert all(torch.isfinite(buffer).all() for buffer in norm.buffers())


def test_batch_norm_keeps_its_digits_beside_a_large_mean():
    norm = BatchNorm(1)
    norm.reduce = torch.clone
    x = 1000 + torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))
    exact = x.double()
    exact = (exact - exact.mean()) / exact.std(correction=0)
    assert (norm(x).double() - exact).abs().max() < 1e-3


def test_a_frozen_batch_norm_stays_in_eval_mode():
    trunk = Trunk(TINY, in_channels=1)
    freeze_statistics(trunk)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    trunk.train()
    trunk(torch.randn(4, 1, 32, 32))
    torch.testing.assert_close(dict(trunk.state_dict()), before, rtol=0, atol=0)
    freeze_statistics(trunk, False)
    trunk.train()
    trunk(torch.randn(4, 1, 32, 32))
    assert all(norm.num_batches_tracked == 1 for norm in batch_norms(trunk))


def test_an_empty_slice_passes_and_leaves_gradients_of_zero():
    trunk = Trunk(TINY, in_channels=1)
    for norm in batch_norms(trunk):
        norm.reduce = torch.clone
    out = trunk(torch.empty(0, 1, 32, 32))
    assert out.shape == (0, 32)
    out.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() == 0 for parameter in trunk.parameters())


@pytest.mark.parametrize("width", [0, -4])
def test_a_width_that_is_none_is_refused(width):
    with pytest.raises(UserError, match="width must be at least 1"):
        TrunkConfig(width=width)
