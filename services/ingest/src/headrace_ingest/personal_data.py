"""Finds personal data in a text: e-mail addresses, phones, resident numbers, cards, passports, addresses; pure.

Each detector takes the text in a normalized form of equal length (:func:`plain`), so its spans apply to the original
text. Every repetition in a pattern is bounded, so the time is linear in the text. A candidate must also pass the check
of its kind: Luhn for cards (ISO/IEC 7812-1), a valid date and, without other evidence, the weighted sum for resident
numbers, libphonenumber's plans for phones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from enum import StrEnum

import phonenumbers

from headrace_ingest.postal import Span, addresses


class Kind(StrEnum):
    """A kind of personal data. The value is the name in settings and metadata."""

    EMAIL = "email"
    RESIDENT_NUMBER = "resident-number"
    CARD = "card"
    PHONE = "phone"
    PASSPORT = "passport"
    ADDRESS = "address"


Detector = Callable[[str], Iterator[Span]]
Fits = Callable[[re.Match[str]], bool]
"""Whether a match of the pattern is really of the kind."""

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—―−﹣－"), "-")
_SPACES = dict.fromkeys(map(ord, "\t\u00a0\u202f\u3000"), " ") | dict.fromkeys(range(0x2000, 0x200B), " ")
_PLAIN: Mapping[int, int | str] = {**_FULL_WIDTH, **_DASHES, **_SPACES}
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")


def plain(text: str) -> str:
    """Return the text with full-width forms, dashes and spaces replaced by ASCII, one character for each."""
    return text.replace("\t", " ") if text.isascii() else text.translate(_PLAIN)


def visible(text: str) -> tuple[str, list[int] | None]:
    """Return the text without invisible characters and the positions of the others; None if there were none."""
    if text.isascii() or _INVISIBLE.search(text) is None:
        return text, None
    places = [place for place, character in enumerate(text) if not _INVISIBLE.match(character)]
    return "".join(text[place] for place in places), places


_NEAR = 40
"""Characters before a number to search for a word that says what it is."""
_LONG_NUMBER = re.compile(r"\d(?:[ .·()+-]{0,3}\d){6,}", re.ASCII)
"""At least seven digits close together. Without them, a text contains no number of any kind."""


def _among_numbers(text: str, *wanted: tuple[re.Pattern[str], Fits]) -> Iterator[Span]:
    """Yield each pattern's valid matches near long numbers. An invalid match does not hide later ones."""
    for number in _LONG_NUMBER.finditer(text):
        for pattern, fits in wanted:
            yield from _fitting(pattern, fits, text, max(0, number.start() - 6), number.end() + 8)


def _fitting(pattern: re.Pattern[str], fits: Fits, text: str, at: int, end: int) -> Iterator[Span]:
    while (found := pattern.search(text, at, end)) is not None:
        if fits(found):
            yield Span(*found.span())
            at = found.end()
        else:
            at = found.start() + 1


def _said(word: re.Pattern[str], found: re.Match[str]) -> bool:
    """Return whether the word occurs shortly before the match."""
    return word.search(found.string, max(0, found.start() - _NEAR), found.start()) is not None


_EMAIL = re.compile(
    r"(?<![A-Za-z0-9À-ɏ_%+-])[A-Za-z0-9À-ɏ_][A-Za-z0-9À-ɏ._%+'-]{0,63}"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}(?:xn--[A-Za-z0-9-]{2,59}|[A-Za-z]{2,24})(?!-?[A-Za-z0-9])"
)
_NO_EMAIL = re.compile(
    r"git@[^@]*|[^@]*@[1-4]x\.[a-z]{3,4}|[^@]*@[^@]*\.(?:js|jsx|tsx|transpose|reshape|png|jpe?g|svg|webp)"
)
"""Git remotes, image files, packages and matrix products, which look like e-mail addresses."""


def emails(text: str) -> Iterator[Span]:
    """Yield e-mail addresses."""
    if "@" in text:
        for found in _EMAIL.finditer(text):
            if not _NO_EMAIL.fullmatch(found[0]):
                yield Span(*found.span())


_RESIDENT = re.compile(
    r"(?<!\d)(?<!\d[.-])(\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])( ?[-.] ?| {1,2})?(\d)(\d{6})(?!\d|-\d|\.\w)"
)
_RESIDENT_WORD = re.compile(
    r"주민|외국인|거소|등록\s?번호|생년|resident|registration|\brrn\b|\barn\b|foreigner|alien", re.IGNORECASE
)
_WEIGHTS = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
_CENTURIES = dict.fromkeys("90", 1800) | dict.fromkeys("1256", 1900) | dict.fromkeys("3478", 2000)
"""Century by the digit after the date; 5 to 8 are foreigners."""


def resident_numbers(text: str) -> Iterator[Span]:
    """Yield Korean resident and foreigner registration numbers.

    Thirteen consecutive digits match if the weighted sum is right (numbers up to October 2020) or a word before them
    says so. Six and seven separated digits match if the date is valid.
    """

    def fits(found: re.Match[str]) -> bool:
        year, month, day, mark, century, rest = found.groups()
        if not _is_date(_CENTURIES[century] + int(year), int(month), int(day)):
            return False
        said = _said(_RESIDENT_WORD, found)
        return mark is not None or said or _fits_sum(f"{year}{month}{day}{century}{rest}")

    return _among_numbers(text, (_RESIDENT, fits))


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
    r"(?<!\d)(?<!\d[.-])(?:\d{4}[ .-]{1,2}\d{4}[ .-]{1,2}\d{4}[ .-]{1,2}\d{4}(?:[ .-]\d{3})?|\d{4}([ .-])\d{6}\1\d{4,5}"
    r"|\d{6}[ -]\d{13}|\d{13,19})(?!\d|-\d)"
)
_ISSUER = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0[0-59]|[689]\d)\d{11,13}|(?:6011|64[4-9]\d|65\d\d)\d{12}"
    r"|35\d{14}|(?:62|81)\d{14,17}|9\d{15}"
)


def cards(text: str) -> Iterator[Span]:
    """Yield payment card numbers, checked by the issuer's prefix, the length and the Luhn sum."""

    def fits(found: re.Match[str]) -> bool:
        digits = re.sub(r"\D", "", found[0])
        return _ISSUER.fullmatch(digits) is not None and _fits_luhn(digits)

    return _among_numbers(text, (_CARD, fits))


def _fits_luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


_GAP = r"[ .·-]{1,3}"
_ANY_GAP = r"[ .·-]{0,3}"
_BEFORE = r"(?<![\w/])(?<!\d[.+-])"
_AFTER = r"(?![\w/]|[.:]\d)"
_WITH_COUNTRY = re.compile(
    r"(?<![\w+])(?:\+ ?\d{1,3}|\(\+\d{1,3}\)|00\d{1,3}[ .-])(?:[ .-]{0,3}(?:\(\d{1,5}\)|\d{1,5})){1,5}" + _AFTER,
    re.ASCII,
)
_MOBILE = re.compile(
    rf"(?<!\d)(?<!\d[.+])(?:\(?82\)?{_ANY_GAP}1[016789]{_ANY_GAP}\d{{3,4}}|\(?010\)?{_ANY_GAP}\d{{4}}"
    rf"|\(?01[16789]\)?{_ANY_GAP}\d{{3,4}}){_ANY_GAP}\d{{4}}(?!\d|\.\d)",
    re.ASCII,
)
_LANDLINE = re.compile(
    rf"(?<!\d)(?<!\d[.+-])\(?0(?:2|[3-6][1-5]|70|50\d|80)(?:\) ?|{_GAP})\d{{3,4}}{_GAP}\d{{4}}(?!\d|[.-]\d)", re.ASCII
)
_AMERICAN = re.compile(
    rf"{_BEFORE}(?:1[ .-])?(?:\([2-9]\d{{2}}\) ?|[2-9]\d{{2}}([ .-]))[2-9]\d{{2}}[ .-]\d{{4}}{_AFTER}", re.ASCII
)
_BRITISH = re.compile(rf"{_BEFORE}\(?0(?:7\d{{3}}|1\d{{2,4}}|2\d)\)?[ -]\d{{3,6}}(?:[ -]\d{{3,4}})?{_AFTER}", re.ASCII)
_IN_A_ROW = re.compile(r"(?<!\d)(?<!\d[.+-])(?:0\d{8,10}|1[016789]\d{7,8})(?!\d|[.,-]\d)", re.ASCII)
_SERVICE = re.compile(
    r"(?<![\w.+-])(1(?:522|533|544|551|566|577|588|599|60[0-1]|611|644|66[0168]|670|688|8[01]0|811|833|855|877|899))"
    r"([ -])(\d{4})(?!\d|[.-]\d)",
    re.ASCII,
)
_PHONE_WORD = re.compile(
    r"전화|연락처|휴대폰|핸드폰|문의|본사|고객|\btel|phone|mobile|cell|call|\bring|\bfax|contact", re.IGNORECASE
)
_NATIONAL_DIGITS = range(9, 13)
_LEAST_IN_A_ROW = 11
_LONGEST_TIME = 200
"""Years: 1592-1598 is a period, 1588-2068 is a phone number."""


def phones(text: str) -> Iterator[Span]:
    """Yield phone numbers: with a country code, and in Korean, American and British notation."""

    def said(found: re.Match[str]) -> bool:
        return _said(_PHONE_WORD, found)

    def possible(found: re.Match[str]) -> bool:
        return _is_possible(found[0])

    def national(found: re.Match[str]) -> bool:
        return sum(map(str.isdigit, found[0])) in _NATIONAL_DIGITS

    def american(found: re.Match[str]) -> bool:
        return said(found) if found[1] == " " else _is_american(found[0])

    def service(found: re.Match[str]) -> bool:
        years = 0 < int(found[3]) - int(found[1]) < _LONGEST_TIME
        return said(found) if years or found[2] == " " else True

    return _among_numbers(
        text, (_WITH_COUNTRY, possible), (_MOBILE, national), (_LANDLINE, national), (_AMERICAN, american),
        (_BRITISH, national), (_IN_A_ROW, said), (_SERVICE, service),
    )  # fmt: skip


def _is_possible(written: str) -> bool:
    if written.lstrip("+").isdigit() and len(written) <= _LEAST_IN_A_ROW:
        return False
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(re.sub(r"^00", "+", written), None))
    except phonenumbers.NumberParseException:
        return False


def _is_american(written: str) -> bool:
    """Return whether the numbering plan contains the number or reserves it for fiction (555)."""
    digits = re.sub(r"\D", "", written)[-10:]
    return digits[3:6] == "555" or phonenumbers.is_valid_number(phonenumbers.parse(digits, "US"))


_NEW_PASSPORT = re.compile(r"[MSRODG](?<![A-Za-z0-9].)\d{3}[A-Z]\d{4}(?![A-Za-z0-9]|-\d)", re.ASCII)
_OLD_PASSPORT = re.compile(
    r"(?<![A-Za-z0-9])(?:[MSRODGmsrodg]\d{3}[A-Za-z]\d{4}|[MSRODG](\d{8}))(?![A-Za-z0-9]|-\d)", re.ASCII
)
_OTHER_PASSPORT = re.compile(r"(?<![A-Za-z0-9-])[A-Z0-9]{7,9}(?![A-Za-z0-9]|-\d)", re.ASCII)
# A pattern that begins with a character set searches several times faster.
_PASSPORT_WORD = re.compile(r"[pP여](?:(?i:assport|p ?no)|(?<=여)권)")
_FEWEST_DIGITS = 4
_SAME_TABLE = 1000
"""Characters around a number to search for the word, which may be in a table's header."""


def passports(text: str) -> Iterator[Span]:
    """Yield passport numbers: new Korean ones by their form, old ones near the word, others right after it."""
    for found in _NEW_PASSPORT.finditer(text):
        yield Span(*found.span())
    words = list(_PASSPORT_WORD.finditer(text))
    for number, said in enumerate(words):
        begin = max(words[number - 1].end() if number else 0, said.start() - _SAME_TABLE)
        behind = words[number + 1].start() if number + 1 < len(words) else len(text)
        for found in _OLD_PASSPORT.finditer(text, begin, min(behind, said.end() + _SAME_TABLE)):
            if found[1] is None or not _is_day(found[1]):
                yield Span(*found.span())
        for found in _OTHER_PASSPORT.finditer(text, said.end(), said.end() + _NEAR):
            if sum(map(str.isdigit, found[0])) >= _FEWEST_DIGITS:
                if not any(map(str.isdigit, text[said.end() : found.start()])):
                    yield Span(*found.span())
                break


def _is_day(digits: str) -> bool:
    """Return whether the digits are a date, as in names of files and orders: 20240517."""
    return digits[:2] in ("19", "20") and _is_date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))


DETECTORS: Mapping[Kind, Detector] = {
    Kind.EMAIL: emails,
    Kind.RESIDENT_NUMBER: resident_numbers,
    Kind.CARD: cards,
    Kind.PHONE: phones,
    Kind.PASSPORT: passports,
    Kind.ADDRESS: addresses,
}
"""In order of precedence: characters that one detector claims are not available to later ones."""
