"""The kinds of question that `make_tasks.py` asks, in English and in Chinese.

Each kind is one function that draws operands and returns an `Item`: the same question in both languages, the
answer that can be checked, a plain sentence that states the fact, and a wrong answer that looks right.

Letters are written with spaces between them: a byte-level BPE tokenizer hides the letters inside a word, and
a model this small would first have to learn to spell. Digits are single tokens in dsllm's tokenizers.
"""

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

LANGUAGES = ("en", "zh")
LETTERS = "abcdefghij"

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WEEKDAYS_ZH = ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日")
TIMES = {2: ("twice", "两"), 3: ("three times", "三"), 4: ("four times", "四")}
FIRST_YEAR, LAST_YEAR = 2000, 2039


@dataclass(frozen=True)
class Wording:
    """One item in one language."""

    prompt: str
    answer: str
    statement: str  # the same fact as a sentence, for the pre-training corpus
    wrong: str  # an answer that looks right and is not


@dataclass(frozen=True)
class Item:
    """One question: `operands` decide whether it is held out, whatever its language or phrasing."""

    kind: str
    operands: tuple[str, ...]
    en: Wording
    zh: Wording

    def wording(self, language: str) -> Wording:
        """The item in "en" or "zh"."""
        return self.en if language == "en" else self.zh


def add(random: Random) -> Item:
    """A number of two digits and one of one digit, the answer of two digits."""
    a, b = random.randint(10, 90), random.randint(1, 9)
    answer, wrong = str(a + b), _near(random, a + b)
    return Item(
        "add",
        (str(a), str(b)),
        Wording(f"What is {a} plus {b}?", answer, f"{a} plus {b} is {answer}.", wrong),
        Wording(f"{a}加{b}等于多少？", answer, f"{a}加{b}等于{answer}。", wrong),
    )


def subtract(random: Random) -> Item:
    """A number of two digits less one of one digit, the answer of two digits."""
    a, b = random.randint(19, 99), random.randint(1, 9)
    answer, wrong = str(a - b), _near(random, a - b)
    return Item(
        "subtract",
        (str(a), str(b)),
        Wording(f"What is {a} minus {b}?", answer, f"{a} minus {b} is {answer}.", wrong),
        Wording(f"{a}减{b}等于多少？", answer, f"{a}减{b}等于{answer}。", wrong),
    )


def larger(random: Random) -> Item:
    """The larger of two numbers of two digits."""
    a, b = random.sample(range(10, 100), 2)
    answer, wrong = str(max(a, b)), str(min(a, b))
    return Item(
        "larger",
        tuple(map(str, sorted((a, b)))),
        Wording(f"Which is larger, {a} or {b}?", answer, f"The larger of {a} and {b} is {answer}.", wrong),
        Wording(f"{a}和{b}哪个大？", answer, f"{a}和{b}中{answer}大。", wrong),
    )


def reverse(random: Random) -> Item:
    """Three different letters from last to first."""
    letters = random.sample(LETTERS, 3)
    row, answer, wrong = " ".join(letters), " ".join(letters[::-1]), " ".join(letters[1:] + letters[:1])
    return Item(
        "reverse",
        tuple(letters),
        Wording(f"Reverse the letters {row}.", answer, f"The letters {row} reversed are {answer}.", wrong),
        Wording(f"把字母 {row} 倒过来写。", answer, f"字母 {row} 倒过来是 {answer} 。", wrong),
    )


def capitals(random: Random) -> Item:
    """Three letters in capitals."""
    letters = random.choices(LETTERS, k=3)
    row, answer = " ".join(letters), " ".join(letters).upper()
    return Item(
        "capitals",
        tuple(letters),
        Wording(f"Write {row} in capitals.", answer, f"In capitals, {row} is {answer}.", row),
        Wording(f"把 {row} 写成大写。", answer, f"{row} 的大写是 {answer} 。", row),
    )


def count(random: Random) -> Item:
    """How often a letter stands among four that come from two."""
    few = random.sample(LETTERS, 2)
    letters = random.choices(few, k=4)
    n = letters.count(few[0])
    row, letter, answer = " ".join(letters), few[0], str(n)
    wrong = str(n + 1 if n == 0 else n + random.choice((-1, 1)))
    return Item(
        "count",
        (letter, *letters),
        Wording(
            f"How many times does {letter} stand in {row}?",
            answer,
            f"In {row} the letter {letter} stands {answer} times.",
            wrong,
        ),
        Wording(f"{row} 里有几个 {letter} ？", answer, f"{row} 里 {letter} 的个数是{answer}。", wrong),
    )


def first(random: Random) -> Item:
    """The first of three to six letters."""
    return _end(random, "first", 0, "第一")


def last(random: Random) -> Item:
    """The last of three to six letters."""
    return _end(random, "last", -1, "最后一")


def repeat(random: Random) -> Item:
    """Two letters, two to four times over."""
    pair, n = random.sample(LETTERS, 2), random.choice(list(TIMES))
    row, answer = " ".join(pair), " ".join(pair * n)
    wrong = " ".join(pair * (n + random.choice((-1, 1))))
    times, times_zh = TIMES[n]
    return Item(
        "repeat",
        (*pair, str(n)),
        Wording(f"Write {row} {times}.", answer, f"Written {times}, {row} is {answer}.", wrong),
        Wording(f"把 {row} 写{times_zh}遍。", answer, f"{row} 写{times_zh}遍是 {answer} 。", wrong),
    )


def next_day(random: Random) -> Item:
    """The day after a day of any year; 28 February has two."""
    day = datetime.date(2001, 1, 1) + datetime.timedelta(days=random.randrange(365))
    if (day.month, day.day) == (2, 28):
        return next_day(random)
    after, before = day + datetime.timedelta(days=1), day - datetime.timedelta(days=1)
    return Item(
        "next_day",
        (str(day.month), str(day.day)),
        Wording(
            f"Which day follows {_day_in_words(day)}?",
            _day_in_words(after),
            f"{_day_in_words(day)} is followed by {_day_in_words(after)}.",
            _day_in_words(before),
        ),
        Wording(
            f"{_day_in_chinese(day)}的后一天是哪天？",
            _day_in_chinese(after),
            f"{_day_in_chinese(day)}的后一天是{_day_in_chinese(after)}。",
            _day_in_chinese(before),
        ),
    )


def weekday(random: Random) -> Item:
    """The day of the week one day after a date, or one before."""
    day, step = _date(random), random.choice((-1, 1))
    today, answer = day.weekday(), (day.weekday() + step) % 7
    wrong = (day.weekday() - step) % 7
    side, side_zh = ("after", "后") if step > 0 else ("before", "前")
    return Item(
        "weekday",
        (day.isoformat(), str(step)),
        Wording(
            f"{_in_words(day)} is a {WEEKDAYS[today]}. Which weekday is the day {side}?",
            WEEKDAYS[answer],
            f"{_in_words(day)} is a {WEEKDAYS[today]}. The day {side} is a {WEEKDAYS[answer]}.",
            WEEKDAYS[wrong],
        ),
        Wording(
            f"{_in_chinese(day)}是{WEEKDAYS_ZH[today]}。{side_zh}一天是星期几？",
            WEEKDAYS_ZH[answer],
            f"{_in_chinese(day)}是{WEEKDAYS_ZH[today]}。{side_zh}一天是：{WEEKDAYS_ZH[answer]}。",
            WEEKDAYS_ZH[wrong],
        ),
    )


def next_month(random: Random) -> Item:
    """The month after a month of a year."""
    year, month = random.randint(FIRST_YEAR, LAST_YEAR), random.randint(1, 12)
    after = datetime.date(year + month // 12, month % 12 + 1, 1)
    miss = (after.month + random.choice((0, 10))) % 12 + 1
    return Item(
        "next_month",
        (str(year), str(month)),
        Wording(
            f"Which month follows {MONTHS[month - 1]} {year}?",
            MONTHS[after.month - 1],
            f"The month after {MONTHS[month - 1]} {year} is {MONTHS[after.month - 1]}.",
            MONTHS[miss - 1],
        ),
        Wording(
            f"{year}年{month}月的下个月是几月？",
            f"{after.month}月",
            f"{year}年{month}月的下个月是{after.month}月。",
            f"{miss}月",
        ),
    )


def month_of(random: Random) -> Item:
    """The month of a date in digits."""
    day = _date(random)
    miss = (day.month + random.choice((0, 10))) % 12 + 1
    month, wrong = MONTHS[day.month - 1], MONTHS[miss - 1]
    return Item(
        "month_of",
        (day.isoformat(),),
        Wording(f"Which month is {day} in?", month, f"The month of {day} is {month}.", wrong),
        Wording(f"{day} 是几月？", f"{day.month}月", f"{day} 的月份是{day.month}月。", f"{miss}月"),
    )


Kind = Callable[[Random], Item]

# Letters and names that stand somewhere in the question, or next to one that does.
EASY: tuple[Kind, ...] = (reverse, capitals, first, last, repeat, weekday, next_month, month_of)
# What has to be worked out: these need more examples.
HARD: tuple[Kind, ...] = (add, subtract, larger, count, next_day)
KINDS = EASY + HARD


def _end(random: Random, kind: str, place: int, place_zh: str) -> Item:
    letters = random.sample(LETTERS, 4)
    row, answer, wrong = " ".join(letters), letters[place], random.choice(letters[1:-1])
    return Item(
        kind,
        tuple(letters),
        Wording(
            f"What is the {kind} letter of {row}?", answer, f"The {kind} letter of {row} is {answer}.", wrong
        ),
        Wording(
            f"{row} 的{place_zh}个字母是什么？", answer, f"{row} 的{place_zh}个字母是 {answer} 。", wrong
        ),
    )


def _near(random: Random, answer: int) -> str:
    """A number a slip away from the answer: off by one, by two or by ten."""
    misses = [answer + step for step in (-10, -2, -1, 1, 2, 10) if answer + step >= 0]
    return str(random.choice(misses))


def _date(random: Random) -> datetime.date:
    first_day = datetime.date(FIRST_YEAR, 1, 1).toordinal()
    return datetime.date.fromordinal(
        random.randrange(first_day, datetime.date(LAST_YEAR + 1, 1, 1).toordinal())
    )


def _in_words(day: datetime.date) -> str:
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def _in_chinese(day: datetime.date) -> str:
    return f"{day.year}年{day.month}月{day.day}日"


def _day_in_words(day: datetime.date) -> str:
    return f"{day.day} {MONTHS[day.month - 1]}"


def _day_in_chinese(day: datetime.date) -> str:
    return f"{day.month}月{day.day}日"
