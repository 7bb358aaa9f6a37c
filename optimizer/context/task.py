"""What kind of work a message asks for, told by the words at its two ends and by its shape.

Cheap rules, not a classifier: they look at a bounded number of characters, a kind is one of ``KINDS`` or none, and the
first rule that holds decides. English words are known; messages in other languages keep the features that are not
about words. ``optimizer.context.words`` learns what rules can not know.
"""

from typing import Final, NamedTuple

# As much of each end of a message is read; in between stands material, not the task.
END_CHARACTERS: Final = 400

KINDS: Final = (
    "math",
    "code",
    "choice",
    "complete",
    "translate",
    "summarise",
    "extract",
    "rewrite",
    "create",
    "order",
    "yes_no",
    "question",
)

_LETTERS: Final = bytes(
    code if 0x61 <= code <= 0x7A or code >= 0x80 else code + 32 if 0x41 <= code <= 0x5A else 0x20
    for code in range(256)
)
_FENCE: Final = "```"
_LETTERED: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# How answers to choose from are marked, "(A)" and "A)" and "A." and "1)" among others.
_DOTTED: Final = (
    tuple(f"{letter}. " for letter in _LETTERED),
    tuple(f"{number}. " for number in range(1, 27)),
)
_SERIES: Final = (
    *_DOTTED,
    tuple(f"{letter})" for letter in _LETTERED),
    tuple(f"{letter})" for letter in _LETTERED.lower()),
    tuple(f"{number})" for number in range(1, 27)),
)


class Task(NamedTuple):
    """``kind`` of ``KINDS`` or None; ``options`` counts answers to choose from, up to 26.

    ``explain`` and ``brief``: a long or a short answer is asked for. ``steps``: it takes several steps of thought.
    ``foreign``: it has words, but none of the commonest English ones.
    """

    kind: str | None
    options: int
    explain: bool
    brief: bool
    steps: bool
    foreign: bool


def _words(text: str) -> frozenset[bytes]:
    return frozenset(text.encode().split())


_EXPLAIN: Final = _words(
    "explain why reasoning justify detail detailed details elaborate thorough comprehensive essay describe discuss"
)
_BRIEF: Final = _words("briefly brief concise concisely shortly only short tldr")
_STEPS: Final = _words(
    "valid invalid premises therefore lies truth logically consistent deductively implies swap swaps sufficient"
    " necessary arranged prove derive plan strategy"
)
_MATH: Final = _words(
    "calculate compute solve equation equations integral derivative polynomial matrix probability"
    " percent percentage fraction algebra geometry arithmetic remainder divisor factorial theorem"
)
_AMOUNTS: Final = _words(
    "total cost costs dollars dollar cents each per hour hours minutes miles twice half times remaining left average"
)
_CODE: Final = _words(
    "python javascript typescript java function code script sql query regex algorithm debug refactor implement"
    " unittest html css rust golang bash api compile exception"
)
_MAKE: Final = _words(
    "write create implement fix debug refactor generate explain review complete convert add"
)
_TRANSLATE: Final = _words("translate translation")
_SUMMARISE: Final = _words("summarize summarise summary tldr condense")
_EXTRACT: Final = _words("extract classify categorize categorise label identify sentiment entities fields")
_REWRITE: Final = _words("rewrite rephrase paraphrase edit proofread improve grammar polish shorten")
_CREATE: Final = _words(
    "story poem song haiku lyrics slogan tagline essay blog email letter brainstorm imagine"
)
_COMPLETE: Final = _words("continuation continue complete blank fill missing finish")
_ORDER: Final = _words("sort alphabetically rank")
_AMOUNT_ASKED: Final = _words("many much")
_CONTINUATION: Final = _words("continuation")
_YES: Final = _words("is are was were do does did can could should would will has have")
# Common in English, and no words of the other languages that are written with the same letters.
_ENGLISH: Final = _words(
    "the of and to is that it for with from by who like have has been you your are this these what when which how each"
    " can does not than or if please write give find using my we they their"
)
_ASK: Final = _words("what which who whom whose when where why how")
# Everything that a rule could ask for, so that a request is searched once.
_KNOWN: Final = frozenset().union(
    _EXPLAIN, _BRIEF, _STEPS, _MATH, _AMOUNTS, _CODE, _AMOUNT_ASKED, _CONTINUATION, _ENGLISH
)
# The beginning of a message names what to do: the first of these kinds that it names, after code.
_OPENINGS: Final = (
    (_TRANSLATE, "translate"),
    (_SUMMARISE, "summarise"),
    (_REWRITE, "rewrite"),
    (_COMPLETE, "complete"),
    (_ORDER, "order"),
)
_LATER_OPENINGS: Final = ((_EXTRACT, "extract"), (_CREATE, "create"))
_NAMED: Final = {word: kind for words, kind in reversed(_OPENINGS) for word in words}
_OPENING_WORDS: Final = 12
# A text of fewer words need not have one of the commonest to be English.
_LEAST_WORDS: Final = 8


def read_task(text: str, digits: int) -> Task:
    """What ``text`` asks for; ``digits`` is how many digits are in it."""
    ends = text if len(text) <= 2 * END_CHARACTERS else f"{text[:END_CHARACTERS]}\n{text[-END_CHARACTERS:]}"
    listed = ends.encode("utf-8", "replace").translate(_LETTERS).split()
    found = _KNOWN.intersection(listed)
    options = _count_options(ends)
    return Task(
        kind=_kind(listed, found, text, options, digits),
        options=options,
        explain=not found.isdisjoint(_EXPLAIN),
        brief=not found.isdisjoint(_BRIEF),
        steps=not found.isdisjoint(_STEPS),
        foreign=len(listed) >= _LEAST_WORDS and found.isdisjoint(_ENGLISH),
    )


def _count_options(text: str) -> int:
    """The longest series of marks that stand in order, 0 when there is only a first one."""
    most = 0
    for series in _SERIES if ")" in text else _DOTTED:
        count, at = 0, text.find(series[0])
        while at >= 0:
            count += 1
            at = text.find(series[count], at) if count < len(series) else -1
        most = max(most, count)
    return most if most > 1 else 0


def _kind(listed: list[bytes], found: frozenset[bytes], text: str, options: int, digits: int) -> str | None:
    if not listed:
        return None
    opening = listed[:_OPENING_WORDS]
    if _FENCE in text or (options < 2 and not found.isdisjoint(_CODE) and not _MAKE.isdisjoint(opening)):
        return "code"
    named = _first_named(opening, found)
    if named is not None:
        return named
    if options >= 2:
        return "choice"
    if _is_math(found, digits):
        return "math"
    for words, kind in _LATER_OPENINGS:
        if not words.isdisjoint(opening):
            return kind
    if listed[0] in _YES:
        return "yes_no"
    return "question" if listed[0] in _ASK or "?" in text[-END_CHARACTERS:] else None


def _first_named(opening: list[bytes], found: frozenset[bytes]) -> str | None:
    for word in opening:
        kind = _NAMED.get(word)
        if kind is not None:
            return kind
    return "complete" if not found.isdisjoint(_CONTINUATION) else None


def _is_math(found: frozenset[bytes], digits: int) -> bool:
    if not found.isdisjoint(_MATH) or not found.isdisjoint(_AMOUNT_ASKED):
        return True
    return digits > 0 and not found.isdisjoint(_AMOUNTS)
