"""Finds postal addresses in a text: Korean by road and by lot, also in Latin letters, English, and boxes; pure.

The name of a road or a quarter alone is not an address, because in Korean the same syllables are particles
(``코드로 404``): it needs a Korean district before it, or a floor, a door or a branch of the road after it. Everyday
words that are also English street words need a city or a postal code after them. Every repetition is bounded, and no
match crosses an empty line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple


class Span(NamedTuple):
    """Characters from ``start`` up to ``end``, exclusive."""

    start: int
    end: int


_GAP = r"[ \t]{1,3}"
_NO_AMOUNT = r"(?!-?\d|[,.%:]\d|개|명|번째|회|시간|분|초|년|월|일|원|위|배|점|차|억|만|천|세대|대\b|단계|주\b|MB|GB|ms)"
"""A number before one of these is an amount."""
_PROVINCE = (
    r"(?:서울|부산|대구|인천|광주|대전|울산|세종|경기|강원|제주|충북|충남|전북|전남|경북|경남|충청[남북]|전라[남북]|경상[남북])"
    r"(?:특별자치시|특별자치도|특별시|광역시|도|시)?"
)


def _districts() -> str:
    """Return a pattern of the districts that ``districts.txt`` names."""
    names = []
    for line in (files(__package__) / "districts.txt").read_text(encoding="utf-8").splitlines():
        ending, mark, some = line.partition(": ")
        names += [f"{name}{ending}" for name in some.split()] if mark and len(ending) == 1 else []
    return f"(?:{'|'.join(names)})"


_DISTRICT = _districts()
_AREA = (
    rf"(?:{_PROVINCE}{_GAP}(?:{_DISTRICT}{_GAP}){{0,2}}|(?:{_DISTRICT}{_GAP}){{1,2}})"
    rf"(?:[가-힣0-9]{{1,6}}[읍면]{_GAP})?"
)
_ROAD = (
    r"[가-힣0-9·.]{1,12}?(?:대로|로|길)(?:[ \t]?\d{1,4}[가나다라]?(?:번?길))?[ \t]?(?:지하[ \t]?)?\d{1,4}(?:-\d{1,4})?"
    + _NO_AMOUNT
)
_LOT = r"[가-힣0-9]{1,8}(?:동|읍|면|리|가)(?: [가-힣]{1,6}리)? (?:산[ \t]?)?\d{1,4}(?:-\d{1,4})?(?:번지)?" + _NO_AMOUNT
_HOUSE = (
    r"[가-힣A-Za-z0-9]{0,20}(?:아파트|빌딩|빌라|타워|오피스텔|타운|맨션|상가|센터|프라자|플라자|스퀘어|하우스|주택)"
)
_DOOR = r"(?:(?:제?\d{1,4}|[A-Za-z가-힣])동(?![가-힣])|(?:지하[ \t]?|B)?\d{1,3}층|제?[A-Za-z]?\d{1,5}호)"
_DETAIL = (
    rf"(?:,?[ \t]?{_HOUSE})?(?:,?[ \t](?:[가-힣A-Za-z0-9]{{1,15}}[ \t]){{0,3}}?{_DOOR})?(?:[,-]?[ \t]?{_DOOR}){{0,3}}"
)
_REMARK = (
    r"(?:[ \t]?\([가-힣0-9A-Za-z, ]{1,40}(?:동|읍|면|리|가|아파트|빌딩|빌라|타워)"
    r"(?:,[ \t]?[가-힣0-9A-Za-z ]{1,30})?\))?"
)
_POSTAL = rf"(?:[(\[]?\d{{5}}[)\]]?{_GAP}(?={_PROVINCE}[ \t]))?"
_KOREAN = re.compile(rf"(?<![가-힣A-Za-z0-9]){_POSTAL}{_AREA}(?:{_ROAD}|{_LOT}){_DETAIL}{_REMARK}")
_ALONE = re.compile(
    r"(?<![가-힣A-Za-z0-9])(?:"
    rf"[가-힣]{{2,8}}(?<!으)(?:대로|로|길)(?:[ \t]?\d{{1,4}}[가나다라]?(?:번?길))? \d{{1,4}}(?:-\d{{1,4}})?,?[ \t]"
    rf"(?:{_DOOR}|{_HOUSE})"
    rf"|[가-힣]{{1,8}}(?:대로|로)\d{{1,4}}[가나다라]?번?길 \d{{1,4}}(?:-\d{{1,4}})?{_NO_AMOUNT}"
    rf"|[가-힣]{{2,8}}길 \d{{2,4}}(?:-\d{{1,4}})?{_NO_AMOUNT}"
    rf"){_DETAIL}{_REMARK}"
)
"""Addresses without a district: with a door or a house after the road, a road's branch, or a lane."""
_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Square|Sq|Terrace|Ter|Parkway|Pkwy"
    r"|Highway|Hwy|Crescent|Gardens|Mews|Broadway)"
)
_EVERYDAY = r"(?:Place|Pl|Way|Close|Row|Circle|Cir|Trail|Walk|Hill)"
_UNIT = r"(?:,?[ \t](?:(?:Apt|Apartment|Suite|Ste|Unit|Floor|Fl|Flat|Room|Rm)\.?[ \t]?#?|#[ \t]?)[A-Za-z0-9-]{1,6})"
_CITY = (
    r"(?:(?:,[ \t]|,?\n)(?!United|Republic|South Korea|Korea|England|Scotland|Wales)"
    r"[A-Z][a-z][A-Za-z'’.-]{0,20}(?:[ \t][A-Z][a-z][A-Za-z'’.-]{0,20}){0,2})"
)
_COUNTRY = (
    r"(?:United States(?: of America)?|United Kingdom|England|Scotland|Wales|(?:Republic of|South) Korea|Korea|USA|UK)"
)
_ZIP = (
    r"(?:,?[ \t][A-Z]{2}[ \t]\d{5}(?:-\d{4})?|,?[ \t][A-Z]{1,2}\d[A-Z\d]?[ \t]?\d[A-Z]{2}"
    rf"|,[ \t]{_COUNTRY}(?![A-Za-z])|,?[ \t][A-Z]{{2}}(?![A-Za-z0-9])|,?[ \t]\d{{5}}(?:-\d{{4}})?)"
)
_TAIL = rf"{_UNIT}?{_CITY}{{0,3}}{_ZIP}{{0,3}}"
_NAMED = r"(?:(?:[A-Z][A-Za-z'’-]{0,20}|\d{1,3}(?:st|nd|rd|th))\.?[ \t]){1,4}?"
_ENGLISH = re.compile(
    r"(?<![\w.-])(?:(?:Flat|Apt\.?|Unit|Suite)[ \t]\d{1,5}[A-Za-z]?,[ \t])?"
    r"\d{1,6}[A-Za-z]?(?:-\d{1,4})?[ \t](?:[NSEW]\.?[ \t]|(?:North|South|East|West)[ \t])?"
    rf"{_NAMED}(?:{_STREET}\b\.?(?:[ \t][NSEW]{{1,2}}\b)?{_TAIL}"
    rf"|{_EVERYDAY}\b\.?(?:{_UNIT}{_CITY}{{0,3}}|{_CITY}{{1,3}}){_ZIP}{{1,3}})"
)
_ROMAN = re.compile(
    r"(?<![\w.-])(?:(?:[A-Z]?\d{1,5}(?:-(?:ho|dong)|F|-\d{1,5})?|#\d{1,5}),?[ \t](?:\d{1,4}-dong,?[ \t])?){0,2}"
    r"\d{1,5}(?:-\d{1,4})?,?[ \t][A-Z][A-Za-z]{1,20}(?:-[A-Za-z]{1,15})?-(?:daero|ro|gil)"
    r"(?:[ \t]?\d{1,4}(?:beon)?-?gil)?"
    r"(?:,[ \t](?!Republic|South|Korea)[A-Z][A-Za-z]{1,15}(?:-(?:dong|gu|si|gun|do|eup|myeon|ri|ga))?"
    rf"(?:[ \t][A-Z][a-z]{{1,12}})?){{0,4}}(?:,?[ \t]\d{{5}})?(?:,[ \t]{_COUNTRY})?"
)
_BOX = re.compile(
    rf"(?<!\w)(?:[Pp]\.?[ \t]?[Oo]\.?|Post Office)[ \t][Bb]ox[ \t]\d{{1,6}}{_CITY}{{0,2}}{_ZIP}{{0,3}}"
    r"|(?<![가-힣])(?:[가-힣]{1,7}[ \t]){0,3}[가-힣]{1,8}우체국[ \t]사서함[ \t]?제?\d{1,5}(?:-\d{1,4})?호?"
)
_HANGUL = re.compile("[가-힣]")


def addresses(text: str) -> Iterator[Span]:
    """Yield postal addresses: Korean ones by road and by lot, also in Latin letters, English ones, and boxes."""
    patterns = [_ENGLISH]
    if any(part in text for part in ("-daero", "-ro", "-gil")):
        patterns.append(_ROMAN)
    if any(part in text for part in ("Box ", "box ", "사서함")):
        patterns.append(_BOX)
    if not text.isascii() and _HANGUL.search(text):
        patterns += [_KOREAN, _ALONE]
    for pattern in patterns:
        for found in pattern.finditer(text):
            yield Span(found.start(), found.end() - len(found[0]) + len(found[0].rstrip(" \t,.")))
