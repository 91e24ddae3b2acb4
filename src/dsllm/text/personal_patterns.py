"""The patterns of personal data and the checks of what they find: the definition, see `personal.py`.

Patterns are of bytes: what is not ASCII neither opens nor closes a word.
"""

import datetime
import ipaddress
import re
from collections.abc import Callable

KINDS = ("email", "iban", "id", "card", "ip", "phone")
_RESERVED_DOMAINS = frozenset((b"example.com", b"example.org", b"example.net"))
_TOP_DOMAINS = (
    b"com org net edu gov mil int info biz name pro aero coop museum mobi jobs travel cat tel asia post app "
    b"dev cloud online site xyz top club shop tech store blog live news email link wiki vip work group ltd "
    b"company network world life today design space agency center academy science software systems services "
    b"media digital global page art fun ink win icu one eco bank health law berlin london nyc paris tokyo"
)
_CALLING_CODES = re.compile(
    rb"1[2-9]|7[3-9]|2[07]|21[1-368]|22\d|23\d|24\d|25[0-8]|26\d|29[0178]|3[0-469]|35\d|37\d|38[0-35-79]|"
    rb"4[013-9]|42[013]|5[1-8]|50\d|59\d|6[0-6]|67[02-9]|68\d|69[0-2]|8[1246]|85[02356]|88[06]|9[0-58]|96\d|"
    rb"97[0-7]|99[2-68]"
)
_REGIONS = re.compile(rb"1[1-5]|2[123]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[123]")
_CARDS = re.compile(
    rb"4\d{12}(?:\d{3}(?:\d{3})?)?|5[1-5]\d{14}|(?:222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|"
    rb"3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|6(?:011|4[4-9]\d|5\d\d)\d{12,15}|35(?:2[89]|[3-8]\d)\d{12,15}|"
    rb"62\d{14,17}"
)
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: b"NO", 16: b"BE BI", 18: b"DK FI FO GL NL SD", 19: b"MK SI", 20: b"AT BA EE KZ LT LU XK",
        21: b"CH CR HR LI LV", 22: b"BG BH DE GB GE IE ME RS", 23: b"AE GI IL IQ OM SO TL",
        24: b"AD CZ ES MD PK RO SA SE SK TN VG", 25: b"LY PT ST", 26: b"IS TR", 27: b"DJ FR GR IT MC MR SM",
        28: b"AL AZ BY CY DO GT HU LB NI PL SV", 29: b"BR EG PS QA UA", 30: b"JO KW MU YE", 31: b"MT SC",
        33: b"RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


def luhn(digits: bytes) -> bool:
    """Check digits by Luhn's sum: every second one from the right doubled (ISO/IEC 7812-1, annex B)."""
    values = [digit - ord("0") for digit in reversed(digits)]
    doubled = [2 * value - 9 * (value > 4) for value in values[1::2]]
    return (sum(values[::2]) + sum(doubled)) % 10 == 0


def mod_11_2(number: bytes) -> bool:
    """Check 17 digits by the last character, X for ten (ISO 7064 MOD 11-2)."""
    total = sum((digit - ord("0")) * pow(2, 17 - place, 11) for place, digit in enumerate(number[:17]))
    return b"10X98765432"[total % 11] == number[17:].upper()[0]


def mod_97(number: bytes) -> bool:
    """Check letters and digits without spaces: country and check digits behind the rest are 1 modulo 97."""
    moved = number[4:] + number[:4]
    return int("".join(str(int(chr(character), 36)) for character in moved)) % 97 == 1


def _is_email(text: bytes, start: int, end: int) -> bool:
    local, _, domain = text[start:end].lower().rpartition(b"@")
    labels = domain.split(b".")
    if len(labels[-1]) > 2 and labels[-1] not in _TOP_DOMAINS.split():
        return False
    if b".".join(labels[-2:]) in _RESERVED_DOMAINS or b".." in local or len(local) > 64:
        return False
    follows = text[end : end + 2]
    return not (local in (b"git", b"hg", b"svn") or follows in (b":/", b":~", b":.") or follows[:1] == b"@")


def _is_phone(text: bytes, start: int, end: int) -> bool:
    digits = re.sub(rb"\D", b"", text[start:end])
    if text[start : start + 1] == b"+":
        has_separator = end - start > len(digits) + 1
        return (9 if has_separator else 10) <= len(digits) <= 15 and _CALLING_CODES.match(digits) is not None
    return True


def _is_labelled_phone(text: bytes, start: int, end: int) -> bool:
    number = text[start:end]
    groups = [len(group) for group in re.findall(rb"\d+", number)]
    is_date = re.match(rb"(?:19|20)\d\d[-./ ]?[01]?\d[-./ ]?[0-3]?\d(?!\d)", number) is not None
    return 7 <= sum(groups) <= 15 and not is_date and (len(groups) == 1 or max(groups) <= 8)


def _is_resident(text: bytes, start: int, end: int) -> bool:
    number = text[start:end]
    try:
        born = datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    return _REGIONS.match(number) is not None and 1880 <= born.year <= 2100 and mod_11_2(number)


def _is_security_number(text: bytes, start: int, end: int) -> bool:
    area, group, serial = text[start:end].split(b"-")
    return area not in (b"000", b"666") and area < b"900" and group != b"00" and serial != b"0000"


def _is_card(text: bytes, start: int, end: int) -> bool:
    digits = re.sub(rb"[ -]", b"", text[start:end])
    return _CARDS.fullmatch(digits) is not None and len(set(digits)) > 1 and luhn(digits)


def _is_iban(text: bytes, start: int, end: int) -> bool:
    number = text[start:end].replace(b" ", b"")
    return len(number) == _IBAN_LENGTHS.get(number[:2]) and mod_97(number)


def _is_public_v4(text: bytes, start: int, end: int) -> bool:
    octets = text[start:end].split(b".")
    if any(len(octet) > 1 and octet.startswith(b"0") for octet in octets):
        return False
    greatest = max(map(int, octets))
    if greatest > 255 or _VERSION.search(text, max(0, start - 12), start):
        return False
    if greatest < 32 and not _ADDRESS.search(text, max(0, start - 24), start):
        return False
    address = ipaddress.IPv4Address(text[start:end].decode())
    return address.is_global and not address.is_multicast


def _is_public_v6(text: bytes, start: int, end: int) -> bool:
    try:
        address = ipaddress.IPv6Address(text[start:end].decode())
    except ValueError:
        return False
    return address.is_global and text[start:end].count(b":") >= 3


_OPEN = rb"(?<![\w.+\-/=#&%@$])"  # no word, path, value of a key or part of a longer number before it
_CLOSE = rb"(?![\w@%]|-\w|[.,/:]\d)"
# Bare digits are no number of anybody in formulas, tables, calls and assignments.
_BARE_OPEN = _OPEN + rb"(?<![{&(\\])(?<![&=({\\] )(?<!=[\"'])"
_BARE_CLOSE = _CLOSE + rb"(?! ?[\\&}])"
_MOBILE = rb"(?:86[\- ]?)?1(?:3\d|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|8\d|9[0-35-9])"
_AREA = rb"0(?:10|2\d|[3-9]\d{2})"
_AREAS = _AREA + rb"-|\(" + _AREA + rb"\) ?|" + "（".encode() + _AREA + "）".encode()
_AMERICAN = rb"[2-9](?!11)\d{2}"  # an area or an exchange
_CHINESE_LABELS = "电话|手机|手机号|手机号码|电话号码|传真|热线|联系方式".encode()
_LABEL = rb"(?i:\b(?:tel|telephone|phone|mobile|cell|fax|whatsapp)\b|" + _CHINESE_LABELS + rb")"
_BEHIND_LABEL = rb"(?:[ \t.:\-)#]|" + "：|）".encode() + rb"){0,6}"
_VERSION = re.compile(
    rb"(?:[Vv]ersion|[Vv]er\.?|[Vv]|" + "版本|版本号".encode() + rb"|[A-Za-z]/|\bOID)[ :=]{0,2}\Z"
)
_ADDRESS = re.compile(
    rb"(?i:\b(?:ipv?4?|address|host|server|dns|ping|from)\W{0,4}|//|@|"
    + "地址|服务器".encode()
    + rb"[^\w.]{0,6})\Z"
)
Check = Callable[[bytes, int, int], bool]
_BY_KIND: dict[str, dict[bytes, Check]] = {
    "email": {
        rb"(?<![\w.+\-])[A-Za-z0-9_][\w.+\-]{0,63}@"
        rb"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,40}[A-Za-z0-9])?\.){1,4}"
        rb"[A-Za-z]{2,12}(?![\w\-]|\.\w)": _is_email
    },
    "iban": {
        rb"(?<![A-Za-z0-9])[A-Z]{2}\d{2}"
        rb"(?:[A-Z0-9]{11,30}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?![A-Za-z0-9])": _is_iban
    },
    "id": {
        rb"(?<![\w.])[1-9]\d{16}[\dXx](?!\w|\.\w)": _is_resident,
        rb"(?i:\bSSN|\bsocial security (?:number|no\.?|#))[ :#]{0,3}"
        rb"(\d{3}-\d{2}-\d{4})(?![\w\-])": _is_security_number,
    },
    "card": {
        _BARE_OPEN + rb"\d{12,19}" + _BARE_CLOSE: _is_card,
        _OPEN + rb"\d{4}(?:[ -]\d{4}){3}(?:[ -]\d{3})?" + _CLOSE: _is_card,
        _OPEN + rb"\d{4}[ -]\d{6}[ -]\d{4,5}" + _CLOSE: _is_card,
    },
    "ip": {
        rb"(?<![\w.\-])(?:\d{1,3}\.){3}\d{1,3}(?![\w\-]|\.\d|/\d)": _is_public_v4,
        rb"(?<![\w.:])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{3,34}(?![\w:/]|\.\w)": _is_public_v6,
    },
    "phone": {
        rb"(?<![\w.\-/=)(])\+[1-9]\d{0,3}(?:[ .\-]?\(\d{1,4}\)|[ .\-]?\d{1,12}){1,5}" + _CLOSE: _is_phone,
        _OPEN + rb"(?:1[\-. ])?(?:\(" + _AMERICAN + rb"\) ?|" + _AMERICAN + rb"[\-.])"
        + _AMERICAN + rb"[\-.]\d{4}" + _CLOSE: _is_phone,
        _BARE_OPEN + _MOBILE + rb"\d{8}" + _BARE_CLOSE: _is_phone,
        _OPEN + _MOBILE + rb"(?:-\d{4}-\d{4}| \d{4} \d{4})" + _CLOSE: _is_phone,
        _OPEN + rb"(?:" + _AREAS + rb")[2-8]\d{2,3}(?:-?\d{4})(?:-\d{1,6})?" + _CLOSE: _is_phone,
        _LABEL + _BEHIND_LABEL + rb"(\+?\(?\d[\d \-.()/]{5,22}\d)" + _CLOSE: _is_labelled_phone,
    },
}  # fmt: skip
PATTERNS = {
    kind: tuple((re.compile(pattern), check) for pattern, check in patterns.items())
    for kind, patterns in _BY_KIND.items()
}
