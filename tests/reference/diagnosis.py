"""How well faults are named on machines that nothing was labelled of, by how many labels a fault.

`python -m tests.reference.diagnosis [--seeds 0 1 2 3 4] [--variants] [--left-out] [--pseudo-labels] [--poolings] [--real]` prints, with
mean and standard error over fleets and draws of labels: macro-F1 over five faults given that a record is faulty, of the control
(multinomial logistic regression, C = .1, on signed logarithms of the scaled spectral vector), of the default classifier, and of its answers
pooled over a unit's sensors; macro-F1 with normal as a sixth answer; the expected calibration error of both outputs on a test set half of
which is faulty and on one with 5 % of faults; what becomes of the sixth fault, which is in no training. `--variants`: what each part of it
adds; `--left-out`: a known fault without labels in the sixth's place; `--pseudo-labels`: what they add; `--poolings`: features of a unit's
sensors pooled, against their answers; `--real`: gfd, uestc and hit by their labels.
"""

import argparse
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from tests.reference.corpora import FLEET, KS, POOL_UNITS, REAL, Corpus, Records, fleet, of_fleet, real, real_records
from tests.reference.leave_fault_out import sixth
from tests.reference.suite import fitted
from vibray import recipes
from vibray.decide.areas import auroc
from vibray.decide.metrics import calibration_error
from vibray.decide.pooling import mean_by
from vibray.decide.thresholds import percentile
from vibray.features.scaling import Scaling
from vibray.models.classifier import UNKNOWN_FAULT
from vibray.models.context_scorer import shipped
from vibray.models.diagnosis import LinearDiagnosis, LinearDiagnosisConfig
from vibray.models.fitted import Fitted
from vibray.recipes.building import build_vector, columns_of, net_columns
from vibray.schema import NORMAL
from vibray.signal.synthetic import FleetConfig
from vibray.train.diagnosis import Labels, fit_diagnosis

NUM_LABELS = (2, 5, 10, 30)
NUM_DRAWS = 2
FAULTS = FleetConfig().faults
LABELLED_RECORDS = 2400
RARE = 0.05
RMS = 1
"""Column of the spectral vector."""
RECIPE = recipes.fused()
COLUMNS = net_columns(build_vector(RECIPE.feature, FLEET.mains_hz))


@dataclass(frozen=True, eq=False)
class Side:
    """Records as the diagnosis gets them."""

    x: torch.Tensor
    score: np.ndarray
    records: Records

    @property
    def faulty(self) -> np.ndarray:
        return self.records.labels != NORMAL


def labelled_records(seed: int) -> Records:
    """Later records of the pool's units, half of them faulty: a person labels some of these."""
    return of_fleet(FleetConfig(seed=seed, num_units=POOL_UNITS, num_records=LABELLED_RECORDS, first_step=max(KS), contamination=0.5))


def side(scaling: Scaling, detector: Fitted, records: Records, mains_hz: float | None) -> Side:
    columns = columns_of(build_vector(RECIPE.feature, mains_hz), RECIPE.detector.blocks)
    x = scaling(records.vectors, records.sensors)
    return Side(x, detector.score(x[:, columns]).numpy(), records)


@dataclass(frozen=True, eq=False)
class Sides:
    """A generated fleet, scored by the default fitted on its pool."""

    pool: Side
    labelled: Side
    test: Side
    unknown: Side
    """the test's units, half of the records with the sixth fault"""

    def fit(self, config: LinearDiagnosisConfig, every: np.ndarray, labels: Labels) -> LinearDiagnosis:
        """The diagnosis by what is known of these rows of `labelled`."""
        of = (self.labelled.x[torch.from_numpy(every)], self.labelled.score[every], labels)
        return fit_diagnosis(config, self.pool.x, self.pool.score, *of, FAULTS, shipped(), COLUMNS).diagnosis


def sides(seed: int) -> Sides:
    corpus = fleet(seed)
    scaling, detector = fitted(RECIPE, corpus.pool, FLEET.mains_hz)
    pool, labelled = (side(scaling, detector, records, FLEET.mains_hz) for records in (corpus.pool, labelled_records(seed)))
    own = with_context(scaling, corpus, max(KS))
    test, unknown = (side(own, detector, records, FLEET.mains_hz) for records in (corpus.test, sixth(corpus, seed)))
    return Sides(pool, labelled, test, unknown)


def with_context(scaling: Scaling, corpus: Corpus, k: int) -> Scaling:
    assert corpus.context is not None
    vectors = corpus.context.vectors
    return scaling.with_sensors((sensor, vectors[at]) for sensor, at in corpus.context.first(k))


def drawn(records: Records, num: int, rng: np.random.Generator) -> np.ndarray:
    """Row numbers of `num` records of each fault and of as many normal ones, no two of one moment."""
    rows = []
    for kind in (*FAULTS, NORMAL):
        own = rng.permutation(np.flatnonzero(records.labels == kind))
        rows.append(own[np.unique(records.moment[own], return_index=True)[1]])
        rows[-1] = rng.permutation(rows[-1])[:num]
    return np.concatenate(rows)


def labels_of(records: Records, rows: np.ndarray, faults: Sequence[str], partner_weight: float) -> tuple[np.ndarray, Labels]:
    """What a person says of `rows`, and of the other sensors at their moments."""
    said = {int(records.moment[row]): str(records.labels[row]) for row in rows}
    others = np.setdiff1d(np.flatnonzero(np.isin(records.moment, list(said))), rows) if partner_weight else rows[:0]
    every = np.concatenate([rows, others])
    name = np.array([said[int(records.moment[row])] for row in every])
    human = np.arange(len(every)) < len(rows)
    unit = np.unique([unit for unit, _ in records.sensors], return_inverse=True)[1].reshape(-1)
    fault = np.array([faults.index(one) if one != NORMAL else -1 for one in name.tolist()], np.int64)
    weight = np.where(human, 1.0, partner_weight)
    return every, Labels((name != NORMAL).astype(np.int64), fault, weight, human, unit[every].astype(np.int64), records.moment[every])


def control(x: np.ndarray, labels: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=0.1, max_iter=5000).fit(signed_log(x), labels)


def answers(model: LogisticRegression, x: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(x))


def signed_log(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.log1p(np.abs(x))


def macro_f1(truth: np.ndarray, answer: np.ndarray, kinds: Sequence[str]) -> float:
    return float(f1_score(truth, answer, labels=list(kinds), average="macro"))


def names(diagnosis: LinearDiagnosis, at: Side, faults: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each record: probability of being abnormal, the likeliest fault, its confidence, and whether it is called unknown."""
    config = replace(diagnosis, abnormal=torch.tensor([0.0, 0.0, 9.0], dtype=torch.float64))  # all abnormal: every record is given a name
    every = config(at.x, torch.from_numpy(at.score))
    told = diagnosis(at.x, torch.from_numpy(at.score))
    confidence, number = every.fault_probability.max(dim=1)
    name = np.array(faults)[number.numpy()]
    probability, sure = (values.double().numpy() for values in (told.abnormal_probability, confidence))
    return probability, name, sure, every.fault.numpy() == UNKNOWN_FAULT


def over_moment(diagnosis: LinearDiagnosis, at: Side, faults: Sequence[str]) -> np.ndarray:
    """The likeliest fault by the mean log-probability over a unit's sensors."""
    p = diagnosis(at.x, torch.from_numpy(at.score)).fault_probability.double().clamp(min=1e-12).log().numpy()
    _, group = np.unique(at.records.moment, return_inverse=True)
    total = np.zeros((group.max() + 1, p.shape[1]))
    np.add.at(total, group, p)
    return np.array(faults)[total[group].argmax(axis=1)]


def rare(faulty: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of which 5 % are faulty."""
    num = round(RARE / (1 - RARE) * int((~faulty).sum()))
    return np.concatenate([np.flatnonzero(~faulty), rng.choice(np.flatnonzero(faulty), num, replace=False)])


def fleet_figures(seed: int, config: LinearDiagnosisConfig, plain: bool) -> Iterator[tuple[int, dict[str, float]]]:
    """Figures of one fleet, draw by draw, by the number of labels a fault; `plain` leaves out what only the default is asked."""
    at = sides(seed)
    test, given = at.test, at.labelled.records
    truth, faulty = test.records.labels, test.faulty
    for draw in range(NUM_DRAWS):
        for num in NUM_LABELS:
            rng = np.random.default_rng(1000 * draw + num)
            rows = drawn(given, num, rng)
            every, labels = labels_of(given, rows, FAULTS, config.partner_weight)

            diagnosis = at.fit(config, every, labels)
            p, name, confidence, _ = names(diagnosis, test, FAULTS)
            found = {
                "faults": macro_f1(truth[faulty], name[faulty], FAULTS),
                "six answers": macro_f1(truth, np.where(p >= 0.5, name, NORMAL), (*FAULTS, NORMAL)),
            }
            if not plain:
                found |= _compared(at.labelled, given, rows, test)
                found["faults, pooled"] = macro_f1(truth[faulty], over_moment(diagnosis, test, FAULTS)[faulty], FAULTS)
                few, told = rare(faulty, rng), names(at.fit(replace(config, prevalence=RARE), every, labels), test, FAULTS)[0]
                found["six answers, 5 % (told so)"] = macro_f1(truth[few], np.where(told >= 0.5, name, NORMAL)[few], (*FAULTS, NORMAL))
                found["ECE abnormal, half"] = calibration_error(p, faulty) or 0.0
                found["ECE abnormal, 5 % (told so)"] = calibration_error(told[few], faulty[few]) or 0.0
                found["ECE abnormal, 5 % (even odds)"] = calibration_error(p[few], faulty[few]) or 0.0
                found["ECE fault"] = calibration_error(confidence[faulty], (name == truth)[faulty]) or 0.0
                found |= _sixth(diagnosis, test, at.unknown)
            yield num, found


def _compared(labelled: Side, given: Records, rows: np.ndarray, test: Side) -> dict[str, float]:
    truth, faulty = test.records.labels, test.faulty
    x, seen = labelled.x.numpy(), signed_log(test.x.numpy())
    kinds = given.labels[rows]
    of_faults = rows[kinds != NORMAL]
    return {
        "control, faults": macro_f1(truth[faulty], answers(control(x[of_faults], given.labels[of_faults]), seen[faulty]), FAULTS),
        "control, six answers": macro_f1(truth, answers(control(x[rows], kinds), seen), (*FAULTS, NORMAL)),
    }


def _sixth(diagnosis: LinearDiagnosis, test: Side, unknown: Side) -> dict[str, float]:
    """At 1 % realised false alarms of the detector: record by record, then by the mean score of a unit's sensors, unknown if most are."""
    found = {}
    for what, over_sensors in (("", False), (", pooled", True)):
        score = {at: mean_by(_moments(at), at.score) if over_sensors else at.score for at in (test, unknown)}
        cut = np.quantile(np.concatenate([score[at][~at.faulty] for at in (test, unknown)]), 0.99)
        for name, at in (("sixth", unknown), ("known", test)):
            flagged = at.faulty & (score[at] >= cut)
            strange = names(diagnosis, at, FAULTS)[3].astype(np.float64)
            strange = mean_by(_moments(at), strange) > 0.5 if over_sensors else strange > 0
            found[f"{name} flagged{what}"] = float(flagged.sum() / at.faulty.sum())
            found[f"{name} called unknown{what}"] = float(np.mean(strange[flagged]))
    return found


def left_out(seeds: Sequence[int]) -> None:
    """Each of the five without a label in turn, in the sixth's place: settings are chosen by this, and the sixth is none of them."""
    print("\nof those flagged at 1 % false alarms, called unknown: of a fault without labels, of the others (standard error)")
    found: dict[int, list[tuple[float, float]]] = {num: [] for num in NUM_LABELS}
    for seed in seeds:
        at = sides(seed)
        truth, flagged = at.test.records.labels, at.test.faulty & (at.test.score >= np.quantile(at.test.score[~at.test.faulty], 0.99))
        for draw, num in itertools.product(range(NUM_DRAWS), NUM_LABELS):
            rows = drawn(at.labelled.records, num, np.random.default_rng(1000 * draw + num))
            figures = []
            for fault in FAULTS:
                kept = rows[at.labelled.records.labels[rows] != fault]
                diagnosis = at.fit(
                    LinearDiagnosisConfig(), *labels_of(at.labelled.records, kept, FAULTS, LinearDiagnosisConfig().partner_weight)
                )
                strange = names(diagnosis, at.test, FAULTS)[3]
                figures.append([strange[flagged & own].mean() for own in (truth == fault, truth != fault)])
            found[num].append(tuple(np.mean(figures, axis=0)))
    for num, own in found.items():
        mean, error = np.mean(own, axis=0), np.std(own, axis=0, ddof=1) / len(own) ** 0.5
        print(f"{num:3} labels  " + "  ".join(f"{m:.3f} ({e:.3f})" for m, e in zip(mean, error, strict=True)))


def _moments(at: Side) -> np.ndarray:
    return np.unique(at.records.moment, return_inverse=True)[1].reshape(-1)


POOLINGS = ("mean", "energy-weighted mean", "max", "log-sum-exp")


def pooled_vectors(at: Side, how: str) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """(vectors, mean score, label) of each moment: the plan's pooling of features over a unit's sensors."""
    moment, x = _moments(at), at.x.double().numpy()
    energy = at.records.vectors[:, RMS].double().square().numpy()
    num, dims = int(moment.max()) + 1, x.shape[1]
    total = np.zeros((num, dims))
    match how:
        case "max":
            total[:] = -np.inf
            np.maximum.at(total, moment, x)
        case "log-sum-exp":
            np.add.at(total, moment, np.exp(np.clip(x, -30, 30)))
            total = np.log(total / np.bincount(moment)[:, None])
        case _:
            weight = energy if how.startswith("energy") else np.ones(len(x))
            np.add.at(total, moment, x * weight[:, None])
            total /= np.bincount(moment, weight)[:, None]
    first = np.unique(moment, return_index=True)[1]
    return torch.from_numpy(total).float(), (np.bincount(moment, at.score) / np.bincount(moment)), at.records.labels[first]


def poolings(seeds: Sequence[int]) -> None:
    """Features pooled over the sensors of a moment against the answers of each sensor, pooled."""
    print("\nmacro-F1 over faults, by moment, 5 and 10 labels a fault (standard error over fleets and draws)")
    found: dict[tuple[str, int], list[float]] = {}
    for seed in seeds:
        at = sides(seed)
        labelled, test, given = at.labelled, at.test, at.labelled.records
        truth = test.records.labels
        for draw in range(NUM_DRAWS):
            for num in (5, 10):
                rng = np.random.default_rng(1000 * draw + num)
                rows = drawn(given, num, rng)
                for how in POOLINGS:
                    (of_pool, pool_score, _), (x, score, label), (of_test, test_score, kind) = (
                        pooled_vectors(one, how) for one in (at.pool, labelled, test)
                    )
                    moments = _moments(labelled)[rows]
                    fault = np.array([FAULTS.index(one) if one != NORMAL else -1 for one in label[moments].tolist()], np.int64)
                    number = np.arange(len(moments))
                    ones = np.ones(len(number))
                    labels = Labels((fault >= 0).astype(np.int64), fault, ones, ones > 0, number % 7, number)
                    own = (x[torch.from_numpy(moments)], score[moments], labels, FAULTS, shipped(), COLUMNS)
                    diagnosis = fit_diagnosis(LinearDiagnosisConfig(), of_pool, pool_score, *own).diagnosis
                    told = diagnosis(of_test, torch.from_numpy(test_score)).fault_probability.argmax(dim=1).numpy()
                    faulty = kind != NORMAL
                    found.setdefault((how, num), []).append(macro_f1(kind[faulty], np.array(FAULTS)[told][faulty], FAULTS))
                config = LinearDiagnosisConfig()
                diagnosis = at.fit(config, *labels_of(given, rows, FAULTS, config.partner_weight))
                first = np.unique(_moments(test), return_index=True)[1]
                kind, answer = truth[first], over_moment(diagnosis, test, FAULTS)[first]
                faulty = kind != NORMAL
                found.setdefault(("answers", num), []).append(macro_f1(kind[faulty], answer[faulty], FAULTS))
    for (how, num), values in found.items():
        print(f"{how:22} {num:3} {np.mean(values):.3f} ({np.std(values, ddof=1) / len(values) ** 0.5:.3f})")


def with_pseudo_labels(x: torch.Tensor, labels: Labels, pool: Side) -> tuple[torch.Tensor, np.ndarray, Labels]:
    """The labelled vectors and those of the pool that `percentile` calls normal or abnormal, at half the weight."""
    cuts = percentile(pool.score)
    taken = np.flatnonzero((pool.score <= cuts.normal_below) | (pool.score >= cuts.anomaly_above))
    label = (pool.score[taken] >= cuts.anomaly_above).astype(np.int64)
    nothing, many = np.full(len(taken), -1, np.int64), np.arange(len(taken), dtype=np.int64) + 10**6
    more = Labels(label, nothing, np.full(len(taken), 0.5), np.zeros(len(taken), bool), many, many)
    both = {name: np.concatenate([getattr(labels, name), getattr(more, name)]) for name in vars(labels)}
    return torch.cat([x, pool.x[torch.from_numpy(taken)]]), pool.score[taken], Labels(**both)


def pseudo_labels(seeds: Sequence[int]) -> None:
    """Labels and pseudo-labels against labels only, on the same draws."""
    print("\nlabels and pseudo-labels less labels only, mean over fleets [95 % of the mean, t]: six answers, AUROC of abnormal")
    config = LinearDiagnosisConfig()
    found: dict[int, list[tuple[float, float]]] = {}
    for seed in seeds:
        at = sides(seed)
        pool, labelled, test, given = at.pool, at.labelled, at.test, at.labelled.records
        truth = test.records.labels
        for num in NUM_LABELS:
            rows = drawn(given, num, np.random.default_rng(num))
            every, labels = labels_of(given, rows, FAULTS, config.partner_weight)
            x, score = labelled.x[torch.from_numpy(every)], labelled.score[every]
            wider, more, both = with_pseudo_labels(x, labels, pool)
            figures = []
            for vectors, own, known in ((x, score, labels), (wider, np.concatenate([score, more]), both)):
                fit = fit_diagnosis(config, pool.x, pool.score, vectors, own, known, FAULTS, shipped(), COLUMNS)
                p, name, _, _ = names(fit.diagnosis, test, FAULTS)
                figures.append((macro_f1(truth, np.where(p >= 0.5, name, NORMAL), (*FAULTS, NORMAL)), auroc(p, test.faulty) or 0.0))
            found.setdefault(num, []).append((figures[1][0] - figures[0][0], figures[1][1] - figures[0][1]))
    for num, own in found.items():
        mean, error = np.mean(own, axis=0), np.std(own, axis=0, ddof=1) / len(own) ** 0.5
        reach = student.ppf(0.975, len(own) - 1) * error
        print(f"{num:3} labels  " + "   ".join(f"{m:+.4f} [{m - r:+.4f}, {m + r:+.4f}]" for m, r in zip(mean, reach, strict=True)))


VARIANTS: Mapping[str, LinearDiagnosisConfig] = {
    "default": LinearDiagnosisConfig(),
    "without the net's layer": LinearDiagnosisConfig(embedding=False),
    "without the moment's other sensors": LinearDiagnosisConfig(partner_weight=0.0),
    "without both": LinearDiagnosisConfig(embedding=False, partner_weight=0.0),
}


def show(title: str, found: Sequence[tuple[int, dict[str, float]]]) -> None:
    print(f"\n{title}: " + ", ".join(map(str, NUM_LABELS)) + " labels a fault, mean (standard error over fleets and draws)")
    for name in dict.fromkeys(name for _, own in found for name in own):
        cells = []
        for num in NUM_LABELS:
            values = [own[name] for n, own in found if n == num]
            cells.append(f"{np.mean(values):.3f} ({np.std(values, ddof=1) / len(values) ** 0.5:.3f})")
        print(f"{name:32} " + "  ".join(cells))


def of_real() -> None:
    """The labelled records of real corpora teach, their test sets judge; the control too."""
    print("\nmacro-F1 with normal, by the labelled records of the corpus: control, classifier; of the faults given faulty; ECE of abnormal")
    for name in ("gfd", "uestc", "hit"):
        mains_hz = REAL[name].mains_hz
        corpus, given = real(name), real_records(name, Path(os.environ["VIBRAY_CORPORA"]) / name / "labelled", labelled=True)
        scaling, detector = fitted(RECIPE, corpus.pool, mains_hz)
        pool, labelled, test = (side(scaling, detector, records, mains_hz) for records in (corpus.pool, given, corpus.test))
        faults = tuple(sorted(set(given.labels.tolist()) - {NORMAL}))
        rows = np.arange(len(given.labels))
        every, labels = labels_of(given, rows, faults, 0.0)
        assert len(every) == len(rows)
        fit = fit_diagnosis(LinearDiagnosisConfig(), pool.x, pool.score, labelled.x, labelled.score, labels, faults, None, [])
        p, answer, _, _ = names(fit.diagnosis, test, faults)
        truth, kinds = test.records.labels, (*faults, NORMAL)
        told = np.where(p >= 0.5, answer, NORMAL)
        before = answers(control(labelled.x.numpy(), given.labels), signed_log(test.x.numpy()))
        own = macro_f1(truth[test.faulty], answer[test.faulty], faults)
        figures = macro_f1(truth, before, kinds), macro_f1(truth, told, kinds), own, calibration_error(p, test.faulty) or 0.0
        print(f"{name:8} " + " ".join(f"{figure:8.3f}" for figure in figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--left-out", action="store_true")
    parser.add_argument("--pseudo-labels", action="store_true")
    parser.add_argument("--poolings", action="store_true")
    parser.add_argument("--real", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, config in (VARIANTS if arguments.variants else {"default": LinearDiagnosisConfig()}).items():
        show(name, [one for seed in arguments.seeds for one in fleet_figures(seed, config, name != "default")])
    if arguments.left_out:
        left_out(arguments.seeds)
    if arguments.pseudo_labels:
        pseudo_labels(arguments.seeds)
    if arguments.poolings:
        poolings(arguments.seeds)
    if arguments.real:
        of_real()


if __name__ == "__main__":
    main()
