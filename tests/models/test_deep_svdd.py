import numpy as np
import pytest
import safetensors.torch
import torch

from vibray.config import UserError, from_json, to_json
from vibray.models.backbone import TrunkConfig
from vibray.models.deep_svdd import Autoencoder, DeepSvdd, DeepSvddConfig, Embedded, hypersphere_loss, soft_boundary_loss

CONFIG = DeepSvddConfig(trunk=TrunkConfig(width=4), hidden=8, latent_dim=6)


def net(**changes) -> DeepSvdd:
    torch.manual_seed(0)
    made = DeepSvdd(DeepSvddConfig(**{"trunk": CONFIG.trunk, "hidden": 8, "latent_dim": 6, **changes}), (2, 32, 32)).eval()
    made.center.copy_(torch.tensor([0.1, -0.1, 0.5, 0.3, -0.7, 0.2]))
    made.radius.fill_(0.9)
    return made


def test_no_bias_anywhere():
    assert not [name for name, _ in net().named_parameters() if "bias" in name]
    assert [name for name, _ in net(trunk=TrunkConfig(width=4, bias=True)).named_parameters() if "bias" in name]


def test_losses_against_the_papers_formulas_record_by_record():
    z = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    for objective in ("one-class", "soft-boundary"):
        model = net(objective=objective, nu=0.2)
        center, radius = model.center.numpy(), float(model.radius)
        distances, losses = [], []
        for row in z:
            distance = sum((a - b) ** 2 for a, b in zip(row, center, strict=True))
            distances.append(distance)
            losses.append(distance if objective == "one-class" else radius**2 + max(0.0, distance - radius**2) / 0.2)
        out = Embedded(torch.from_numpy(z))
        np.testing.assert_allclose(model.score(out).numpy(), distances, rtol=1e-5)
        np.testing.assert_allclose(model.loss(out).numpy(), losses, rtol=1e-5)


def test_the_soft_boundary_is_least_at_the_quantile():
    """The mean over R^2 has its least value at the (1 - nu) quantile of the distances, which is why the radius is set there."""
    distances = torch.from_numpy(np.random.default_rng(1).gamma(2, size=2001))
    at = [float(np.sqrt(np.quantile(distances.numpy(), level))) for level in (0.85, 0.9, 0.95)]
    low, best, high = (soft_boundary_loss(distances, torch.tensor(radius, dtype=torch.float64), nu=0.1).mean() for radius in at)
    assert best < low
    assert best < high


def test_a_score_does_not_depend_on_its_batch():
    model, x = net(), torch.randn(5, 2, 32, 32)
    together = model.score(model(x))
    alone = torch.cat([model.score(model(row[None])) for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.score(model(x.flip(0))).flip(0), together, rtol=1e-5, atol=1e-6)


def test_safetensors_hold_the_sphere():
    model = net()
    state = safetensors.torch.load(safetensors.torch.save(model.state_dict()))
    assert {"center", "radius"} <= set(state)
    other = DeepSvdd(CONFIG, (2, 32, 32)).eval()
    other.load_state_dict(state)
    x = torch.randn(3, 2, 32, 32)
    assert torch.equal(other.score(other(x)), model.score(model(x)))
    assert torch.equal(other.radius, model.radius)


def test_the_autoencoder_rebuilds_the_shape_and_its_loss_is_the_mean_square():
    autoencoder, x = Autoencoder(net()).eval(), torch.randn(3, 2, 32, 32)
    out = autoencoder(x)
    assert out.reconstruction.shape == x.shape
    np.testing.assert_allclose(
        autoencoder.loss(out).detach(), ((out.reconstruction - x).detach().numpy() ** 2).mean(axis=(1, 2, 3)), rtol=1e-5
    )


def test_the_decoder_is_small_beside_the_encoder():
    autoencoder = Autoencoder(DeepSvdd(DeepSvddConfig(), (2, 128, 224)))
    encoder = sum(parameter.numel() for parameter in autoencoder.encoder.parameters())
    assert sum(parameter.numel() for parameter in autoencoder.parameters()) - encoder < encoder / 4


def test_config_to_json_and_back_and_refusals():
    assert from_json(DeepSvddConfig, to_json(CONFIG)) == CONFIG
    with pytest.raises(UserError, match="objektive"):
        from_json(DeepSvddConfig, {**to_json(CONFIG), "objektive": "one-class"})
    with pytest.raises(UserError, match="nu is a share"):
        DeepSvddConfig(nu=0.0)
    with pytest.raises(UserError, match="choose an image"):
        DeepSvdd(CONFIG, (1200,))


TIME = TrunkConfig(kind="time", width=5)


def whitened() -> DeepSvdd:
    """A net over time whose score is a Mahalanobis distance with some metric."""
    model = net(trunk=TIME, objective="hypersphere", metric="mahalanobis")
    random = torch.Generator().manual_seed(3)
    model.location.copy_(torch.randn(15, generator=random))
    model.whitening.copy_(torch.randn(15, 15, generator=random))
    return model


def test_hypersphere_loss_against_its_formula_and_at_its_ends():
    distance = torch.tensor([0.0, 3.0, 3.0, 0.0], dtype=torch.float64)
    loss = hypersphere_loss(distance, torch.tensor([False, False, True, True]))
    h = np.sqrt(4) - 1
    np.testing.assert_allclose(loss[:3].numpy(), [0, h, -np.log(1 - np.exp(-h))], atol=1e-5)
    assert loss[3].item() == pytest.approx(-np.log(1e-6))
    assert hypersphere_loss(torch.tensor([1e30]), torch.tensor([True])).abs() < 1e-5


def test_hypersphere_takes_everything_not_labelled_abnormal_for_normal():
    model, z = net(objective="hypersphere"), torch.zeros(3, 6)
    loss = model.loss(Embedded(z), torch.tensor([-1, 0, 1]))
    assert loss[0] == loss[1]
    with pytest.raises(AssertionError, match="injected faults"):
        model.loss(Embedded(z))


def test_a_mahalanobis_score_is_saved_and_does_not_depend_on_its_batch():
    model, x = whitened(), torch.randn(5, 2, 32, 32)
    together = model.score(model(x))
    torch.testing.assert_close(torch.cat([model.score(model(row[None])) for row in x]), together, rtol=1e-5, atol=1e-6)
    other = DeepSvdd(model.config, (2, 32, 32)).eval()
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(model.state_dict())))
    assert torch.equal(other.score(other(x)), together)


def test_a_trunk_over_time_has_no_bias_and_its_map_averages_to_its_features():
    model, x = net(trunk=TIME), torch.randn(3, 2, 32, 32)
    assert not [name for name, _ in model.named_parameters() if "bias" in name]
    torch.testing.assert_close(model.trunk.feature_map(x).mean(dim=(2, 3)), model.trunk(x))
    y = torch.nn.functional.leaky_relu(model.trunk.conv1(x.flatten(1, 2)))
    expected = torch.cat([y.mean(2), y.amax(2), y.std(2, correction=0)], dim=1)
    torch.testing.assert_close(model.trunk(x), expected, rtol=1e-3, atol=1e-4)


def test_a_soft_boundary_has_no_mahalanobis_score():
    with pytest.raises(UserError, match="soft boundary"):
        DeepSvddConfig(objective="soft-boundary", metric="mahalanobis")
