"""Markdown on a terminal while it comes: the same whatever the pieces, and never a mark on what has scrolled away."""

import random
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from llmrun.cli.chat.screen.markdown import MarkdownStream

DOCUMENT = """# Wide: 日本語 😀

A paragraph with **bold text that goes on**, *italic*, `code with *stars*`, ~~gone~~ and a [link](https://e.org/a_b) as
well as <https://example.org>. It has [/foo] and :smile: and 2 * 3 * 4 and snake_case_name, `a < b`, AT&T and 5 \\* 6.

日本語の文章です。これはとても長い段落で、端末の幅を超えると折り返されます。「**かぎ括弧**」も同様です。絵文字😀も入ります。

- one
- two with **bold**
  - nested `x`
    1. deep
    2. deeper that is quite long and needs to be wrapped at narrow widths, with the indentation kept
- three

  second paragraph of three
- [ ] task

1. first
2. second

   ```python
   def f(x):
       \"\"\"Doc
       string.\"\"\"
       return x + 1  # comment
   ```
3. third

> A quote that is long enough to be wrapped at forty columns, with a bar at its left side.
>
> - in it
> - a list

| Name | Value | Long description |
|:-----|------:|:----------------:|
| a | 1 | short |
| 日本 | 1,234 | a much longer cell that has to be wrapped in narrow terminals |
| `c` | **5** | x<br>y |

```js
const a = "a line that is longer than eighty columns so that the terminal has to break it by itself, really";

if (a) { console.log(`x`) }
```
Setext
======
Other text
---

***

    indented code
    more

The end with an unclosed **mark and `tick
"""
LONG_TABLE = "| a | b |\n|---|---|\n" + "".join(f"| {n} | some words {n} |\n" for n in range(40))


def render(terminal: Any, new_pane: Callable[[Any], Any], pieces: Iterable[str]) -> Any:
    pane = new_pane(terminal)
    stream = MarkdownStream(pane)
    for piece in pieces:
        stream.feed(piece)
    stream.finish()
    pane.end()
    return terminal


def cut(text: str, seed: int) -> list[str]:
    """Cut a text into pieces as long as tokens, and some longer ones; seed 0: into characters."""
    if not seed:
        return list(text)
    chance, pieces = random.Random(seed), []
    while text:
        size = chance.choice([1, 2, 3, 5, 8, 40])
        pieces.append(text[:size])
        text = text[size:]
    return pieces


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("rows", [12, 24])
@pytest.mark.parametrize("seed", range(4))
def test_pieces_make_no_difference(
    new_terminal: Any, new_pane: Callable[[Any], Any], columns: int, rows: int, seed: int
) -> None:
    """A small screen scrolls: what it scrolled away must be what a screen shows that has room for everything."""
    whole = render(new_terminal(columns, 300), new_pane, [DOCUMENT])
    pieces = render(new_terminal(columns, rows), new_pane, cut(DOCUMENT, seed))
    assert pieces.lines() == whole.lines()
    if columns == 200:  # a line of code that the terminal breaks keeps the colours that its pieces had
        assert pieces.styled() == whole.styled()


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("1. ```py\n   x\n   ```\n2. b\n", id="a number behind code in a list"),
        pytest.param("1. ```py\n   x\n2. b\n", id="a number that ends code in a list"),
        pytest.param("- > ```py\n  > x\n", id="the language of code in a quote in a list"),
        pytest.param("some words " * 40 + "\n====\nmore", id="a long paragraph that is a heading"),
        pytest.param("- a\n-\n  - b\n\n-\n- c", id="empty items"),
        pytest.param("text\n| a | b |\n|---|---|\n| 1 | 2 |\ntext", id="a table right behind text"),
        pytest.param("a `b *c` d** e **f*g*h** i\\* `` j ` k ``", id="marks within marks"),
        pytest.param("**" + "bold words " * 60 + "too** plain", id="bold over many rows"),
        pytest.param("**" + "bold words " * 20 + "plain", id="rows that are not bold after all"),
        pytest.param("[" + "many words " * 15 + "](https://e.org)", id="a link over many rows"),
        pytest.param("```a|b\n|---|---|\n| 1 | 2 |\n```\n", id="a fence that looks like a table"),
        pytest.param("日本\tend " * 12, id="tabs beside wide characters"),
        pytest.param("soft\xadhyphen " * 12, id="soft hyphens"),
        pytest.param("    code\n    more\n\n    still\ntext\n", id="indented code"),
        pytest.param("~~~\n```\n~~~\n````\n```\n````\n", id="fences in code"),
    ],
)
def test_pieces_make_no_difference_to_tricky_texts(
    new_terminal: Any, new_pane: Callable[[Any], Any], source: str
) -> None:
    whole = render(new_terminal(60, 60), new_pane, [source])
    for seed in range(5):
        assert render(new_terminal(60, 24), new_pane, cut(source, seed)).lines() == whole.lines()


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        pytest.param("Hello *you* and `me`", ["Hello you and me"], id="a paragraph"),
        pytest.param("a\nb\n\nc", ["a b", "", "c"], id="newlines are blanks, blank lines part paragraphs"),
        pytest.param("a  \nb\\\nc", ["a", "b", "c"], id="hard breaks"),
        pytest.param("# A\ntext\n## B\n", ["A", "", "text", "", "B"], id="headings"),
        pytest.param("A\n===\n", ["A"], id="a heading underlined"),
        pytest.param("- a\n- b\n  - c\n", ["• a", "• b", "  ◦ c"], id="a list"),
        pytest.param("- a\n\n- b\n- c\n", ["• a", "", "• b", "• c"], id="a blank line where one is"),
        pytest.param("7. a\n8. b\n", ["7. a", "8. b"], id="numbers"),
        pytest.param("1. a\n1. b\n", ["1. a", "2. b"], id="numbers count on"),
        pytest.param("-\n- b\n", ["•", "• b"], id="an empty item"),
        pytest.param("> a\n> b\n\nc", ["▌ a b", "", "c"], id="a quote"),
        pytest.param("a\n\n---\n\nb", ["a", "", "─" * 24, "", "b"], id="a rule"),
        pytest.param(
            "```py\nx = 1\n\n  y\n```\nz", ["── py " + "─" * 18, "x = 1", "", "  y", "─" * 24, "", "z"], id="code"
        ),
        pytest.param("```\nx", ["─" * 24, "x", "─" * 24], id="code that is not closed"),
        pytest.param("```\n```\n", ["─" * 24, "─" * 24], id="no code"),
        pytest.param("~~~nosuchlanguage\n\tx\n~~~", ["── nosuchlanguage " + "─" * 6, "    x", "─" * 24], id="a tab"),
        pytest.param("|a|b|\n|-|-|\n|1|2|\n", ["a │ b", "──┼──", "1 │ 2"], id="a table"),
        pytest.param("a|b\n-|-\n1|2\n", ["a │ b", "──┼──", "1 │ 2"], id="a table without outer bars"),
        pytest.param("| not a table\n", ["| not a table"], id="a bar is no table"),
        pytest.param("[t](https://e.org) <https://e.org>", ["t (https://e.org) https://e.org"], id="links"),
        pytest.param("[t](javascript:x) [r]: x", ["[t](javascript:x) [r]: x"], id="no links"),
        pytest.param("[r]: https://e.org\n", ["[r]: https://e.org"], id="a definition is text"),
        pytest.param("![alt](x.png)", ["alt (x.png)"], id="an image"),
        pytest.param("[/foo] :smile: <b>x</b> &amp; &copy;", ["[/foo] :smile: <b>x</b> & ©"], id="markup is text"),
        pytest.param("**a", ["**a"], id="a mark that is not closed"),
        pytest.param("`a", ["`a"], id="a code span that is not closed"),
        pytest.param("2 * 3 ** 4 _ 5 a_b_c", ["2 * 3 ** 4 _ 5 a_b_c"], id="marks that are none"),
        pytest.param("42", ["42"], id="a number alone"),
        pytest.param("- ", ["•"], id="a marker alone"),
        pytest.param("", [], id="nothing"),
        pytest.param("\n\n", [], id="blank lines"),
    ],
)
def test_what_is_shown(new_terminal: Any, new_pane: Callable[[Any], Any], source: str, shown: list[str]) -> None:
    assert render(new_terminal(60), new_pane, [source]).lines() == shown
    assert render(new_terminal(60), new_pane, list(source)).lines() == shown


@pytest.mark.parametrize("columns", [40, 41, 79, 80, 200])
def test_wide_characters_keep_within_the_row(new_terminal: Any, new_pane: Callable[[Any], Any], columns: int) -> None:
    text = "日本語とemoji 😀👍🏽👨‍👩‍👧❤️🇯🇵を含む、長い文章です。「かぎ括弧」。" * 6
    terminal = render(new_terminal(columns), new_pane, cut(text, 1))
    lines = terminal.lines()
    assert len(lines) > 1
    assert not [line for line in lines[1:] if line[0] in "。、」"]
    whole = "".join(lines).replace(" ", "")
    assert whole.count("日本語") == 6
    assert whole.count("「かぎ括弧」。") == 6


def test_emoji_that_are_joined_are_written_together(new_terminal: Any, new_pane: Callable[[Any], Any]) -> None:
    family = "👨‍👩‍👧"
    terminal = render(new_terminal(80), new_pane, list(f"a {family} b ❤️ c"))
    assert family in terminal.written
    assert "❤️" in terminal.written


def test_a_word_longer_than_the_row_is_broken(new_terminal: Any, new_pane: Callable[[Any], Any]) -> None:
    lines = render(new_terminal(40), new_pane, cut("see " + "x" * 100 + " end", 2)).lines()
    assert "".join(lines).replace(" ", "") == "see" + "x" * 100 + "end"
    assert max(map(len, lines)) == 40


def test_words_are_shown_at_once(new_terminal: Any, new_pane: Callable[[Any], Any]) -> None:
    terminal = new_terminal(40)
    stream = MarkdownStream(new_pane(terminal))
    for piece, shown in [
        ("Hel", "Hel"),
        ("lo", "Hello"),
        (" **wor", "Hello wor"),
        ("ld", "Hello world"),
        ("** and", "Hello world and"),
        (" `a", "Hello world and a"),
    ]:
        stream.feed(piece)
        assert terminal.lines() == [shown]
    assert "Hb" not in terminal.styled()[0]
    assert "wbobrblbdb" in terminal.styled()[0]


def test_a_growing_paragraph_is_not_written_again(new_terminal: Any, new_pane: Callable[[Any], Any]) -> None:
    text = "Some plain words and **bold ones**, [a link](https://example.org) too. " * 20
    terminal = render(new_terminal(80), new_pane, cut(text, 3))
    assert len(re.findall(r"\x1b\[\d*A", terminal.written)) == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.written)
    assert len(shown) < 1.1 * len("".join(terminal.lines()))


@pytest.mark.parametrize("rows", [6, 24])
def test_a_table_longer_than_the_screen(new_terminal: Any, new_pane: Callable[[Any], Any], rows: int) -> None:
    lines = render(new_terminal(80, rows), new_pane, cut(LONG_TABLE, 1)).lines()
    cells = [[cell.strip() for cell in line.split("│")] for line in lines[2:]]
    assert cells == [[str(number), f"some words {number}"] for number in range(40)]
    assert len({line.index("│") for line in lines[2:]}) == 1
    assert len(lines) == 42


def test_a_table_too_wide_for_its_columns_is_a_list(new_terminal: Any, new_pane: Callable[[Any], Any]) -> None:
    names = [f"column {number}" for number in range(8)]
    source = f"|{'|'.join(names)}|\n|{'---|' * 8}\n|{'|'.join(map(str, range(8)))}|\n"
    assert render(new_terminal(40), new_pane, [source]).lines() == [f"{name}: {n}" for n, name in enumerate(names)]


@pytest.mark.parametrize("seed", range(6))
def test_resizing_loses_and_doubles_nothing(new_terminal: Any, new_pane: Callable[[Any], Any], seed: int) -> None:
    source = re.sub(r"\| Name.*?\n\n", "", DOCUMENT, flags=re.DOTALL)
    terminal = new_terminal(40, 100)
    pane = new_pane(terminal)
    stream = MarkdownStream(pane)
    pieces = cut(source, seed + 1)
    at = sorted(random.Random(seed).sample(range(len(pieces)), 6))
    for number, piece in enumerate(pieces):
        if number in at:
            terminal.resize(terminal.columns + 17, 100)
        stream.feed(piece)
    stream.finish()
    pane.end()

    def letters(lines: list[str]) -> str:
        return re.sub(r"[\s▌]", "", "".join(lines))

    assert letters(terminal.lines()) == letters(render(new_terminal(40, 300), new_pane, [source]).lines())


def test_a_resized_table_goes_on_with_its_header(new_terminal: Any, new_pane: Callable[[Any], Any]) -> None:
    terminal = new_terminal(40, 30)
    pane = new_pane(terminal)
    stream = MarkdownStream(pane)
    for piece in ("|a|b|\n|-|-|\n", "|1|2|\n"):
        stream.feed(piece)
    terminal.resize(80, 30)
    stream.feed("|3|4|\n")
    stream.finish()
    pane.end()
    assert terminal.lines() == ["a │ b", "──┼──", "1 │ 2", "", "a │ b", "──┼──", "3 │ 4"]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(
            "\x1b[31mred\x1b[0m \x1b]52;c;cm0gLXJm\x07 \x9b31m \x90 \x85 a\rb\x08\x7f\u202etxt\u2066", id="raw"
        ),
        pytest.param("&#27;[31m &#x1b;[0m &#x202e;x &#x9b;m &#7; &#13;", id="as entities"),
        pytest.param("```\x1b]0;t\x07\n\x1b[2Jx\u202e\n```", id="in code"),
        pytest.param("|\x1b[1m|&#x202e;|\n|-|-|\n|\x07|&#27;c|\n", id="in a table"),
        pytest.param("[\x1b[1mx](https://e.org/\u202e%1b[1m) <https://e.org/\x1b[1m>", id="in links"),
    ],
)
def test_output_is_inert(new_terminal: Any, new_pane: Callable[[Any], Any], source: str) -> None:
    for pieces in ([source], list(source)):
        terminal = render(new_terminal(80), new_pane, pieces)
        assert terminal.written
        assert terminal.foreign() == ""
