"""Where postal addresses stand in a text: Korean by road and by lot, in Latin letters too, English, boxes; pure.

A name of a road or a quarter alone is none, for in Korean the same syllables are particles: a region has to stand
before it, or a floor or a door behind. Every repetition is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """Characters ``start`` up to ``end``, which is excluded."""

    start: int
    end: int


_NO_AMOUNT = r"(?![\d,.%:]\d|\d|개|명|번째|회|시간|분|년|월|일|원|위|배|점|차|억|만|천|세대|대\b)"
"""A number before one of these counts something."""
_PROVINCE = (
    r"(?:서울|부산|대구|인천|광주|대전|울산|세종|경기|강원|제주|충북|충남|전북|전남|경북|경남|충청[남북]|전라[남북]|경상[남북])"
    r"(?:특별자치시|특별자치도|특별시|광역시|도|시)?"
)
_DISTRICT = r"[가-힣]{1,5}(?:시|군|구)"
_AREA = (
    rf"(?:{_PROVINCE}\s{{1,3}}(?:{_DISTRICT}\s{{1,3}}){{0,2}}|(?:{_DISTRICT}\s{{1,3}}){{1,2}})"
    r"(?:[가-힣0-9]{1,6}[읍면]\s{1,3})?"
)
_ROAD = (
    r"[가-힣0-9·.]{1,12}?(?:대로|로|길)(?:\s?\d{1,4}[가나다라]?(?:번?길))?\s?(?:지하\s?)?\d{1,4}(?:-\d{1,4})?"
    + _NO_AMOUNT
)
_LOT = r"[가-힣0-9]{1,8}(?:동|읍|면|리|가)(?:\s[가-힣]{1,6}리)?\s(?:산\s?)?\d{1,4}(?:-\d{1,4})?(?:번지)?" + _NO_AMOUNT
_HOUSE = (
    r"[가-힣A-Za-z0-9]{0,20}(?:아파트|빌딩|빌라|타워|오피스텔|타운|맨션|상가|센터|프라자|플라자|스퀘어|하우스|주택)"
)
_DOOR = r"(?:(?:제?\d{1,4}|[A-Za-z가-힣])동|(?:지하\s?|B)?\d{1,3}층|제?[A-Za-z]?\d{1,5}호)"
_DETAIL = rf"(?:,?\s?{_HOUSE})?(?:,?\s(?:[가-힣A-Za-z0-9]{{1,15}}\s){{0,3}}?{_DOOR})?(?:[,-]?\s?{_DOOR}){{0,3}}"
_REMARK = (
    r"(?:\s?\([가-힣0-9A-Za-z, ]{1,40}(?:동|읍|면|리|가|아파트|빌딩|빌라|타워)(?:,\s?[가-힣0-9A-Za-z ]{1,30})?\))?"
)
_POSTAL = r"(?:\(?\d{5}\)?\s{1,3}(?=" + _PROVINCE + r"\s))?"
_KOREAN = re.compile(rf"(?<![가-힣A-Za-z0-9]){_POSTAL}{_AREA}(?:{_ROAD}|{_LOT}){_DETAIL}{_REMARK}")
_ALONE = re.compile(
    r"(?<![가-힣A-Za-z0-9])(?:"
    rf"[가-힣]{{2,8}}(?:대로|로|길)(?:\s?\d{{1,4}}[가나다라]?(?:번?길))?\s\d{{1,4}}(?:-\d{{1,4}})?,?\s{_DOOR}"
    rf"|[가-힣]{{1,8}}(?:대로|로)\d{{1,4}}[가나다라]?번?길\s\d{{1,4}}(?:-\d{{1,4}})?{_NO_AMOUNT}"
    rf"|[가-힣]{{2,8}}길\s\d{{2,4}}(?:-\d{{1,4}})?{_NO_AMOUNT}"
    rf"|[가-힣]{{2,8}}로\s\d{{3,4}}(?=\s|,\s|$)|[가-힣]{{2,8}}로\s\d{{1,4}}-\d{{1,4}}{_NO_AMOUNT}"
    rf"|[가-힣]{{1,5}}동\s\d{{1,4}}-\d{{1,4}}(?:번지)?{_NO_AMOUNT}"
    rf"){_DETAIL}{_REMARK}"
)
"""What is an address without its region: a door behind, a road's branch, a number with a hyphen."""
_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Square|Sq|Way|Terrace|Ter"
    r"|Parkway|Pkwy|Highway|Hwy|Crescent|Close|Row|Gardens|Mews|Circle|Cir|Trail|Walk|Hill|Broadway)"
)
_UNIT = r"(?:,?\s(?:(?:Apt|Apartment|Suite|Ste|Unit|Floor|Fl|Flat|Room|Rm)\.?\s?#?|#\s?)[A-Za-z0-9-]{1,6})?"
_CITY = (
    r"(?:(?:,\s|,?\n)(?!United|Republic|South\sKorea|Korea|England|Scotland|Wales)"
    r"[A-Z][a-z][A-Za-z'’.-]{0,20}(?:\s[A-Z][a-z][A-Za-z'’.-]{0,20}){0,2})"
)
_COUNTRY = (
    r"(?:United\sStates(?:\sof\sAmerica)?|United\sKingdom|England|Scotland|Wales|(?:Republic\sof|South)\sKorea|Korea"
    r"|USA|UK)"
)
_ZIP = (
    r"(?:,?\s[A-Z]{2}\s\d{5}(?:-\d{4})?|,?\s[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2}"
    rf"|,\s{_COUNTRY}(?![A-Za-z])|,?\s[A-Z]{{2}}(?![A-Za-z0-9])|,?\s\d{{5}}(?:-\d{{4}})?)"
)
_TAIL = rf"{_UNIT}(?:{_CITY}){{0,3}}{_ZIP}{{0,3}}"
_ENGLISH = re.compile(
    r"(?<![\w.-])(?:Flat\s\d{1,4}[A-Za-z]?,\s|Apt\.?\s\d{1,5}[A-Za-z]?,\s|Unit\s\d{1,5},\s|Suite\s\d{1,5},\s)?"
    r"\d{1,6}[A-Za-z]?(?:-\d{1,4})?\s(?:[NSEW]\.?\s|North\s|South\s|East\s|West\s)?"
    r"(?:(?:[A-Z][A-Za-z'’-]{0,20}|\d{1,3}(?:st|nd|rd|th))\.?\s){1,4}?"
    rf"{_STREET}\b\.?(?:\s[NSEW]{{1,2}}\b)?{_TAIL}"
)
_ROMAN = re.compile(
    r"(?<![\w.-])(?:(?:[A-Z]?\d{1,5}(?:-(?:ho|dong)|F|-\d{1,5})?|#\d{1,5}),?\s(?:\d{1,4}-dong,?\s)?){0,2}"
    r"\d{1,5}(?:-\d{1,4})?,?\s[A-Z][A-Za-z]{1,20}(?:-[A-Za-z]{1,15})?-(?:daero|ro|gil)(?:\s?\d{1,4}(?:beon)?-?gil)?"
    r"(?:,\s(?!Republic|South|Korea)[A-Z][A-Za-z]{1,15}(?:-(?:dong|gu|si|gun|do|eup|myeon|ri|ga))?"
    rf"(?:\s[A-Z][a-z]{{1,12}})?){{0,4}}(?:,?\s\d{{5}})?(?:,\s{_COUNTRY})?"
)
_BOX = re.compile(
    rf"(?<!\w)(?:[Pp]\.?\s?[Oo]\.?|Post\sOffice)\s[Bb]ox\s\d{{1,6}}(?:{_CITY}){{0,2}}{_ZIP}{{0,3}}"
    r"|(?<![가-힣])(?:[가-힣]{1,7}\s){0,3}[가-힣]{1,8}우체국\s사서함\s?제?\d{1,5}(?:-\d{1,4})?호?"
)
_HANGUL = re.compile("[가-힣]")


def addresses(text: str) -> Iterator[Span]:
    """Yield postal addresses: Korean ones by road and by lot, in Latin letters too, English ones, boxes."""
    patterns = [_ENGLISH]
    if any(part in text for part in ("-daero", "-ro", "-gil")):
        patterns.append(_ROMAN)
    if any(part in text for part in ("Box ", "box ", "사서함")):
        patterns.append(_BOX)
    if _HANGUL.search(text):
        patterns += [_KOREAN, _ALONE]
    for pattern in patterns:
        for found in pattern.finditer(text):
            yield Span(found.start(), found.end() - len(found[0]) + len(found[0].rstrip(" ,.")))
