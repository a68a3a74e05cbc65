"""Find phrases that read as if translated, in everything that a person reads."""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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
ONES = "cell|slide|file|worker|thread|shard|class|tap|patient|batch|field|row|image|line|laboratory"
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
    Rule("one a file", rf"\b(?:one|two|three|four|a|each|most) (?!of )\w+ an? (?:{ONES})\b", "per"),
    Rule("a question", r"(?:What|Whether|How|Which|Why|Who|Where)\b", "a verb", opening=True),
    Rule("beside", r"\b[Bb]eside\b", "next to, besides, with"),
    Rule("comma before that", r"[a-z], that (?!is[, ]|of )", "that"),
    Rule("but for", r"\bbut for\b", "except"),
    Rule("rising order", r"\b(?:rising|falling) order\b", "ascending, descending"),
    Rule("old words", rf"\b(?:{OLD})\b", "plain ones"),
)


@dataclass(frozen=True)
class Text:
    """A piece of prose and its place."""

    path: str
    line: int
    words: str
    docstring: bool = False


def finds(texts: Iterable[Text]) -> Iterator[tuple[str, str]]:
    """Apply every rule to every text; yield the rule's name, and place, phrase and remedy."""
    for text in texts:
        for rule in RULES:
            if rule.opening and not text.docstring:
                continue
            phrase = rf"\A(?:{rule.phrase})" if rule.opening else rule.phrase
            for match in re.finditer(phrase, text.words):
                around = text.words[max(0, match.start() - 40) : match.end() + 40]
                yield rule.name, f"{text.path}:{text.line}: ...{around}... ({rule.instead})"


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
    """Yield comments; those of lines that follow one another are one text."""
    for found in re.finditer(r"(?:^[ ]*#:? .*\n)+|  # .*$", source, re.M):
        words = re.sub(r"^\s*#:? ", "", found[0], flags=re.M)
        yield Text(name, source.count("\n", 0, found.start()) + 1, plain(words))


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
