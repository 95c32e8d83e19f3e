import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vibray.config import UserError
from vibray.models import vae
from vibray.models.backbone import TrunkConfig
from vibray.models.vae import Decoded, Vae, VaeConfig


def net(**changes) -> Vae:
    torch.manual_seed(0)
    return Vae(VaeConfig(**{"trunk": TrunkConfig(width=4), "latent_channels": 3, **changes}), (2, 32, 64)).eval()


def test_kl_against_torch_and_its_zero():
    mu, logvar = torch.randn(4, 3, 2, 2, dtype=torch.float64), torch.randn(4, 3, 2, 2, dtype=torch.float64)
    theirs = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).mean(dim=(1, 2, 3))
    torch.testing.assert_close(vae.kl_divergence(mu, logvar), theirs)
    assert vae.kl_divergence(torch.zeros(1, 5), torch.zeros(1, 5)).item() == 0


def test_loss_and_score_from_their_parts():
    model = net(beta=0.5)
    out = Decoded(torch.full((1, 2, 32, 64), 3.0), torch.full((1, 2, 32, 64), 1.0), torch.ones(1, 3, 1, 2), torch.zeros(1, 3, 1, 2))
    assert model.score(out).item() == pytest.approx(2 + 0.1 * 0.5)
    assert model.loss(out).item() == pytest.approx(2 + 0.5 * 0.5)
    model.beta = 0.0
    assert model.loss(out).item() == pytest.approx(2)
    assert model.residual(out).shape == (1, 2, 32, 64)
    assert (model.residual(out) == 2).all()


def test_excess_counts_only_where_the_image_is_brighter():
    model = net(beta=0.5, residual="excess")
    image = torch.tensor([3.0, -1.0]).repeat_interleave(2 * 32 * 32).reshape(1, 2, 32, 64)
    out = Decoded(image, torch.ones(1, 2, 32, 64), torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2))
    assert model.score(out).item() == pytest.approx(1)
    assert model.loss(out).item() == pytest.approx(2)


def test_scores_are_deterministic_and_do_not_depend_on_their_batch():
    model, x = net(), torch.randn(4, 2, 32, 64)
    together = model.score(model(x))
    assert torch.equal(model.score(model(x)), together)
    torch.testing.assert_close(torch.cat([model.score(model(row[None])) for row in x]), together, rtol=1e-5, atol=1e-6)


def test_noise_is_what_moves_the_reconstruction():
    model, x = net(), torch.randn(2, 2, 32, 64)
    assert model.noise_shape == (3, 1, 2)
    plain = model(x).reconstruction
    assert torch.equal(model(x, torch.zeros(2, 3, 1, 2)).reconstruction, plain)
    assert not torch.allclose(model(x, torch.ones(2, 3, 1, 2)).reconstruction, plain)


def test_with_beta_0_it_is_an_autoencoder():
    model, x = net(beta=0.0), torch.randn(2, 2, 32, 64)
    out = model(x)
    assert model.noise_shape is None
    assert out.logvar is None
    torch.testing.assert_close(model.score(out), (x - out.reconstruction).abs().mean(dim=(1, 2, 3)))


def test_refusals():
    with pytest.raises(UserError, match="beta must not be negative"):
        VaeConfig(beta=-1.0)
    with pytest.raises(UserError, match="choose an image"):
        Vae(VaeConfig(), (1200,))
