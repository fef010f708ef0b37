"""Where personal data stands in a text: e-mail addresses, phones, resident numbers, cards, passports, addresses; pure.

Each detector takes the text in a form of equal length (:func:`plain`), so that its spans fit the text as it was sent.
Patterns are bounded in every repetition: their time grows with the text's length only. What looks like a number of a
kind has to pass that kind's own check as well: Luhn for cards (ISO/IEC 7812-1), a date and where it stands alone the
weighted sum for resident numbers, libphonenumber's plans for phones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from enum import StrEnum

import phonenumbers

from headrace_ingest.postal import Span, addresses


class Kind(StrEnum):
    """What is found; the value is the name in settings and metadata."""

    EMAIL = "email"
    RESIDENT_NUMBER = "resident-number"
    CARD = "card"
    PHONE = "phone"
    PASSPORT = "passport"
    ADDRESS = "address"


Detector = Callable[[str], Iterator[Span]]

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—―−﹣－"), "-")
_SPACES = dict.fromkeys(map(ord, "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u3000"), " ")
_PLAIN: Mapping[int, int | str] = {**_FULL_WIDTH, **_DASHES, **_SPACES}


def plain(text: str) -> str:
    """Return the text with full-width forms, dashes and spaces as ASCII has them, each character one character."""
    return text.translate(_PLAIN)


_LONG_NUMBER = re.compile(r"\d(?:[ .()+-]{0,3}\d){6,}", re.ASCII)
"""Seven digits or more, close together: without them there is no number of any kind."""


def _among_numbers(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Yield what the pattern finds where long numbers stand, with what may belong to their beginning and end."""
    for number in _LONG_NUMBER.finditer(text):
        yield from pattern.finditer(text, max(0, number.start() - 4), number.end() + 8)


_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_][A-Za-z0-9._%+'-]{0,63}"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])"
)


_NO_EMAIL = re.compile(r"git@[^@]*|[^@]*@[1-4]x\.[a-z]{3,4}")
"""What a clone is addressed by, and files of pictures for displays of a density."""


def emails(text: str) -> Iterator[Span]:
    """Yield e-mail addresses."""
    if "@" in text:
        for found in _EMAIL.finditer(text):
            if not _NO_EMAIL.fullmatch(found[0]):
                yield Span(*found.span())


_RESIDENT = re.compile(r"(?<![\d-])(\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(\s?-\s?|\s)?(\d)(\d{6})(?![\d]|-\d)")
_RESIDENT_WORD = re.compile(
    r"주민|외국인|거소|등록\s?번호|생년|resident|registration|\brrn\b|\barn\b|foreigner|alien", re.IGNORECASE
)
_WEIGHTS = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
_CENTURIES = dict.fromkeys("90", 1800) | dict.fromkeys("1256", 1900) | dict.fromkeys("3478", 2000)
"""By the digit behind the date; 5 to 8 are foreigners'."""
_NEAR = 40
"""Characters before a number in which a word may tell what it is."""


def resident_numbers(text: str) -> Iterator[Span]:
    """Yield Korean resident and foreigner registration numbers.

    Thirteen digits in a row are one where the weighted sum fits (numbers up to October 2020) or a word before them says
    so; six and seven that are parted, where the date can be.
    """
    for found in _among_numbers(_RESIDENT, text):
        year, month, day, mark, century, rest = found.groups()
        if not _is_date(_CENTURIES[century] + int(year), int(month), int(day)):
            continue
        digits = f"{year}{month}{day}{century}{rest}"
        said = _RESIDENT_WORD.search(text, max(0, found.start() - _NEAR), found.start()) is not None
        if mark is not None or said or _fits_sum(digits):
            yield Span(*found.span())


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _fits_sum(digits: str) -> bool:
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, digits[:12], strict=True))
    check = (11 - total % 11) % 10
    foreigner = (13 - total % 11) % 10
    return int(digits[12]) == (foreigner if digits[6] in "5678" else check)


_CARD = re.compile(
    r"(?<![\d.-])(?:\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{4}([ -])\d{6}\2\d{4,5}|\d{6}[ -]\d{13}|\d{13,19})"
    r"(?!\d|-\d|\.\d)"
)
_ISSUER = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0[0-59]|[689]\d)\d{11,13}|(?:6011|64[4-9]\d|65\d\d)\d{12}"
    r"|35\d{14}|(?:62|81)\d{14,17}|9\d{15}"
)


def cards(text: str) -> Iterator[Span]:
    """Yield numbers of payment cards: an issuer's prefix and length, and Luhn's sum."""
    for found in _among_numbers(_CARD, text):
        digits = re.sub(r"\D", "", found[0])
        if _ISSUER.fullmatch(digits) and _fits_luhn(digits):
            yield Span(*found.span())


def _fits_luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


_GAP = r"[ .-]{1,3}"
_BEFORE = r"(?<![\w.+-])"
_AFTER = r"(?![\w/]|[.:-]\d)"
_WITH_COUNTRY = re.compile(
    r"(?<![\w+])(?:\+\s?\d{1,3}|\(\+\d{1,3}\)|00\d{1,3}[ .-])(?:[ .-]{0,3}(?:\(\d{1,5}\)|\d{1,5})){1,5}" + _AFTER,
    re.ASCII,
)
_NATIONAL = [
    re.compile(pattern, re.ASCII)
    for pattern in (
        (
            rf"(?<![\d.+-])(?:\(?82\)?{_GAP}1[016789][ .-]{{0,3}}\d{{3,4}}|010[ .-]{{0,3}}\d{{4}}"
            r"|01[16789][ .-]{0,3}\d{3,4})[ .-]{0,3}\d{4}(?!\d|[.-]\d)"
        ),
        rf"(?<![\d.+-])\(?0(?:2|[3-6][1-5]|70|50\d|80)(?:\)\s?|{_GAP})\d{{3,4}}{_GAP}\d{{4}}(?!\d|[.-]\d)",
        rf"{_BEFORE}(?:1[ .-])?(?:\([2-9]\d{{2}}\)\s?|[2-9]\d{{2}}[ .-])[2-9]\d{{2}}[ .-]\d{{4}}{_AFTER}",
        rf"{_BEFORE}\(?0(?:7\d{{3}}|1\d{{2,4}}|2\d)\)?[ -]\d{{3,6}}(?:[ -]\d{{3,4}})?{_AFTER}",
    )
]
"""Korean mobile and landline, North American, British: as they are written at home, parted."""
_IN_A_ROW = re.compile(r"(?<![\d.+-])0\d{8,10}(?!\d|[.,-]\d)", re.ASCII)
_SERVICE = re.compile(r"(?<![\w.+-])(1[568]\d{2})[ -](\d{4})(?!\d|[.-]\d)", re.ASCII)
_PHONE_WORD = re.compile(
    r"전화|연락처|휴대폰|핸드폰|문의|본사|고객|\btel|phone|mobile|cell|call|\bring|\bfax|contact", re.IGNORECASE
)
_NATIONAL_DIGITS = range(9, 13)
_LONGEST_TIME = 200
"""Years: 1592-1598 is a time, 1588-2068 a number."""


def phones(text: str) -> Iterator[Span]:
    """Yield phone numbers: with a country's code, and Korean, American and British ones as they are written there."""
    for found in _among_numbers(_WITH_COUNTRY, text):
        if _is_possible(found[0]):
            yield Span(*found.span())
    for pattern in _NATIONAL:
        for found in _among_numbers(pattern, text):
            if sum(map(str.isdigit, found[0])) in _NATIONAL_DIGITS:
                yield Span(*found.span())
    for found in _among_numbers(_IN_A_ROW, text):
        if _PHONE_WORD.search(text, max(0, found.start() - _NEAR), found.start()):
            yield Span(*found.span())
    for found in _among_numbers(_SERVICE, text):
        years = 0 < int(found[2]) - int(found[1]) < _LONGEST_TIME
        if not years or _PHONE_WORD.search(text, max(0, found.start() - _NEAR), found.start()):
            yield Span(*found.span())


def _is_possible(written: str) -> bool:
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(re.sub(r"^00", "+", written), None))
    except phonenumbers.NumberParseException:
        return False


_KOREAN_PASSPORT = re.compile(
    r"(?<![A-Za-z0-9-])(?:[MSRODGmsrodg]\d{3}[A-Za-z]\d{4}|[MSRODG](\d{8}))(?![A-Za-z0-9]|-\d)", re.ASCII
)
_OTHER_PASSPORT = re.compile(r"(?<![A-Za-z0-9-])[A-Z0-9]{7,9}(?![A-Za-z0-9]|-\d)", re.ASCII)
_PASSPORT_WORD = re.compile(r"passport|여권|PP\s?No", re.IGNORECASE)
_FEWEST_DIGITS = 4


def passports(text: str) -> Iterator[Span]:
    """Yield passport numbers: Korean ones by their form, others where a word right before them says so."""
    for found in _KOREAN_PASSPORT.finditer(text):
        if found[1] is None or not _is_day(found[1]):
            yield Span(*found.span())
    for said in _PASSPORT_WORD.finditer(text):
        for found in _OTHER_PASSPORT.finditer(text, said.end(), said.end() + _NEAR):
            if sum(map(str.isdigit, found[0])) >= _FEWEST_DIGITS:
                if not any(map(str.isdigit, text[said.end() : found.start()])):
                    yield Span(*found.span())
                break


def _is_day(digits: str) -> bool:
    """Whether the digits are a day as files and orders are named by it: 20240517."""
    return digits[:2] in ("19", "20") and _is_date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))


DETECTORS: Mapping[Kind, Detector] = {
    Kind.EMAIL: emails,
    Kind.RESIDENT_NUMBER: resident_numbers,
    Kind.CARD: cards,
    Kind.PASSPORT: passports,
    Kind.ADDRESS: addresses,
    Kind.PHONE: phones,
}
"""In the order in which they claim characters: what one has, a later one does not get."""
