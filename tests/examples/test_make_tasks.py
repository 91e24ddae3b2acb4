"""Every answer is worked out again from the words of its question alone."""

import calendar
import datetime
import json
import re
import tomllib
from pathlib import Path

import make_tasks
import pytest

WEEKDAYS_ZH = "一二三四五六日"
TIMES = {"twice": 2, "three times": 3, "four times": 4, "两": 2, "三": 3, "四": 4}
LETTERS = r"([a-j](?: [a-j])*)"
MONTHS = {name: number for number, name in enumerate(calendar.month_name) if name}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    assert make_tasks.main([str(folder), "--sft-items", "60", "--text-documents", "200"]) == 0
    return folder


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def held_out(folder):
    return [record for path in sorted(folder.glob("heldout/*/*.jsonl")) for record in read(path)]


def next_date(month, day):
    assert (month, day) not in ((2, 28), (2, 29))  # the year would have to be told
    return datetime.date(2001, month, day) + datetime.timedelta(days=1)


def solve_english(prompt):
    if match := re.fullmatch(r"What is (\d+) (plus|minus) (\d+)\?", prompt):
        return str(eval(f"{match[1]} {'+' if match[2] == 'plus' else '-'} {match[3]}"))
    if match := re.fullmatch(r"Which is larger, (\d+) or (\d+)\?", prompt):
        return max(match[1], match[2], key=int)
    if match := re.fullmatch(rf"Reverse the letters {LETTERS}\.", prompt):
        return match[1][::-1]
    if match := re.fullmatch(rf"Write {LETTERS} in capitals\.", prompt):
        return match[1].upper()
    if match := re.fullmatch(rf"How many times does ([a-j]) stand in {LETTERS}\?", prompt):
        return str(match[2].count(match[1]))
    if match := re.fullmatch(rf"What is the (first|last) letter of {LETTERS}\?", prompt):
        return match[2][0 if match[1] == "first" else -1]
    if match := re.fullmatch(rf"Write {LETTERS} (twice|three times|four times)\.", prompt):
        return " ".join([match[1]] * TIMES[match[2]])
    if match := re.fullmatch(r"Which day follows (\d+) (\w+)\?", prompt):
        after = next_date(MONTHS[match[2]], int(match[1]))
        return f"{after.day} {calendar.month_name[after.month]}"
    if match := re.fullmatch(r"Which month follows (\w+) \d{4}\?", prompt):
        return calendar.month_name[MONTHS[match[1]] % 12 + 1]
    if match := re.fullmatch(r"Which month is (\d{4}-\d\d-\d\d) in\?", prompt):
        return calendar.month_name[datetime.date.fromisoformat(match[1]).month]
    match = re.fullmatch(r"(\d+) (\w+) (\d+) is a (\w+)\. Which weekday is the day (after|before)\?", prompt)
    today = datetime.date(int(match[3]), MONTHS[match[2]], int(match[1]))
    assert match[4] == calendar.day_name[today.weekday()]
    beside = today + datetime.timedelta(days=1 if match[5] == "after" else -1)
    return calendar.day_name[beside.weekday()]


def solve_chinese(prompt):
    if match := re.fullmatch(r"(\d+)(加|减)(\d+)等于多少？", prompt):
        return str(eval(f"{match[1]} {'+' if match[2] == '加' else '-'} {match[3]}"))
    if match := re.fullmatch(r"(\d+)和(\d+)哪个大？", prompt):
        return max(match[1], match[2], key=int)
    if match := re.fullmatch(rf"把字母 {LETTERS} 倒过来写。", prompt):
        return match[1][::-1]
    if match := re.fullmatch(rf"把 {LETTERS} 写成大写。", prompt):
        return match[1].upper()
    if match := re.fullmatch(rf"{LETTERS} 里有几个 ([a-j]) ？", prompt):
        return str(match[1].count(match[2]))
    if match := re.fullmatch(rf"{LETTERS} 的(第|最后)一个字母是什么？", prompt):
        return match[1][0 if match[2] == "第" else -1]
    if match := re.fullmatch(rf"把 {LETTERS} 写(两|三|四)遍。", prompt):
        return " ".join([match[1]] * TIMES[match[2]])
    if match := re.fullmatch(r"(\d+)月(\d+)日的后一天是哪天？", prompt):
        after = next_date(int(match[1]), int(match[2]))
        return f"{after.month}月{after.day}日"
    if match := re.fullmatch(r"\d{4}年(\d+)月的下个月是几月？", prompt):
        return f"{int(match[1]) % 12 + 1}月"
    if match := re.fullmatch(r"(\d{4}-\d\d-\d\d) 是几月？", prompt):
        return f"{datetime.date.fromisoformat(match[1]).month}月"
    match = re.fullmatch(r"(\d+)年(\d+)月(\d+)日是星期(.)。(前|后)一天是星期几？", prompt)
    today = datetime.date(int(match[1]), int(match[2]), int(match[3]))
    assert match[4] == WEEKDAYS_ZH[today.weekday()]
    beside = today + datetime.timedelta(days=1 if match[5] == "后" else -1)
    return f"星期{WEEKDAYS_ZH[beside.weekday()]}"


def solve(record, prompt):
    return solve_english(prompt) if record["language"] == "en" else solve_chinese(prompt)


def test_answers_of_conversations_are_right(made):
    records = read(made / "sft.jsonl")
    assert {(record["kind"], record["language"]) for record in records} == {
        (kind.__name__, language) for kind in make_tasks.KINDS for language in ("en", "zh")
    }
    for record in records:
        question, answer = record["messages"]
        assert (question["role"], answer["role"]) == ("user", "assistant")
        assert answer["content"] == solve(record, question["content"])


def test_held_out_answers_are_right(made):
    for record in held_out(made):
        assert record["answer"] == solve(record, record["prompt"])


def test_chosen_answers_are_right_and_rejected_ones_wrong_or_longer(made):
    records = read(made / "prefs.jsonl")
    for record in records:
        right = solve(record, record["prompt"])
        assert record["chosen"] == right
        assert record["rejected"] != right
        assert record["rejected"].startswith(f"{right} ") or len(record["rejected"]) <= 1.6 * len(right) + 6
    rambling = sum(record["rejected"].startswith(f"{record['chosen']} ") for record in records)
    assert 0.3 < rambling / len(records) < 0.7  # a coin decides, and there are 2,080 of them


def test_no_held_out_question_is_learnt_from(made):
    prompts = {record["prompt"] for record in held_out(made)}
    learnt = {record["messages"][0]["content"] for record in read(made / "sft.jsonl")}
    learnt |= {record["prompt"] for record in read(made / "prefs.jsonl")}
    assert len(prompts) == 2 * 20 * len(make_tasks.KINDS)
    assert not prompts & learnt


def test_no_held_out_operands_stand_in_the_text(made):
    """A fact names its operands in their order: "12 plus 3 is 15." answers "What is 12 plus 3?"."""
    facts = "\n".join(record["text"] for record in read(made / "text.jsonl"))
    sums = set(re.findall(r"^(\d+) plus (\d+) is", facts, flags=re.MULTILINE))
    sums |= set(re.findall(r"^(\d+)加(\d+)等于", facts, flags=re.MULTILINE))
    asked = set()
    for record in held_out(made):
        asked |= set(re.findall(r"^What is (\d+) plus (\d+)\?", record["prompt"]))
    assert len(sums) > 100
    assert len(asked) == 20
    assert not sums & asked


def test_two_languages_ask_the_same(made):
    for path in sorted(made.glob("heldout/en/*.jsonl")):
        english, chinese = read(path), read(made / "heldout" / "zh" / path.name)
        assert [r["id"].split("/")[2:] for r in english] == [r["id"].split("/")[2:] for r in chinese]


def test_same_seed_same_bytes_other_seed_other_items_same_split(made, tmp_path):
    flags = ["--sft-items", "60", "--text-documents", "200"]
    make_tasks.main([str(tmp_path / "again"), *flags])
    make_tasks.main([str(tmp_path / "other"), *flags, "--seed", "1"])
    files = [path.relative_to(made) for path in sorted(made.rglob("*")) if path.is_file()]
    assert all((made / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    assert (made / "sft.jsonl").read_bytes() != (tmp_path / "other" / "sft.jsonl").read_bytes()
    prompts = {record["prompt"] for record in held_out(made)}
    other = {record["messages"][0]["content"] for record in read(tmp_path / "other" / "sft.jsonl")}
    assert not prompts & other


def test_eval_reads_the_task(made):
    from dsllm.stages.eval.task import find_task

    task = find_task(f"english={made / 'heldout' / 'en'}")
    assert task.settings.kind == "generation"
    assert [subject for subject, _ in task.data_files] == sorted(kind.__name__ for kind in make_tasks.KINDS)
    longest = max(len(record["answer"]) for record in held_out(made))
    assert longest <= task.settings.max_new_tokens  # an answer has at most a token per character


def test_the_demo_asks_what_is_held_out():
    """The chat that the demo shows must not be learnt by heart."""
    lines = (Path(make_tasks.__file__).parent / "questions.txt").read_text().splitlines()
    operands = {
        "Reverse the letters j a g.": ("reverse", "j", "a", "g"),
        "把 i e g 写成大写。": ("capitals", "i", "e", "g"),
        "Which month follows May 2035?": ("next_month", "2035", "5"),
    }
    for line in lines:
        if line != "/reset":
            kind, *rest = operands[line]
            item = make_tasks.Item(kind, tuple(rest), None, None)
            assert make_tasks.is_held_out(item), line


def test_negative_counts_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        make_tasks.main([str(tmp_path), "--sft-items", "-1"])
    assert stop.value.code == 2
    assert "--sft-items is -1" in capsys.readouterr().err


def test_the_demo_settings_are_settings():
    """Each table of demo.toml holds known keys of its stage."""
    from dsllm.stages.dedup.config import DedupConfig
    from dsllm.stages.dpo.config import DpoConfig
    from dsllm.stages.filter.config import FilterConfig
    from dsllm.stages.fit_scaling.config import FitConfig, LadderConfig
    from dsllm.stages.pretrain.config import PretrainConfig
    from dsllm.stages.remix.config import RemixConfig
    from dsllm.stages.sft.config import SftConfig
    from dsllm.stages.tokenize.config import TokenizeTrainConfig

    settings = tomllib.loads((Path(make_tasks.__file__).parent / "demo.toml").read_text())
    for table, config, more in (
        ("filter", FilterConfig, {}),
        ("dedup", DedupConfig, {}),
        ("remix", RemixConfig, {}),
        ("tokenizer", TokenizeTrainConfig, {}),
        ("base", PretrainConfig, {}),
        ("sft", SftConfig, {"model": "x"}),
        ("dpo", DpoConfig, {"model": "x"}),
        ("ladder", LadderConfig, {}),
        ("fits", FitConfig, {}),
    ):
        config.build(settings[table] | more)
