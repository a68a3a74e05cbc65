"""Find phrases that read as if translated, in everything that a person reads.

`python -m tests.support.english` counts and lists them.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

FOLDERS = ("flows", "tasks", "storage", "deploy")
FILES = ("*.md", "Makefile", "pyproject.toml")
TEXT = {".md", ".html", ".js", ".yaml", ".yml", ".toml", ".sh", ".service", ".timer", ".tmpl"}
NAMES = ("Dockerfile", "Makefile")
VENDORED = "openseadragon"

# A clause that begins with "for" and has a verb of its own.
SUBJECT = r"(?:it|they|there|he|she|we|nobody|nothing|none|neither|no one)\b"
VERB = (
    "(?:is|are|was|were|has|have|had|does|do|did|may|might|can|cannot|could|must|would|will|needs?"
    "|knows?|gives?|takes?|makes?|says?|stands?|lies|holds?|comes?|gets?|reads?|writes?|keeps?|sees?"
    "|wants?|belongs?|refuses?|shares?|looks?)"
)
PHRASE = rf"(?:(?!that\b|which\b|who\b|whose\b|to\b|as\b|if\b|in\b)[\w'`-]+ ){{1,5}}{VERB}\b"
# After these a clause with "what" is a question: "list what is missing".
ASKING = ("ask", "asks", "change", "changes", "check", "checks", "decide", "decides", "describe",
          "describes", "explain", "explains", "know", "known", "knows", "list", "lists", "matter",
          "record", "records", "said", "say", "says", "see", "sees", "show", "shows",
          "understand")  # fmt: skip
QUESTION = "".join(rf"(?<!\b{word} )" for word in ASKING)
PLURALS = "slides|images|cells|patients|batches|fields|laboratories|rows|files|nights"
ONES = "cell|slide|file|worker|thread|shard|class|tap|patient|batch|field|row|image|line|laboratory"
MORE = "more|less|fewer|larger|smaller|higher|lower|longer|shorter|better|worse"
OLD = r"lest|whence|anew(?!:)|therein|thereof|whereof|thereby|nought"


@dataclass(frozen=True)
class Rule:
    """A phrase to avoid, as a regular expression, and the words to use instead."""

    name: str
    phrase: str
    instead: str
    opening: bool = False  # of a docstring, not of any text


RULES = (
    Rule("for, because", rf"[,;:)] for (?:{SUBJECT}|{PHRASE})|[.!?] For {SUBJECT}", "because"),
    Rule("so many", r"\bso (?:many|much|few)\b(?! that)|\bof how many\b", "a number with a name"),
    Rule("of before", r"\bof before\b", "made before, older than"),
    Rule("what lies", r"\bwhat (?:lies|lay|stands|stood)\b", "the thing itself"),
    Rule(
        "what is, as a noun",
        rf"{QUESTION}\bwhat (?:is|was|are|were|has|have|had|comes|came|goes|went)\b",
        "a noun: the image, the difference, the rest",
    ),
    Rule("go on", r"\b(?:go|goes|going|gone|went) on\b", "resume, continue"),
    Rule(
        "tell, return",
        r"\b(?:tells?|told|telling) (?:whether|if|how|what|which|when|where|why|nothing)\b"
        r"|\bn[o']t tell[.,;:]|\b(?:is|are|was|were) told\b",
        "return, say, show, record",
    ),
    Rule("Tell, Give", r"Tell\b|Give\b", "Return", opening=True),
    Rule(
        "those, without a noun",
        r"[.:] (?:Those|That) (?:of|that|which|in|on|with|whose|from|by|a|not|before|after|where)\b"
        r"|[.:] [A-Z]\w+ (?:those|that) (?:of|that|which|with|whose|from|by)\b",
        "the noun",
    ),
    Rule(
        "those, without a noun",
        r"(?:[A-Z]\w+ )?(?i:those|that) (?:of|that|which|in|on|with|whose|from|by|not|where)\b",
        "the noun",
        opening=True,
    ),
    Rule("to be had", r"\bbe had\b", "is free, is in use, is missing"),
    Rule("another one", r"\b(?:has|have|had|is|was) another(?: one)?(?=[.,;:)]|$)", "differs"),
    Rule("asks nobody", r"\basks? (?:nobody|no one)\b", "has no authentication"),
    Rule("a microlitre", r"\ba (?:micro|milli)lit(?:re|er)\b", "per microlitre"),
    Rule("one a file", rf"\b(?:one|two|three|four|a|each|most) (?!of )\w+ an? (?:{ONES})\b", "per"),
    Rule("one slides", rf"(?<![\w.,:/-])1 (?:{PLURALS})\b", "1 slide"),
    Rule(
        "the more, the better",
        rf"\b[Tt]he (?:{MORE})\b[^.,]{{1,60}}, the (?:{MORE})\b",
        "the rule or the number",
    ),
    Rule("a question", r"(?:What|Whether|How|Which|Why|Who|Where)\b", "a verb", opening=True),
    Rule("as many of each", r"\bas (?:many|much|few) (?:of each|of one|as others)\b", "evenly"),
    Rule("beside", r"\b[Bb]eside\b", "next to, besides, with"),
    Rule("comma before that", r"[a-z], that (?!is[, ]|of )", "that"),
    Rule("follows from alone", r"\bfollows? from [^.]{1,40} alone\b", "depends only on"),
    Rule("but for", r"\bbut for\b", "except"),
    Rule("rising order", r"\b(?:rising|falling) order\b", "ascending, descending"),
    Rule("called so", r"\b(?:called|named) so\b", "the name again"),
    Rule("old words", rf"\b(?:{OLD})\b", "plain ones"),
)


@dataclass(frozen=True)
class Text:
    """A piece of prose and its place."""

    path: str
    line: int
    words: str
    docstring: bool = False


@dataclass(frozen=True)
class Find:
    """A phrase that a rule forbids, and its place."""

    path: str
    line: int
    rule: Rule
    around: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: ...{self.around}... ({self.rule.instead})"


def finds(texts: Iterator[Text]) -> Iterator[Find]:
    """Apply every rule to every text."""
    compiled = [
        (rule, re.compile(rf"\A(?:{rule.phrase})" if rule.opening else rule.phrase))
        for rule in RULES
    ]
    for text in texts:
        for rule, phrase in compiled:
            if rule.opening and not text.docstring:
                continue
            for match in phrase.finditer(text.words):
                around = text.words[max(0, match.start() - 40) : match.end() + 40]
                yield Find(text.path, text.line, rule, around)


def prose(folders: tuple[str, ...] = FOLDERS) -> Iterator[Text]:
    """Yield all prose of the repository: docstrings, comments, messages, documents, pages."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*"))]
    for path in [*paths, *(path for pattern in FILES for path in sorted(ROOT.glob(pattern)))]:
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".py":
            yield from python(name, path.read_text())
        elif (path.suffix in TEXT or path.name in NAMES) and VENDORED not in name:
            yield from document(name, path.read_text())


def python(name: str, source: str) -> Iterator[Text]:
    """Yield docstrings, messages (an f-string's values as {}) and comments of a module."""
    parts: set[ast.AST] = set()
    docstrings: set[ast.AST] = set()
    for node in ast.walk(ast.parse(source)):  # a parent comes before its children
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.add(node.value)
        if isinstance(node, ast.JoinedStr):
            parts.update(node.values)
            values = [v.value if isinstance(v, ast.Constant) else "{}" for v in node.values]
            yield Text(name, node.lineno, plain("".join(map(str, values))))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
            yield Text(name, node.lineno, plain(node.value), node in docstrings)
    yield from comments(name, source)


def comments(name: str, source: str) -> Iterator[Text]:
    """Yield comments; lines that follow one another are one text."""
    block: list[str] = []
    lines = [*source.splitlines(), ""]
    for number, line in enumerate(lines, 1):
        own = re.match(r"\s*#:? (.*)", line)
        if block and not own:
            yield Text(name, number - len(block), plain(" ".join(block)))
            block = []
        if own:
            block.append(own[1])
        elif trailing := re.search(r"  # (.*)$", line):
            yield Text(name, number, plain(trailing[1]))


def document(name: str, source: str) -> Iterator[Text]:
    """Yield the paragraphs of a document, page or configuration, without code in fences."""
    block: list[str] = []
    code = False
    for number, line in enumerate([*source.splitlines(), ""], 1):
        fence = name.endswith(".md") and line.lstrip().startswith("```")
        code ^= fence
        words = "" if code or fence else re.sub(r"<[^>]*>|^\s*(?:#|//|\*)+ ?", " ", line)
        words = re.sub(r"`[^`]*`", "it", words) if name.endswith(".md") else words
        if block and (not words.strip() or line.startswith(("|", "- "))):
            yield Text(name, number - len(block), plain(" ".join(block)))
            block = []
        if words.strip():
            block.append(words)


def plain(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


def main() -> None:
    """Print the phrases found, those of the given folders only, and their number by rule."""
    found = [
        f for f in finds(prose()) if not sys.argv[1:] or f.path.startswith(tuple(sys.argv[1:]))
    ]
    print(*found, sep="\n")
    for name, count in Counter(find.rule.name for find in found).most_common():
        print(f"{count:6} {name}")
    folders = Counter("/".join(Path(find.path).parts[:2]) for find in found)
    for name, count in folders.most_common():
        print(f"{count:6} {name}")
    print(f"{len(found):6} in all")


if __name__ == "__main__":
    main()
