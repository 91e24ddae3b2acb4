"""Texts in several languages, and how tests filter documents made of them."""

import json
from pathlib import Path

import orjson

from dsllm.config import RunOptions
from dsllm.progress import Reporter
from dsllm.stages.filter import run as run_module
from dsllm.stages.filter.config import FilterConfig


def unwrapped(text, joint):
    """One line a paragraph."""
    return "\n\n".join(joint.join(paragraph.split("\n")) for paragraph in text.split("\n\n"))


ENGLISH = unwrapped(
    """The river had been rising since Tuesday, and by the time the children came back from school the
lower road was under water. Their father stood at the gate with a lamp in his hand, although it was not yet
dark, and counted them as they climbed over the wall.

"You are late," he said. He did not sound angry. Nobody in that valley was ever angry about the river, which
came every spring and took what it wanted: a fence, a boat, sometimes a cow that had not learned to be
afraid. They ate their soup, they listened to the rain, and in the morning everything would have to be
cleaned again.""",
    " ",
)
CHINESE = unwrapped(
    """河水从星期二就开始上涨，孩子们放学回来的时候，下面那条路已经被淹没了。父亲提着一盏灯站在门口，虽然天还没有黑。
他看着孩子们一个一个地翻过矮墙，心里默默地数着人数。

“你们回来晚了。”他说，声音里没有一点生气的意思。山谷里的人从来不为河水生气，它每年春天都要来一次，拿走它想要的东西：
一段篱笆，一条小船，有时候是一头还没学会害怕的牛。他们喝着热汤，听着外面的雨声，第二天早上又得把所有的地方打扫一遍。""",
    "",
)
CODE = """import sys

def main(argv: list[str]) -> int:
    parser = make_parser()
    args = parser.parse_args(argv[1:])
    for path in args.paths:
        with open(path, "rb") as file:
            print(path, sum(1 for _ in file), file=sys.stderr)
    return 0

if __name__ == "__main__":
    sys.exit(main(sys.argv))
"""
LATEX = r"""\begin{theorem}\label{thm:main} Let $f \colon X \to Y$ be flat. \end{theorem}
\begin{equation} \int_0^1 \frac{\partial f}{\partial x} \, dx = \sum_{n=1}^{\infty} a_n \end{equation}
\begin{align*} \hat{x} &= \left( A^T A \right)^{-1} A^T b \\ &\le \| x \|_2^2 \end{align*} \cite{smith2001}"""
FRENCH = unwrapped(
    """La rivière montait depuis mardi, et quand les enfants revinrent de l'école, la route du bas était
déjà sous l'eau. Leur père les attendait à la porte, une lampe à la main, car la nuit tombait.""",
    " ",
)
SENTENCES = {
    "ar": "كان النهر يرتفع منذ يوم الثلاثاء، وعندما عاد الأطفال من المدرسة كان الطريق تحت الماء.",
    "de": "Der Fluss stieg seit Dienstag, und als die Kinder heimkamen, stand die Straße unter Wasser.",
    "en": "The river had been rising since Tuesday, and the lower road was under water.",
    "es": "El río subía desde el martes, y cuando los niños volvieron, el camino estaba inundado.",
    "fr": "La rivière montait depuis mardi, et la route du bas était déjà sous l'eau.",
    "it": "Il fiume saliva da martedì, e quando i bambini tornarono da scuola la strada era sotto l'acqua.",
    "ja": "川の水は火曜日から増えていて、子どもたちが学校から帰るころには、下の道は水の中だった。",
    "ko": "강물은 화요일부터 불어나고 있었고, 아이들이 학교에서 돌아왔을 때 아랫길은 물에 잠겨 있었다.",
    "pt": "O rio subia desde terça-feira, e quando as crianças voltaram da escola a estrada estava inundada.",
    "ru": "Река поднималась со вторника, и когда дети вернулись из школы, нижняя дорога была под водой.",
    "vi": "Nước sông dâng lên từ thứ ba, và khi bọn trẻ đi học về thì con đường phía dưới đã ngập.",
    "zh": "河水从星期二就开始上涨，孩子们放学回来的时候，下面那条路已经被淹没了。",
}


def write(path, *documents):
    lines = [
        json.dumps({"id": n, **document}, ensure_ascii=n % 2 == 0) for n, document in enumerate(documents)
    ]
    Path(path).write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def run_filter(inputs, output="out", *, n_workers=1, reporter=None, **settings):
    config = FilterConfig(format="jsonl", **settings)
    inputs = [inputs] if isinstance(inputs, str) else inputs
    options = RunOptions(n_workers=n_workers, is_quiet=True)
    reporter = reporter or Reporter(is_quiet=True)
    return run_module.run(config, inputs, output, options=options, reporter=reporter)


def read_lines(folder):
    return [
        line for path in sorted(Path(folder).glob("*.jsonl")) for line in path.read_bytes().splitlines(True)
    ]


def read_ids(folder):
    return [orjson.loads(line)["id"] for line in read_lines(folder)]
