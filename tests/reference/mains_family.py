"""The family of lines of one record, looked for line by line and multiple by multiple."""

import math

import numpy as np


def fundamental_hz(record: np.ndarray, sample_rate_hz: float) -> float:
    """The slow twin of vibray.signal.mains_family.mains_family_hz for one record of 256 samples or more."""
    lines = clearest_lines(record)
    total, best, best_value = sum(weight for _, weight, _ in lines), [], -math.inf
    for leader, _, _ in sorted(lines, key=lambda line: -line[2])[:8]:
        for divisor in range(1, 13):
            candidate = leader / divisor
            orders = [(round(at / candidate), at, weight, power) for at, weight, power in lines]
            matched = [line for line in orders if line[0] >= 1 and abs(line[1] - line[0] * candidate) <= 0.5]
            if candidate < 7 or len(matched) < 3:
                continue
            value = sum(line[2] for line in matched) - 0.3 * total / len(lines) * max(line[0] for line in matched)
            if value > best_value:
                best, best_value = matched, value
    if not best or sum(line[2] for line in best) < 0.5 * total:
        return math.nan
    bins = sum(order * at * weight for order, at, weight, _ in best) / sum(order**2 * weight for order, _, weight, _ in best)
    others, met = len(lines) - 1, len(best) - 1
    if math.comb(others, met) * (1 / bins) ** met >= 1e-4:
        return math.nan
    odd, even = (sum(power for order, _, _, power in best if order <= 12 and order % 2 == rest) for rest in (1, 0))
    return (2 if odd < 0.25 * even else 1) * bins * sample_rate_hz / len(record)


def clearest_lines(record: np.ndarray) -> list[tuple[float, float, float]]:
    """(place in bins, weight, power) of up to 24 lines that stand 13 dB above the noise."""
    n = len(record)
    x = record.astype(np.float64) - record.mean(dtype=np.float64)
    power = np.abs(np.fft.rfft(x * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)))) ** 2
    power = power / max(power.max(), 1e-300)
    num_bands = n // 2 // 64
    width = n // 2 // num_bands
    last = num_bands * width
    lines = []
    for i in range(3, min(last + 1, n // 2)):
        band = 1 + (i - 1) // width * width
        floor = max(np.sort(power[band : band + width])[math.ceil(0.25 * width) - 1] / -math.log(0.75), 1e-8)
        near, far = power[max(1, i - 2) : min(i + 2, last) + 1], power[max(1, i - 8) : min(i + 8, last) + 1]
        if power[i] == near.max() and power[i] >= 1e-3 * far.max() and power[i] >= 20 * floor:
            side = 1 if power[i + 1] > power[i - 1] else -1
            ratio = math.sqrt(max(power[i + 1], power[i - 1]) / power[i])
            shift = min(max((2 * ratio - 1) / (1 + ratio), 0), 0.5)
            lines.append((i + side * shift, 1 + math.log(power[i] / floor / 20), power[i]))
    return sorted(lines, key=lambda line: -line[1])[:24]
