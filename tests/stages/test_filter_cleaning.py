"""What `dsllm filter` does about evaluation sets, personal data, addresses and recurring lines."""

import io
import json
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, DocumentError, InputError
from dsllm.progress import Reporter
from dsllm.stages.filter import run as run_module
from dsllm.stages.filter.addresses import BlockList, rate_hosts, split_address
from dsllm.stages.filter.benchmarks import read_benchmarks
from dsllm.stages.filter.config import FilterConfig
from dsllm.stages.filter.decontaminate import Decontaminator, equal_but_for_one
from dsllm.text.scan import words
from dsllm.text.texts import Texts

ITEM = (
    "A farmer sells nine baskets of green apples each market day, and keeps two baskets for his own family."
)
PASSAGE = "长江上游的小镇每年秋天都要举行一次盛大的灯会，家家户户把自己做的灯笼挂在门前的老槐树上。"
FILLER = "The museum opens at ten on most days; visitors may borrow a guide at the desk near the north door. "


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run_filter(rows, output="out", *, n_workers=1, **settings):
    if not isinstance(rows, str):
        write_lines("in.jsonl", rows)
        rows = "in.jsonl"
    config = FilterConfig(**{"format": "jsonl", "languages": ("any",), "rules": "none", **settings})
    config = FilterConfig(**{**vars(config), "min_language_confidence": 0})
    options = RunOptions(n_workers=n_workers, is_quiet=True)
    return run_module.run(config, [rows], output, options=options, reporter=Reporter(is_quiet=True))


def write_lines(path, rows):
    Path(path).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_rows(folder="out"):
    return [
        json.loads(line)
        for path in sorted(Path(folder).glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def ids(folder="out"):
    return [row["id"] for row in read_rows(folder)]


def documents(*texts, **fields):
    return [{"id": number, "text": text, **fields} for number, text in enumerate(texts)]


# --- decontamination


def test_items_are_found_exactly_changed_and_in_chinese():
    write_lines("set.jsonl", [{"question": ITEM, "answer": "seven of them"}, {"question": PASSAGE}])
    changed = ITEM.replace("green", "red")
    texts = [
        FILLER * 3,
        FILLER + ITEM + FILLER,
        FILLER + changed,
        FILLER + "另外" + PASSAGE,
        "seven of them " * 9,
    ]
    texts.append(FILLER + PASSAGE.replace("盛", "很"))
    counts = run_filter(documents(*texts), decontaminate=("set.jsonl",), rejected="aside")
    assert ids() == [0, 4]
    found = {row["id"]: row["dsllm_filter"] for row in read_rows("aside")}
    assert found[2]["rule"] == "decontaminate"
    assert found[2]["value"]["item"] == "set.jsonl:1 question"
    assert " ".join(words(changed, fold=True)) == found[2]["value"]["ngram"]
    assert found[3]["value"] == {
        "item": "set.jsonl:2 question",
        "share": 1.0,
        "ngram": " ".join(words(PASSAGE)[:40]),
        "n_items": 1,
    }
    assert counts["rejected"]["decontaminate"]["n_documents"] == 4
    assert counts["benchmark"] == {"set.jsonl": {"n_documents": 4}}


@pytest.mark.parametrize("seed", range(3))
def test_one_changed_word_anywhere_in_any_item_is_found(seed):
    generator = np.random.default_rng(seed)
    vocabulary = np.array([f"word{number}" for number in range(3000)])
    items = [" ".join(generator.choice(vocabulary, size)) for size in generator.integers(12, 60, 200)]
    write_lines("set.jsonl", [{"text": item} for item in items])
    found = Decontaminator.read(["set.jsonl"])
    planted = []
    for item in items:
        split = item.split()
        split[generator.integers(len(split))] = "other"
        noise = [" ".join(generator.choice(vocabulary, 50)) for _ in range(2)]
        planted.append(" ".join([noise[0], *split, noise[1]]))
    hits = found.check(Texts.join([text.encode() for text in planted]))
    assert {number: hit[0].item for number, hit in hits.items()} == {
        number: f"set.jsonl:{number + 1} text" for number in range(len(items))
    }
    clean = [" ".join(generator.choice(vocabulary, 500)) for _ in range(200)]
    assert found.check(Texts.join([text.encode() for text in clean])) == {}


def test_a_passage_of_several_items_is_no_contamination_but_their_questions_are():
    passage = " ".join(f"speech{number}" for number in range(60))
    questions = [
        f"which of the {number} answers on page {number} would he have given to them" for number in "abc"
    ]
    write_lines("asked.jsonl", [{"question": f"{passage} {question}"} for question in questions])
    asked = f"{passage} {questions[1]}"
    texts = [FILLER + passage, f"{FILLER}{asked} {FILLER}", FILLER + asked.replace("speech7 ", "")]
    run_filter(documents(*texts), decontaminate=("asked.jsonl",), rejected="aside")
    assert ids() == [0]
    found = [row["dsllm_filter"]["value"] for row in read_rows("aside")]
    assert [value["item"] for value in found] == ["asked.jsonl:2 question"] * 2
    assert [value["share"] for value in found] == [1.0, round(73 / 74, 4)]  # 60 words and 14
    write_lines("alone.jsonl", [{"question": passage}])  # of one item alone
    run_filter(documents(*texts), "alone", decontaminate=("alone.jsonl",))
    assert ids("alone") == []


def test_what_many_items_ask_is_not_looked_for():
    asked = "Which of the following sentences is not true?"
    other = "Which of these two rivers is the longer one?"
    rows = [{"question": asked}, {"question": asked.upper()}, {"question": asked}, {"question": other}]
    write_lines("three.jsonl", rows)
    texts = [FILLER + asked, FILLER + other]
    run_filter(documents(*texts), decontaminate=("three.jsonl",))
    assert ids() == [0]
    write_lines("two.jsonl", rows[1:])  # two of them
    run_filter(documents(*texts), "fewer", decontaminate=("two.jsonl",))
    assert ids("fewer") == []


def test_short_items_must_be_whole_and_shares_can_be_chosen():
    half = " ".join(ITEM.split()[:14])
    write_lines(
        "set.jsonl", [{"question": ITEM}, {"question": "Who painted the ceiling of that old chapel?"}]
    )
    texts = [
        FILLER + half,
        FILLER + "who painted the ceiling of that old chapel",
        FILLER + "who painted the ceiling of this old chapel",
    ]
    run_filter(documents(*texts), decontaminate=("set.jsonl",))
    assert ids() == [0, 2]  # 14 of 18 words are less than the share
    run_filter(documents(*texts), "any", decontaminate=("set.jsonl",), decontaminate_min_share=0.0)
    assert ids("any") == [2]
    run_filter(documents(*texts), "long", decontaminate=("set.jsonl",), decontaminate_quote_words=14)
    assert ids("long") == [2]


def test_what_is_quoted_can_be_cut_and_numbers_are_no_quotes():
    write_lines("set.jsonl", [{"question": ITEM}, {"question": " ".join(map(str, range(30)))}])
    texts = [FILLER + ITEM + " " + FILLER, ITEM, "count: " + " ".join(map(str, range(60)))]
    run_filter(documents(*texts), decontaminate=("set.jsonl",), decontaminate_action="cut", rejected="aside")
    kept = read_rows()
    assert [row["id"] for row in kept] == [0, 2]
    assert kept[0]["text"] == FILLER + ". " + FILLER
    assert kept[1]["text"] == texts[2]
    assert [row["text"] for row in read_rows("aside")] == ["."]  # what is left of it


def test_a_hash_that_leads_astray_removes_nothing():
    for quoted, original, expected in (
        ("a b c d", "a b c d", [(0, 4)]),
        ("a b c d", "a b x d", [(0, 2), (3, 4)]),
        ("a b c x", "a b c d", [(0, 3)]),
        ("a b d", "a b c d", [(0, 2), (3, 4)]),
        ("a b x c d", "a b c d", [(0, 4)]),
        ("a b x y", "a b c d", []),
        ("a x b y c", "a b c", []),
    ):
        assert equal_but_for_one(quoted.split(), original.split()) == expected


def test_hits_are_explained_with_item_and_words():
    write_lines("set.jsonl", [{"question": ITEM}])
    rows = documents(FILLER, FILLER + ITEM, ITEM + " joe@acme.io")
    counts = run_filter(rows, decontaminate=("set.jsonl",), explain=True, mask_personal=True)
    assert ids() == [0]
    found = counts["explained"]["tests"]["decontaminate"]["at_the_border"]["removed"]
    assert [example["value"]["item"] for example in found] == ["set.jsonl:1 question"] * 2
    assert found[0]["value"]["ngram"] == " ".join(words(ITEM, fold=True))
    assert "personal" not in counts  # as without: what goes is not masked


def test_exempt_sources_are_decontaminated_and_masked_all_the_same():
    write_lines("set.jsonl", [{"question": ITEM}])
    rows = documents(FILLER + ITEM, FILLER + "joe@acme.io", source="code")
    run_filter(
        rows, decontaminate=("set.jsonl",), exempt_sources=("code",), mask_personal=True, rejected="aside"
    )
    assert [row["text"] for row in read_rows()] == [FILLER + "[EMAIL]"]
    assert read_rows("aside")[0]["dsllm_filter"]["rule"] == "decontaminate"


def test_items_of_all_forms_are_read():
    write_lines(
        "a.jsonl", [{"id": "one two", "question": "Q x", "choices": ["c d", "e f"], "url": "http://a"}]
    )
    Path("b.json").write_text(
        json.dumps({"canary": "do not", "examples": [{"input": "i j", "target": "t u"}]})
    )
    Path("c.json").write_text(
        json.dumps([[["甲：你好", "乙：好"], [{"question": "q r", "choice": ["1 2"]}], "id"]])
    )
    Path("d.csv").write_text(',Question,A\n0,"k, l","m n"\n')
    Path("e.tsv").write_text("o p\tA B\nz z\tC D\n")
    Path("f.json").write_text('{"text": "v w"}\n{"text": "文"}\n')
    write_lines("g.jsonl", [{"note": "x y", "answer": "n n"}, {"query": "Question: s t\nAnswer:"}])
    found = [(item.place, item.text) for item in read_benchmarks(["."])]
    assert found == [
        ("a.jsonl:1 question", "Q x"),
        ("b.json:1 input", "i j"),
        ("c.json:1 0.0", "甲：你好"),
        ("c.json:1 0.1", "乙：好"),
        ("c.json:1 1.0.question", "q r"),
        ("d.csv:1 Question", "k, l"),
        ("e.tsv:1", "o p"),
        ("e.tsv:2", "z z"),
        ("f.json:1 text", "v w"),
        ("f.json:2 text", "文"),
        ("g.jsonl:1 note", "x y"),
        ("g.jsonl:2 query", " s t\n"),
    ]
    assert [item.text for item in read_benchmarks(["a.jsonl"], ["choices"])] == ["c d", "e f"]


def test_sets_that_cannot_be_read_are_refused():
    Path("bad.jsonl").write_text("{")
    Path("set.txt").write_text("x")
    Path("empty").mkdir()
    write_lines("short.jsonl", [{"question": "too short"}])
    with pytest.raises(DocumentError, match="line 1"):
        list(read_benchmarks(["bad.jsonl"]))
    for path, match in (("set.txt", "suffix"), ("empty", "no evaluation set"), ("none.jsonl", "no such")):
        with pytest.raises(InputError, match=match):
            list(read_benchmarks([path]))
    with pytest.raises(InputError, match="no text of 8 words"):
        run_filter(documents(FILLER), decontaminate=("short.jsonl",))
    with pytest.raises(ConfigError, match="decontaminate_min_words is 20"):
        FilterConfig(decontaminate_min_words=20)


# --- personal data


def test_masked_lines_are_rewritten_and_others_stay_byte_for_byte():
    lines = [
        b'{"id":0,  "text": "write to joe@acme.io, 13800138000", "text2": "joe@acme.io"}\n',
        b'{"id":1,"text":"nothing \\u0041 here"}\n',
        '{"id":2,"meta":{"text":"joe@acme.io"},"text":"身份证11010519491231002X。"}\n'.encode(),
    ]
    Path("in.jsonl").write_bytes(b"".join(lines))
    counts = run_filter("in.jsonl", mask_personal=True)
    expected = [
        lines[0].replace(b"write to joe@acme.io, 13800138000", b"write to [EMAIL], [PHONE]"),
        lines[1],
        lines[2].replace(b"11010519491231002X", b"[ID]"),
    ]
    assert Path("out/shard-00000.jsonl").read_bytes() == b"".join(expected)
    one = {"n_documents": 1, "n_found": 1}
    assert counts["personal"] == {"email": one, "id": one, "phone": one}
    assert counts["n_kept_bytes"] == len(b"".join(expected))
    run_filter("in.jsonl", "some", mask_personal=True, personal_kinds=("phone",))
    assert read_rows("some")[0]["text"] == "write to joe@acme.io, [PHONE]"
    with pytest.raises(ConfigError, match="personal_kinds"):
        FilterConfig(personal_kinds=("name",))


# --- addresses


def test_addresses_are_split_as_urllib_does():
    for address in (
        "http://www.example.com/a/b?c=d", "https://user:word@news.example.com:8080/x", "//cdn.example.com/y",
        "HTTPS://Example.COM", "ftp://files.example.org/z#top", "http://例子.cn/路径",
    ):  # fmt: skip
        host = (urlsplit(address).hostname or "").removeprefix("www.")
        assert split_address(address)[0] == host
    assert split_address("example.com/a") == ("example.com", "/a")
    assert split_address("www.example.com:8080/a") == ("example.com", "/a")  # a port, not a scheme
    assert split_address("http://[2001:db8::1]:80/a") == ("[2001:db8::1]", "/a")
    assert split_address("") == ("", "")


def test_block_lists_hold_domains_beginnings_and_words():
    Path("list").write_text(
        "# comment\nspam.example\n0.0.0.0 ads.example # as in hosts files\nnews.example/forum/\nword:casino\n"
    )
    blocked = BlockList.read(["list"])
    for address, entry in {
        "http://spam.example/x": "spam.example",
        "https://www.deep.spam.example": "spam.example",
        "http://notspam.example/": None,
        "http://ads.example:80/": "ads.example",
        "http://news.example/forum/1": "news.example/forum/",
        "http://news.example/forums": None,
        "http://x.example/best-Casino_2": "word:casino",
        "http://x.example/casinos": None,
        "http://x.example/": None,
    }.items():
        assert blocked.find(address) == entry, address
    rows = [
        {"id": number, "url": url, "text": FILLER}
        for number, url in enumerate(["http://spam.example/a", "http://good.example/", None])
    ]
    counts = run_filter(rows, block_urls=("list",), rejected="aside")
    assert ids() == [1, 2]
    assert read_rows("aside")[0]["dsllm_filter"] == {
        "rule": "block_urls",
        "value": "spam.example",
        "bound": None,
    }
    assert counts["rejected"]["block_urls"]["n_documents"] == 1
    Path("nothing").write_text("# only this\n")
    for path in ("nothing", "missing"):
        with pytest.raises(InputError):
            BlockList.read([path])
    for entry in ("/forum/", "word:", "word:two words"):  # no address would ever fit
        Path("nothing").write_text(f"spam.example\n{entry}\n")
        with pytest.raises(InputError, match=f"'{entry}' is no entry"):
            BlockList.read(["nothing"])


def test_a_host_of_a_million_dots_is_looked_up_at_once():
    blocked = BlockList(domains={"spam.example"})
    assert blocked.find("http://" + "a." * 500_000 + "spam.example/") is None  # 250 GB of ends otherwise
    assert blocked.find("http://" + "a." * 100 + "spam.example/") == "spam.example"


def test_rates_of_hosts_by_hand():
    hosts = np.array([5, 7, 0, 5, 9], np.uint64)
    found = rate_hosts(hosts, np.array([6, 10, 50, 4, 9]), np.array([6, 9, 50, 4, 9]), max_rate=0.9, least=10)
    assert found.hosts.tolist() == [5]  # 7 has just 0.9, 0 is none, 9 has too few
    assert found.rates.tolist() == [1.0]


def corpus():
    """Of host 0 nine of ten are rejected by the rule on length, of host 1 one of ten."""
    long = "We walked along the river for an hour and then we had tea with our friends in the small house. "
    rows = []
    for number in range(40):
        host = number % 2
        is_long = (number // 2) % 10 != 0 if host else (number // 2) % 10 == 0
        text = (long * 8 if is_long else "short") + f"\nread more about this on page {number}\nown {number}"
        rows.append({"id": number, "url": f"http://h{host}.example/{number}", "text": text})
    return rows


SETTINGS = {
    "languages": ("any",), "rules": "own.toml", "max_host_rejection": 0.8, "max_line_repeats": 5,
    "mask_personal": True,
}  # fmt: skip
RULES = '[[rules]]\nfeature = "n_words"\nmin = 50\nexcept_languages = []\n'


def test_hosts_whose_documents_are_rejected_go_as_a_whole():
    Path("own.toml").write_text(RULES)
    counts = run_filter(corpus(), **(SETTINGS | {"max_line_repeats": None}), rejected="aside")
    expected = [number for number in range(40) if number % 2 and (number // 2) % 10 != 0]
    assert ids() == expected
    assert counts["rejected"]["host_rejection"]["n_documents"] == 2
    reasons = Counter(row["dsllm_filter"]["rule"] for row in read_rows("aside"))
    assert reasons == {"n_words": 20, "host_rejection": 2}
    run_filter(corpus(), "few", **(SETTINGS | {"max_line_repeats": None}), min_host_documents=21)
    assert len(ids("few")) == 20
    with pytest.raises(InputError, match="no document has an address"):
        run_filter(corpus(), "none", **SETTINGS, url_field="address")


def test_lines_that_recur_are_cut_in_all_documents():
    counts = run_filter(corpus(), max_line_repeats=5, min_line_words=3)
    expected = [("" if "We walked" in row["text"] else "short\n") + f"own {row['id']}" for row in corpus()]
    assert [row["text"] for row in read_rows()] == expected
    assert counts["n_lines_cut"] == 40 + 20  # the line about pages, and the long one


@pytest.mark.parametrize("case", ["workers", "stdin", "batches"])
def test_passes_give_the_same_whoever_makes_them(case, monkeypatch):
    Path("own.toml").write_text(RULES)
    run_filter(corpus(), **SETTINGS)
    if case == "stdin":
        stream = type("Stream", (), {"buffer": io.BytesIO(Path("in.jsonl").read_bytes())})()
        monkeypatch.setattr(sys, "stdin", stream)
        run_filter("-", "other", **SETTINGS)
    else:
        if case == "batches":
            monkeypatch.setattr("dsllm.io.batches.BATCH_BYTES", 700)
        run_filter("in.jsonl", "other", n_workers=3, **SETTINGS)
    assert Path("other/shard-00000.jsonl").read_bytes() == Path("out/shard-00000.jsonl").read_bytes()


def test_documents_with_little_but_recurring_lines_go():
    menu = "home and news and sports and weather\n"
    rows = documents(*[menu * 2 + f"own words of document {chr(97 + n)}" for n in range(8)], menu, FILLER)
    run_filter(rows, max_line_repeats=5, rejected="aside")
    assert ids() == [*range(8), 9]
    assert [row["dsllm_filter"]["rule"] for row in read_rows("aside")] == ["recurring_lines"]
    run_filter(rows, "strict", max_line_repeats=5, max_recurring_frac=0.5)
    assert ids("strict") == [9]
    with pytest.raises(ConfigError, match="max_recurring_frac"):
        FilterConfig(max_recurring_frac=0.5)
