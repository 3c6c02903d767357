"""What the router does not listen to: sentences that say which model should answer, at what price,
or how hard or important the task is. The model is chosen by what is asked, the policy and the
preset; whoever wants one model names it. What is sent to the vendor stays as it was written.

A question about models is a question, and is read. Four languages, fixed words: what is said in
other words, inside a task, in code, in another script or as a string of letters that was searched
for is read as before. How far that moves decisions is measured by `tests/serving/test_pleas.py`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

LONGEST = 300
"""Characters of a sentence that may be a plea: a longer one says more than that."""
EDGE = 8192
"""Characters at either end of a text that are looked through: a router reads hardly more, and
nobody shall keep it busy with megabytes of pleas."""


class _Family(NamedTuple):
    """Pleas of one kind."""

    stems: tuple[str, ...]
    """A plea has one of them: few texts have any, and to look for these is fast."""
    begins: re.Pattern[str]
    """How a sentence begins, in small letters."""
    holds: re.Pattern[str]
    """What is somewhere in it."""

    def has(self, sentence: str) -> bool:
        """Whether a sentence is one."""
        return bool(self.begins.match(sentence) or self.holds.search(sentence))


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{one})" for one in patterns))


# Which model ------------------------------------------------------------------------------------
_VERSION = r"(?:[ -](?:\d[\w.]*|sonnet|opus|haiku|pro|flash|mini|nano|ultra|large|max|turbo|lite))"
_SURE = (
    rf"(?:(?:openai|anthropic|google|mistral(?:ai)?|meta|deepseek|qwen|xai|x-ai)/[\w.:-]+"
    rf"|(?:chat)?gpt[- ]?\d[\w.-]*{_VERSION}*|chatgpt|claude{_VERSION}+|gemini{_VERSION}+"
    rf"|(?:llama|mistral|qwen|deepseek|grok|gemma)[- ]?(?:\d[\w.-]*|large|v\d){_VERSION}*"
    rf"|o[134]-\w+|(?:sonnet|opus|haiku) \d[\d.]*)"
)
"""A model's name that means nothing else. A test holds that it knows the catalogs' ids."""
_NAME = rf"(?:{_SURE}|openai|anthropic|claude|gemini|gpt|llama|mistral|deepseek|grok|o[1345])"
_MOST = r"(?:powerful|capable|expensive|intelligent|advanced|costly|sophisticated|competent|clever)"
_KIND = (
    rf"(?:best|better|strong(?:er|est)?|smart(?:er|est)?|(?:(?:most|more|less|least) )?{_MOST}"
    r"|top(?:-\w+| tier| end)?|premium|flagship|frontier|dear(?:er|est)|big(?:ger|gest)?|larger?"
    r"|largest|high-end|expert|state[- ]of[- ]the[- ]art|cheap(?:er|est)?|small(?:er|est)?"
    r"|weak(?:er|est)?|lesser|mini|lite|budget|inexpensive)"
)
_KIND_OF_MODEL = (
    rf"(?:{_KIND},? (?:(?:and|or|available|possible|language|ai|{_KIND}),? ){{0,4}}"
    r"(?:models?|llms?|ais?)\b)"
)
_TAIL = (
    r"(?=\s*(?:$|[,.;:!?)\]\"']|(?:available|you|there|possible|only|please|right|now|here|instead"
    r"|and|or|not|regardless|no|whatever|at|will|would|can|can't|cannot|could|should|must|has|have"
    r"|always|usually|often|never|is|are|gets?|fails?|struggles?|that can)\b"
    r"|(?:for|on|with|to) (?:this|it|that|me|my|us|answer|solve|do|handle|the (?:following|above"
    r"|question|task|problem|request|prompt|query))\b))"
)
_DEMAND = (
    r"\b(?:use|using|routed?|send|sent|forward|pass|escalate|assign|delegate|direct|dispatch|hand"
    r"|pick|choose|select|prefer|take|try|switch|upgrade|answer(?:ed)?|handled?|reply|respond"
    r"|solved?|run|call|ask|invoke|needs?|deserves?|entitled|wants?|insist|demand|forced?|expect"
    r"|only|let|have|make sure|ensure)\b"
)
_ANSWERS = r"(?:can|could|should|must|has to|will|would|takes?|answers?|handles?|solves?|please)"
_MODELS = _Family(
    (
        "model", "modèle", "llm", "gpt", "claude", "gemini", "openai", "anthropic", "llama",
        "mistral", "qwen", "deepseek", "grok", " ai ", " ai.", " ai,", "te ki", "mejor ia",
        "eure ia", " o1", " o3",
    ),
    _any(rf"(?:\w+: *)?(?:please |only )?{_NAME},? {_ANSWERS}\b"),
    _any(
        rf"\b{_KIND_OF_MODEL}{_TAIL}",
        rf"\b{_SURE}(?![\w'])",
        rf"{_DEMAND}.{{0,40}}?\b{_NAME}{_TAIL}",
        r"\b(?:people|humans|everybody) and (?:\w+ )?models\b",
        r"\brout(?:e|er|ing)\b.{0,30}\b(?:model|llm)\b",
        r"\b(?:best|stärkst|teuerst|klügst|größt|fähigst|leistungs\w+|billig|klein|günstig|stark"
        r"|groß|teuer|gut|besser)\w* (?:\w+ )?(?:modell\w*|ki)(?=\s*(?:$|[,.;:!?]|bitte|kann"
        r"|soll|und|dafür|hierfür|beantworten|antworten|aus\b|für (?:diese|das)|das du|die du))",
        r"\b(?:nimm|nutze|benutze|verwende|schicke?|sende|leite|frage?|nur|lass) .{0,30}?"
        rf"{_NAME}",
        r"\b(?:meilleure?|(?:plus|moins) (?:puissant|grand|intelligent|cher|petit)e?|petite?"
        r"|gros|grand|puissant) (?:modèle|ia)\b|\b(?:modèle|ia) (?:l[ea] )?(?:plus|moins) \w+",
        rf"\b(?:utilise[rz]?|envoie|envoyez|demandez?|prends|prenez|seule?) .{{0,30}}?{_NAME}",
        r"\b(?:mejor|peor|pequeño) (?:modelo|ia)\b|\b(?:modelo|ia) (?:(?:más|menos) \w+|barat[oa]"
        r"|pequeñ[oa]|potente|car[oa])",
        rf"\b(?:us[ae]|utili[cz][ae]|envía|manda|pregunta|sólo|solo) .{{0,30}}?{_NAME}",
    ),
)  # fmt: skip

# How hard ---------------------------------------------------------------------------------------
_TASK = r"(?:task|question|problem|request|prompt|query|one|puzzle|exercise|assignment|job)"
_HARD = (
    r"(?:hard(?:est)?|difficult|challenging|complex|complicated|tricky|tough(?:est)?|demanding"
    r"|important|critical|crucial|urgent|eas(?:y|iest)|simple|trivial"
    r"|(?:expert|graduate|phd|professional)[- ]level)"
)
_LABEL = r"(?:\w+(?: \w+)?: *)?"
_END = r"\b[^.]{0,15}$"
_CLAIMS = _Family(
    (
        "hard", "diffic", "challeng", "complex", "complica", "tricky", "tough", "demanding",
        "important", "importance", "critical", "crucial", "urgent", "easy", "simple", "trivial",
        "-level", "expert", "a quick one", "schw", "wichtig", "difícil",
    ),
    _any(
        rf"{_LABEL}(?:this|(?:the|this|my|following) (?:\w+ )?{_TASK}) (?:\w+ )?(?:is|seems|looks)"
        rf" (?:\w+[ -]){{0,4}}{_HARD}(?: \w+)?{_END}",
        rf"{_LABEL}(?:consider|treat|regard|rate|see) (?:this|it) (?:as )?(?:\w+ ){{0,4}}"
        rf"{_HARD}\b",
        rf"{_LABEL}(?:a|an) (?:\w+[ -]){{0,2}}{_HARD} {_TASK}{_END}",
        rf"{_LABEL}this (?:(?:one|task|question|problem|request) )?(?:needs?|requires?|demands?"
        rf"|takes|calls for) (?:\w+,? ){{0,3}}(?:expert\w*|phd)\b",
        r"(?:a quick one|a hard one)\b.{0,40}$",
        rf"(?:(?:diese|die|meine) (?:frage|aufgabe|anfrage)|das|dies) ist (?:\w+ ){{0,3}}"
        rf"(?:schwer|schwierig|anspruchsvoll|wichtig|komplex|einfach|leicht)(?:e|es|er)?\b"
        rf"(?: (?:frage|aufgabe|problem))?{_END}",
        rf"(?:cette (?:question|tâche|demande) est|ce problème est|c'est) (?:\w+ ){{0,3}}"
        rf"(?:difficile|dure?|complexe|importante?|ardue?|facile|simple){_END}",
        rf"(?:(?:esta (?:pregunta|tarea)|este problema) )?es (?:\w+ ){{0,3}}(?:difícil|importante"
        rf"|complej[ao]|complicad[ao]|fácil|sencill[ao]){_END}",
    ),
    _any(r"\b(?:difficulty|complexity|importance)(?: level| rating)?\s*[:=]"),
)  # fmt: skip

# At what price ----------------------------------------------------------------------------------
_MONEY = r"(?:costs?|prices?|budget|money|expenses?)"
_PRICES = _Family(
    (
        "price", "cost", "kost", "budget", "money", "expense", "premium", "preis", "geld", "prix",
        "coût", "precio", "cueste",
    ),
    _any(
        rf"{_LABEL}(?:please )?(?:ignore|disregard|forget(?: about)?|never mind|(?:i |we )?(?:do"
        rf" not|don't) (?:care|worry|think)(?: about)?) (?:the |any |all |what )?(?:it )?"
        rf"{_MONEY}\b",
        rf"{_MONEY} (?:is|are) (?:no|not an?) (?:object|concern|issue|problem)\b",
        rf"(?:the )?{_MONEY} (?:does not|do not|doesn't|don't) matter\b",
    ),
    _any(
        r"\bspare no (?:expense|cost)",
        r"\bpremium (?:plan|tier|user|customer|account|subscriber|quality)\b",
        r"\begal,? (?:was|wie ?viel) (?:es|das) kostet\b",
        r"\b(?:kosten|geld|preis) spiel(?:t|en) keine rolle\b",
        r"\b(?:quel que soit|peu importe) (?:le|son) (?:prix|coût)\b|\bà n'importe quel prix\b",
        r"\bsin importar (?:el |su )?(?:precio|coste|costo)\b|\bcueste lo que cueste\b",
    ),
)  # fmt: skip


class _Stem(NamedTuple):
    text: str
    family: _Family


_FAMILIES = (_MODELS, _CLAIMS, _PRICES)
_STEMS = tuple(_Stem(text, family) for family in _FAMILIES for text in family.stems)
_OTHER = re.compile(
    r"(?:what|which|who|why|how|when|where|is|are|does|do|did|was|compare|explain|describe|write"
    r"|implement|list|summari[sz]e|translate|create|build|design|train|fit|evaluate|fix|tell me"
    r"|give me|suppose|assume|welche[rns]?|wer|warum|wie|vergleiche|erkläre|schreibe?"
    r"|quels?(?! que)|quelles?(?! que)|qui|pourquoi|comment|comparez?|explique[rz]?|écri[st]"
    r"|qué|cuál(?:es)?|quién|por qué|cómo|compara|explica|escribe)\b(?!n't| not)"
)
"""How a sentence begins that asks for something else than a model."""
_SENTENCE_ENDS = re.compile(r"(?<=[.!?;])\s+")
_CLAUSE_ENDS = re.compile(r"(?<=,)\s+|\s+[–—-]\s+")  # noqa: RUF001 - dashes of prose
_HANGS_ON = re.compile(
    r"(?:not|and|but|or|because|since|so|as|rather|no matter|please|thanks?|bitte|und|et|y|s'il)\b"
)
_HIDDEN = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")


MANY = 64
"""Texts from which on all are looked through at once: 1 us a text, and 0.1 ms to begin with."""
_ANY_STEM = "|".join(re.escape(stem.text) for stem in _STEMS) + r"|[^\x00-\x7f]"


def heard(texts: Sequence[str]) -> list[str]:
    """Conversations as the router reads them."""
    if len(texts) < MANY:
        return [without_pleas(text) for text in texts]
    looked_at = pc.match_substring_regex(
        pa.array(texts, pa.large_string()), _ANY_STEM, ignore_case=True
    ).to_pylist()
    return [
        without_pleas(text) if look else text for text, look in zip(texts, looked_at, strict=True)
    ]


def without_pleas(text: str) -> str:
    """A text without its pleas; with them where it says nothing else."""
    if len(text) > 2 * EDGE:
        return without_pleas(text[:EDGE]) + text[EDGE:-EDGE] + without_pleas(text[-EDGE:])
    near = _near(_plain(text), _STEMS)
    if not near:
        return text
    kept = "".join(_kept(text, near))
    if len(kept) == len(text) or not any(map(str.isalnum, kept)):
        return text
    return kept.lstrip("\n\r").rstrip()


def _near(plain: str, stems: Sequence[_Stem]) -> list[_Stem]:
    return [stem for stem in stems if stem.text in plain]


def _plain(text: str) -> str:
    """Small letters of one width, without those that nobody sees."""
    if text.isascii():
        return text.lower()
    shown = _HIDDEN.sub("", unicodedata.normalize("NFKC", text))
    return shown.replace("\u2019", "'").lower()


def _kept(text: str, stems: Sequence[_Stem]) -> Iterator[str]:
    """What is left of each sentence, with the blanks behind it."""
    for line in text.splitlines(keepends=True):
        if not _near(_plain(line), stems):
            yield line
            continue
        for sentence in _pieces(line, _SENTENCE_ENDS):
            if len(sentence) > LONGEST or not _is_plea(sentence, stems):
                yield sentence
            else:
                yield from _clauses(sentence, stems)


def _is_plea(sentence: str, stems: Sequence[_Stem]) -> bool:
    plain = _plain(sentence)
    near = _near(plain, stems)
    if not near:
        return False
    plain = plain.strip(" \t\n\r[](){}<>*_#\"'`.!?,;")
    if _OTHER.match(plain) is not None:
        return False
    return any(family.has(plain) for family in _FAMILIES if any(s.family is family for s in near))


def _clauses(sentence: str, stems: Sequence[_Stem]) -> Iterator[str]:
    """The clauses of a plea that are none, if one of them is the plea."""
    clauses = [*_pieces(sentence, _CLAUSE_ENDS)]
    told = [_is_plea(clause, stems) for clause in clauses]
    if not any(told):
        return
    after = False
    for clause, plea in zip(clauses, told, strict=True):
        after = plea or (after and _hangs_on(clause))
        if not after:
            yield clause


def _hangs_on(clause: str) -> bool:
    """Whether a clause says nothing without the one before it."""
    return _HANGS_ON.match(clause.lower()) is not None or len(clause.split()) <= 2


def _pieces(text: str, ends: re.Pattern[str]) -> Iterator[str]:
    start = 0
    for end in ends.finditer(text):
        yield text[start : end.end()]
        start = end.end()
    yield text[start:]
