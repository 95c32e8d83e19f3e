import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from tests.reference.robust import median_mad
from vibray.config import UserError, from_json, to_json
from vibray.models.ensemble import Ensemble, EnsembleConfig


def scores(n: int = 101, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return {"svdd": torch.from_numpy(rng.lognormal(size=n)), "vae": torch.from_numpy((100 + 5 * rng.normal(size=n)).astype(np.float32))}


def fitted(fusion: str = "weighted") -> Ensemble:
    ensemble = Ensemble(from_json(EnsembleConfig, {"fusion": fusion}))
    ensemble.fit(scores())
    return ensemble


def standardised(name: str, of: dict[str, torch.Tensor]) -> np.ndarray:
    location, scale = median_mad(scores()[name].double().numpy())
    return (of[name].double().numpy() - location) / scale


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        ("weighted", lambda svdd, vae: 0.6 * svdd + 0.4 * vae),
        ("mean", lambda svdd, vae: (svdd + vae) / 2),
        ("min", np.minimum),
        ("max", np.maximum),
    ],
)
def test_each_fusion_of_scores_standardised_by_training(fusion: str, expected: Callable) -> None:
    new = scores(40, seed=1)
    np.testing.assert_allclose(fitted(fusion).fuse(new), expected(standardised("svdd", new), standardised("vae", new)), rtol=1e-9)


def test_weights_need_not_sum_to_one() -> None:
    ensemble = Ensemble(EnsembleConfig(weights=(("svdd", 6.0), ("vae", 4.0))))
    ensemble.fit(scores())
    torch.testing.assert_close(ensemble.fuse(scores(9, 1)), fitted().fuse(scores(9, 1)))


def test_a_score_does_not_depend_on_its_batch() -> None:
    ensemble, new = fitted(), scores(40, seed=1)
    whole = ensemble.fuse(new)
    new["svdd"][1:] *= 1e6
    torch.testing.assert_close(ensemble.fuse(new)[:1], whole[:1], rtol=1e-14, atol=0)
    torch.testing.assert_close(ensemble.fuse({name: s[:1] for name, s in new.items()}), whole[:1], rtol=1e-14, atol=0)
    assert len(ensemble.fuse({name: s[:0] for name, s in new.items()})) == 0


def test_a_member_in_other_units_changes_nothing() -> None:
    ensemble, train, new = fitted(), scores(), scores(40, seed=1)
    other = Ensemble(EnsembleConfig())
    other.fit({"svdd": train["svdd"] * 1000 - 3, "vae": train["vae"]})
    torch.testing.assert_close(other.fuse({"svdd": new["svdd"] * 1000 - 3, "vae": new["vae"]}), ensemble.fuse(new))


def test_saved_and_loaded_it_is_the_same() -> None:
    ensemble, new = fitted(), scores(40, seed=1)
    back = Ensemble(from_json(EnsembleConfig, to_json(ensemble.config)))
    back.load(load(save(ensemble.state())))
    assert torch.equal(back.fuse(new), ensemble.fuse(new))
    assert torch.equal(pickle.loads(pickle.dumps(ensemble)).fuse(new), ensemble.fuse(new))
    with pytest.raises(UserError, match="of 2 members"):
        Ensemble(EnsembleConfig(weights=(("knn", 1.0),))).load(ensemble.state())


def test_what_is_wrong_is_said_by_name() -> None:
    ensemble, new = fitted(), scores(5)
    with pytest.raises(ValueError, match=r"missing \['vae'\]"):
        ensemble.fuse({"svdd": new["svdd"]})
    with pytest.raises(ValueError, match=r"unknown \['knn'\]"):
        ensemble.fuse(new | {"knn": new["vae"]})
    with pytest.raises(UserError, match="svdd has scores that are NaN"):
        ensemble.fuse(new | {"svdd": new["svdd"].index_fill(0, torch.tensor(2), torch.nan)})
    with pytest.raises(UserError, match="member vae are the same"):
        ensemble.fit(new | {"vae": torch.ones(5)})
    with pytest.raises(ValueError, match="no training scores"):
        ensemble.fit({name: s[:0] for name, s in new.items()})
    for action in (lambda e: e.fuse(new), lambda e: e.state()):
        with pytest.raises(ValueError, match="ensemble"):
            action(Ensemble(EnsembleConfig()))


@pytest.mark.parametrize("weights", [(), (("a", 1.0), ("a", 1.0)), (("a", -1.0), ("b", 2.0)), (("a", 0.0),)])
def test_weights_that_mean_nothing_are_refused(weights: tuple[tuple[str, float], ...]) -> None:
    with pytest.raises(UserError, match="ensemble"):
        EnsembleConfig(weights=weights)
