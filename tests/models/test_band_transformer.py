from dataclasses import replace

import numpy as np
import pytest
import torch

from vibray.config import UserError
from vibray.decide.areas import auroc
from vibray.fitting.pretraining import large_transformer, small_transformer
from vibray.models.band_transformer import BandTransformer, BandTransformerConfig, GraphAttention, adapts

SHAPE = (2, 16, 2)
SMALL = BandTransformerConfig(rows_per_token=4, width=12, layers=2, heads=3, head_width=4, feedforward=16, hidden=8)


def net_of(config: BandTransformerConfig = SMALL, seed: int = 0) -> BandTransformer:
    torch.manual_seed(seed)
    net = BandTransformer(config, SHAPE).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # nothing begins as nothing, so that all is seen to count
            if not parameter.any():
                parameter.normal_(std=0.1)
    return net


def deviations(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(*shape, *SHAPE)).astype(np.float32))


def test_it_begins_as_the_distance_from_the_context() -> None:
    torch.manual_seed(0)
    net, x = BandTransformer(SMALL, SHAPE), deviations(20)
    distance = 1.5 * x.abs().mean(dim=(1, 2, 3)).log()
    torch.testing.assert_close(net.score(net(x)), torch.nn.functional.softplus(distance), rtol=1e-4, atol=1e-5)


def test_each_record_is_scored_by_itself_and_what_is_not_heard_does_not_count() -> None:
    net, x = net_of(), deviations(9)
    x[:, :, 8:] = 0
    score = net.score(net(x))
    torch.testing.assert_close(net.score(net(x[4:5])), score[4:5], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        net.place[2:4] += 5  # tokens of rows that nobody hears
    torch.testing.assert_close(net.score(net(x)), score, rtol=1e-5, atol=1e-6)
    assert net.score(net(torch.zeros(2, *SHAPE))).isfinite().all()


def test_a_sensor_that_is_not_there_says_nothing() -> None:
    net, x = net_of(), deviations(5, 3)
    x[:, 2] = 0
    out = net(x)
    assert out.present.tolist() == [[True, True, False]] * 5
    torch.testing.assert_close(net.score(out), net.score(net(x[:, :2])), rtol=1e-5, atol=1e-6)
    swapped = net(x[:, [1, 0, 2]])
    torch.testing.assert_close(swapped.logit[:, [1, 0]], out.logit[:, :2], rtol=1e-5, atol=1e-6)


def test_graph_attention_by_its_formula() -> None:
    torch.manual_seed(0)
    graph, h = GraphAttention(4).requires_grad_(False), torch.randn(1, 3, 4)
    torch.nn.init.normal_(graph.values.weight)
    present = torch.tensor([[True, True, False]])
    out = graph(h, present)[0]
    for i in range(3):
        e = [float(torch.nn.functional.leaky_relu(graph.own(h[0, i]) + graph.others(h[0, j]), 0.2)) for j in range(2)]
        weight = np.exp(e) / np.exp(e).sum()
        expected = h[0, i] + sum(float(w) * graph.values(h[0, j]) for w, j in zip(weight, range(2), strict=True))
        torch.testing.assert_close(out[i], expected, rtol=1e-5, atol=1e-6)
    torch.manual_seed(0)
    assert torch.equal(GraphAttention(4)(h, present), h)  # at first each speaks for itself


def test_the_contrastive_loss_is_that_of_its_definition() -> None:
    """InfoNCE in loops; a unit's other sensors count neither for nor against."""
    net = net_of()
    a, b = torch.randn(4, 2, 6), torch.randn(4, 2, 6)
    present = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    found = net._contrastive(a, b, present)

    def like(x, y) -> float:
        return float(torch.nn.functional.cosine_similarity(x, y, dim=0)) / SMALL.temperature

    for i in range(4):
        terms = []
        for s in range(2):
            if present[i, s]:
                others = [like(a[i, s], b[j, t]) for j in range(4) for t in range(2) if present[j, t] and (j != i or t == s)]
                terms.append(np.log(np.exp(others).sum()) - like(a[i, s], b[i, s]))
        assert float(found[i]) == pytest.approx(np.mean(terms), rel=1e-4)


def test_what_is_masked_is_not_seen_and_alone_is_asked() -> None:
    net, x = net_of(), deviations(6, 3, 1)
    noise = torch.randn(6, *net.noise_shape)
    out = net(x, noise)
    assert out.losses is not None and out.losses.shape == (6, 3) and out.losses.isfinite().all()
    masked = noise[:, : net.num_tokens] < torch.special.ndtri(torch.tensor(SMALL.masked))
    tokens = net._tokens(x[:, 0])
    moved = torch.where(masked[:, None, :, None], tokens + 3, tokens)
    first, _, decoded = net._encode(tokens, masked[:, None])
    again, _, other = net._encode(moved, masked[:, None])
    torch.testing.assert_close(first, again)
    torch.testing.assert_close(decoded, other)
    with torch.no_grad():
        assert decoded is not None
        guess = net.decoder(
            torch.cat([decoded, net.graph(first, torch.ones(6, 1, dtype=torch.bool))[:, 0][:, None].expand_as(decoded)], -1)
        )
        error = [float((guess[i] - tokens[i, 0])[masked[i]].square().mean()) if masked[i].any() else 0.0 for i in range(6)]
    np.testing.assert_allclose(out.losses[:, 1].detach().numpy(), error, rtol=1e-4, atol=1e-6)


def test_fewer_tokens_are_those_that_deviate_most() -> None:
    dense, sparse = net_of(), net_of(replace(SMALL, keep=0.5))
    sparse.load_state_dict(dense.state_dict())
    x = deviations(7)
    x[:, :, 8:] = 0  # half of the tokens are silent: to leave those out changes nothing
    torch.testing.assert_close(sparse.score(sparse(x)), dense.score(dense(x)), rtol=1e-5, atol=1e-6)
    seen: list[int] = []
    sparse.encoder[0].register_forward_hook(lambda module, inputs, out: seen.append(inputs[0].shape[1]))
    sparse(deviations(3))
    assert seen == [1 + sparse.num_tokens // 2]


def test_an_adapter_is_nothing_at_first_and_is_all_that_learns() -> None:
    plain = BandTransformer(small_transformer().detector, (2, 128, 2))  # type: ignore[arg-type]
    config = replace(plain.config, adapter=8)
    net = BandTransformer(config, (2, 128, 2))
    missing = net.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys and all(adapts(name) for name in missing.missing_keys)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 2, 128, 2)).astype(np.float32))
    torch.testing.assert_close(net(x).logit, plain(x).logit)
    free = sum(p.numel() for p in net.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in net.parameters())
    assert 0.3e6 < whole < 0.6e6 and 0 < free / whole <= 0.03


def test_the_large_form_takes_a_step() -> None:
    recipe = large_transformer()
    assert isinstance(recipe.detector, BandTransformerConfig)
    net = BandTransformer(recipe.detector, (2, 128, 2))
    assert sum(p.numel() for p in net.parameters()) > 5e6 and recipe.detector.width == 512
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 2, 2, 128, 2)).astype(np.float32))
    noise = torch.randn(4, *net.noise_shape, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(4):
        loss = net.loss(net(x, noise)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_it_learns_what_the_distance_does_not_see() -> None:
    """A fault in one token, as weak as the others are loud."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3, 1, *SHAPE)).astype(np.float32) * rng.uniform(0.5, 2, size=(300, 3, 1, 1, 1, 1)).astype(np.float32)
    x[:, 2, :, 0, 4:8] = 0.8
    x = torch.from_numpy(x)
    torch.manual_seed(0)
    net = BandTransformer(replace(SMALL, alpha=0.0, beta=0.0), SHAPE)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for step in range(120):
        rows = torch.arange(32) + 32 * (step % 6)
        loss = net.loss(net(x[rows], torch.randn(32, *net.noise_shape))).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        score = net.score(net(x[200:, 1:].flatten(0, 1)[:, 0])).numpy().astype(np.float64)
    area = auroc(score, np.tile([False, True], 100))
    assert area is not None and area > 0.9


def test_configs_that_cannot_be() -> None:
    with pytest.raises(UserError, match="does not divide"):
        BandTransformer(replace(SMALL, rows_per_token=5), SHAPE)
    for wrong in ({"keep": 0.0}, {"masked": 1.0}, {"heads": 0}, {"adapter": -1}, {"alpha": -1.0}):
        with pytest.raises(UserError):
            replace(SMALL, **wrong)
