"""What moved in a record against its sensor's own records, and what shows so, as data first and then in words of a language."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "zh"]
Group = Literal["odd", "even", "swelling", "bursts", "bands"]
"""What a frequency's number tells: lines at odd and at even multiples of the mains; how much a band swells and fades from frame to frame;
how far its strongest frame stands above the others; its level."""

FAR = 2.5
BURST = 4.0
ALONE = 3.0
"""Spreads from its sensor's median from which a line has moved together with others, what is taken from few frames or over many bands
has (a band among hundreds is at 3 by chance), and from which any is worth telling where no rule is met."""

LINES, BANDS = 3, 2
"""So many lines, or bands, must have moved together: one alone is a neighbour's sound more often than a fault."""

LOOSE_HZ = (300.0, 1000.0)
"""Where the lines of a loose core or winding rise."""

IMPACT_HZ = 700.0
"""Above it contacts, races and loose parts ring; below, a mains machine's own lines do."""

SHOWN = 4
"""Lines or bands that a sentence names."""


@dataclass(frozen=True)
class Moved:
    """A line or band of a record against its sensor's own."""

    hz: float
    decibels: float
    z: float
    """in the sensor's spreads, positive where it rose"""


@dataclass(frozen=True)
class Sign:
    """A message by its name, and the numbers that it is told with, the furthest first."""

    name: Literal["dc_bias", "looseness", "swelling", "impacts", "noise", "moved", "usual"]
    moved: tuple[Moved, ...]


def signs(moved: Mapping[Group, Sequence[Moved]]) -> tuple[Sign, ...]:
    """The rules that a record meets; where it meets none, what moved furthest, and where nothing moved, that.

    A machine without mains lines has neither "odd" nor "even": its impacts and noise count at any frequency.
    """
    mains = bool(moved.get("even"))
    loose = [m for m in moved.get("even", ()) if LOOSE_HZ[0] <= m.hz <= LOOSE_HZ[1]]
    low = [m for m in moved.get("swelling", ()) if mains and m.hz <= LOOSE_HZ[1]]
    above = IMPACT_HZ if mains else 0.0
    rules = [
        (Sign("dc_bias", _risen(moved.get("odd", ()), FAR)), LINES),
        (Sign("looseness", _risen(loose, FAR)), LINES),
        (Sign("swelling", _risen(low, BURST)), LINES),
        (Sign("impacts", _risen([m for m in moved.get("bursts", ()) if m.hz >= above], BURST)), BANDS),
        (Sign("noise", _risen([m for m in moved.get("bands", ()) if m.hz >= above], BURST)), LINES),
    ]
    met = {sign.name: sign for sign, least in rules if len(sign.moved) >= least}
    # what swells has frames that stand out; lines that rise, and bursts, raise the bands that they are in
    for sign, beside in (("swelling", "impacts"), ("swelling", "noise"), ("looseness", "noise"), ("impacts", "noise")):
        if sign in met:
            met.pop(beside, None)
    if met:
        return tuple(met.values())
    every = sorted((m for group in moved.values() for m in group if abs(m.z) >= ALONE), key=lambda m: -abs(m.z))
    return (Sign("moved", tuple(every)),) if every else (Sign("usual", ()),)


def _risen(moved: Sequence[Moved], least: float) -> tuple[Moved, ...]:
    return tuple(sorted((m for m in moved if m.z >= least and m.decibels > 0), key=lambda m: -m.z))


TEXT: dict[str, dict[Language, str]] = {
    "dc_bias": {
        "en": "{moved}: odd multiples of the mains: DC bias shows so",
        "zh": "{moved}：工频的奇数倍频升高，符合直流偏磁的特征",
    },
    "looseness": {
        "en": "{moved}: even multiples of the mains between 300 and 1000 Hz: a loose core or winding shows so",
        "zh": "{moved}：300–1000 Hz 内工频的偶数倍频升高，符合铁心或绕组松动的特征",
    },
    "swelling": {
        "en": "{moved}: the lines there swell and fade: a loose winding shows so",
        "zh": "{moved}：该频段的谱线忽强忽弱，符合绕组松动的特征",
    },
    "impacts": {
        "en": "bursts at {moved}: impacts, as of a tap changer, a bearing, rain or a knock from outside",
        "zh": "{moved} 处出现突发冲击，可能来自分接开关、轴承、雨滴或外部敲击",
    },
    "noise": {
        "en": "{moved}: noise all along the record, as of a bearing or of parts that rattle",
        "zh": "{moved}：整条记录中噪声升高，可能来自轴承或松动部件的振响",
    },
    "moved": {"en": "moved furthest: {moved}; no rule says what shows so", "zh": "变化最大：{moved}；没有对应的判据"},
    "usual": {
        "en": "no line or band is further than 3 spreads from this sensor's usual",
        "zh": "没有任何谱线或频带偏离该传感器常态超过 3 倍离散度",
    },
    "more": {"en": "{moved} and {count} more", "zh": "{moved} 等共 {total} 处"},
    "words": {"en": "What moved", "zh": "变化说明"},
    "attribution": {
        "en": "Where the energy behind the score is: shares of what rose (integrated gradients)",
        "zh": "评分所依据的能量位置：升高部分所占份额（积分梯度）",
    },
    "highest": {
        "en": "Where the energy behind the score is: the highest tenth of the shares of what rose (integrated gradients)",
        "zh": "评分所依据的能量位置：升高部分所占份额中最高的十分之一（积分梯度）",
    },
    "abnormal": {"en": "abnormal", "zh": "异常"},
    "residual": {"en": "What could not be given back: its highest tenth", "zh": "未能重建的部分：最高的十分之一"},
    "deviation": {
        "en": "How far each band is from the sensor's usual, in its spreads",
        "zh": "各频带偏离该传感器常态的程度（以离散度计）",
    },
    "shares": {"en": "Share of the score by column", "zh": "各特征列在评分中所占份额"},
    "parts": {
        "en": "Parts of the score: how rare a training record is that a part finds as abnormal, as a power of ten",
        "zh": "评分的各组成部分：训练记录中同样异常者有多罕见（10 的幂次）",
    },
    "rare": {"en": "{name}: 1 in {count}", "zh": "{name}：{count} 条中 1 条"},
    "net": {"en": "net", "zh": "网络"},
    "spectrum": {
        "en": "Spectrum over this sensor's median and 5-95 % range: a Gaussian's, by its robust spread, of {count} records",
        "zh": "频谱与该传感器的中位数及 5–95 % 范围（{count} 条记录，按稳健离散度的高斯分布）",
    },
    "fleet_spectrum": {
        "en": "Spectrum over the fleet's median and 5-95 % range: a Gaussian's, by its robust spread",
        "zh": "频谱与全体设备的中位数及 5–95 % 范围（按稳健离散度的高斯分布）",
    },
    "nearest": {"en": "Nearest labelled records: distance in the sensor's spreads", "zh": "最相近的已标注记录：以离散度计的距离"},
}


def text(message: str, language: Language, /, **values: object) -> str:
    """A message in a language."""
    return TEXT[message][language].format(**values)


def title(message: str, language: Language, name: str) -> str:
    """A heading, with the name of the detector, or of the answer, that it is of where there are several."""
    return TEXT[message][language] + (f"{': ' if language == 'en' else '：'}{name}" if name else "")


def sentences(found: Sequence[Sign], language: Language) -> tuple[str, ...]:
    """The signs in words, a line each."""
    return tuple(text(sign.name, language, moved=_listed(sign.moved, language)) for sign in found)


def _listed(moved: Sequence[Moved], language: Language) -> str:
    furthest = sorted(moved[:SHOWN], key=lambda m: m.hz)
    named = (", " if language == "en" else "、").join(f"{m.hz:.0f} Hz {m.decibels:+.0f} dB (z {m.z:.1f})" for m in furthest)
    if len(moved) <= SHOWN:
        return named
    return text("more", language, moved=named, count=len(moved) - SHOWN, total=len(moved))
