"""Personal data: what is found and what is not, check digits by hand, hints against the definition."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsllm.text import personal
from dsllm.text.edits import Edit, apply_edits
from dsllm.text.personal import find_edits, find_personal, placeholder
from dsllm.text.personal_patterns import luhn, mod_11_2, mod_97
from dsllm.text.texts import Texts

# Numbers that standards and issuers print as examples, and numbers reserved for fiction.
PERSONAL = {
    "email": ["jane.doe+list@mail.acme.co.uk", "bob_1@acme.museum", "mailto:%20joe@acme.io",
        "mailto:joe@acme.io", "邮箱joe@qq.com。"],
    "phone": [
        "(212) 555-0147", "212-555-0147", "212.555.0147", "1-212-555-0147", "+1 212 555 0147", "+12125550147",
        "+44 20 7946 0958", "Tel: 020 7946 0958", "phone 555 867 5309", "+33 1 23 45 67 89",
        "手机13800138000", "138-0013-8000", "138 0013 8000", "+86 138 0013 8000", "电话：010-62751234",
        "(010)62751234", "（0571）87654321", "传真 0571-8765-4321",
    ],
    "id": ["身份证11010519491231002X，", "id 11010519491231002x", "SSN: 123-45-6789"],
    "card": [
        "4111 1111 1111 1111", "4111111111111111", "378282246310005", "5555-5555-5555-4444",
        "3782 822463 10005", "卡号6011111111111117",
    ],
    "iban": ["GB82 WEST 1234 5698 7654 32", "DE89370400440532013000", "FR14 2004 1010 0505 0001 3M02 606"],
    "ip": ["93.184.216.34", "host 8.8.8.8", "2001:4860:4860::8888", "http://93.184.216.34:80/"],
}  # fmt: skip
NOT_PERSONAL = [
    "a@example.com, b@mail.test, git@github.com:user/repo, A@B.dot, x @ y.com, npm i lodash@4.17.21",
    "version 93.184.216.34, v52.94.236.248, Chrome/99.100.101.102, 1.2.3.4.5, section 4.1.2.3, 8.8.8.8",
    "10.1.2.3 192.168.1.1 172.16.0.9 127.0.0.1 203.0.113.7 224.0.0.251 93.184.216.0/24 fe80::1 2001:db8::1",
    "2023-01-02 10:20:30, 2023/10/11, 20231011, 1999-2001, 10:20:30, 1595926535897, 1609459200",
    "3.14159265358979, 0.4111111111111111, 4111111111111112, 1234567890123456, 12579111317",
    r"\begin{bmatrix} 13800138000 & 15900159000 \\ 18612345678\end{bmatrix}, x = 13800138000",
    "a1b2c3d4e5f6, d41d8cd98f00b204e9800998ecf8427e, 0x4111111111111111, id=13800138000, sku-212-555-0147",
    "110105194912310021, 11010519490231002X, 99010519491231002X, 123-45-6789, 000-12-3456",
    "GB82 WEST 1234 5698 7654 33, DE8937040044053201300, US64SVBKUS6S3300958879000, std::2001::b",
    "211-555-0147, 212-111-0147, 800.171.2020.1, ISBN 978-3-16-148410-0, +12 345, 1 + 1234567890",
]


@pytest.mark.parametrize("kind", PERSONAL)
def test_each_form_is_found_and_nothing_else_in_it(kind):
    for text in PERSONAL[kind]:
        found = find_personal(text.encode())
        assert [one.kind for one in found] == [kind], text
        assert find_personal(f"字{text}\n".encode())[0].kind == kind


@pytest.mark.parametrize("text", NOT_PERSONAL)
def test_versions_dates_formulas_code_and_hashes_are_left(text):
    assert find_personal(text.encode()) == []


def test_check_digits_by_hand():
    # 7992739871x: doubled 1+8 7 8+9..., the sum without x is 67, so x is 3 (the example of ISO/IEC 7812).
    assert [digit for digit in range(10) if luhn(b"7992739871%d" % digit)] == [3]
    # The example of GB 11643: 11010519491231002 has the sum 167, 167 mod 11 is 2, for which X stands.
    assert mod_11_2(b"11010519491231002X")
    assert not any(mod_11_2(b"11010519491231002%d" % digit) for digit in range(10))
    # The example of ISO 13616: 3214282912345698765432161182 mod 97 is 1.
    assert 3214282912345698765432161182 % 97 == 1
    assert mod_97(b"GB82WEST12345698765432")
    assert not mod_97(b"GB28WEST12345698765432")


def test_what_overlaps_is_masked_once_and_kinds_can_be_chosen():
    text = b"joe@acme.io, 4111 1111 1111 1111; Tel +1 212 555 0147"
    edits, kinds = find_edits(Texts.join([text]))
    masked = apply_edits(Texts.join([text]), edits)
    assert masked.text(0) == "[EMAIL], [CARD]; Tel [PHONE]"
    assert kinds == ["email", "card", "phone"]
    assert [one.kind for one in find_personal(text, ("card",))] == ["card"]


PIECES = [
    *(piece for pieces in PERSONAL.values() for piece in pieces), *NOT_PERSONAL[4].split(", "),
    "Tel: ", "fax", "SSN ", "social security number ", "手机号", "：", "（", "）", "(", ")", "+", "-", ".",
    "/", ":", "@", " ", "\n", "\t", "0", "1", "12", "123", "1234", "GB82", "a.b", "com", "é", "字", "x",
    "US", " " * 70, "2400:",
]  # fmt: skip


@settings(max_examples=200)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), max_size=4))
def test_hints_lead_to_all_that_the_definition_finds(texts):
    edits, _ = find_edits(Texts.join([text.encode() for text in texts]))
    expected = [
        Edit(number, one.start, one.end, placeholder(one.kind))
        for number, text in enumerate(texts)
        for one in find_personal(text.encode())
    ]
    assert sorted(edits) == sorted(expected)


def test_room_for_hints_grows(monkeypatch):
    monkeypatch.setattr(personal, "_ROOM", 130)
    texts = Texts.join([b"joe@acme.io " * 500])
    assert len(find_edits(texts)[0]) == 500


def test_edits_by_hand():
    texts = Texts.join([b"abcdef", b"", b"ghi"])
    edits = [Edit(2, 1, 2, b"XY"), Edit(0, 2, 4), Edit(0, 3, 5, b"!")]
    edited = apply_edits(texts, edits)
    assert [edited.text(number) for number in range(3)] == ["ab!f", "", "gXYi"]
    assert apply_edits(Texts.join([]), []).ends.tolist() == []
