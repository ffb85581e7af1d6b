r"""Reading an answer out of a text, for whole columns at once: a number, a choice letter, or the text itself.

Where to look: after the last `after` mark if one is asked for; in the last \boxed{} if there is one; else
everywhere. A reading that is in doubt is no reading: two numbers in one box, "A or B", 1.2.3, 3/0, 2^10,
3:45, \sqrt{2}, 2\pi. Nothing here evaluates text: numbers are matched by regular expressions without
backtracking and read as decimals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

_INNER = r"[^{}]*"
for _ in range(3):
    _INNER = rf"(?:[^{{}}]|\{{{_INNER}\}})*"
_BOX = rf"\\f?boxed\s*\{{{_INNER}\}}"

_SPELLINGS = {
    **{str(digit): (chr(0xFF10 + digit),) for digit in range(10)},
    "-": ("\u2212", "\u2013", "\ufe63", "\uff0d"),
    "+": ("\uff0b",),
    "*": ("\xd7", r"\times", r"\cdot"),
    "/": ("\u2044",),
    ",": ("{,}",),
    "%": (r"\%",),
    " ": ("\u2014", r"\;", "\\ "),
    "": (
        r"\left",
        r"\right",
        r"\!",
        r"\,",
        r"\$",
        "$",
        "€",
        "£",
        "¥",
        *"\u200b\u200c\u200d\u200e\u200f\u2060\ufeff",
    ),
    "√": (r"\sqrt",),
    "π": (r"\pi",),
    **{f" {part}/{whole}": (sign,) for sign, part, whole in ("½12", "⅓13", "⅔23", "¼14", "¾34", "⅕15", "⅛18")},
}
_CHARACTERS = {variant: spelling for spelling, variants in _SPELLINGS.items() for variant in variants}
_REWRITES = (
    (r"\\(?:text|mathrm|mathbf|textbf|mbox|operatorname)\s*\{([^{}]*)\}", " $1 "),
    (r"([0-9])[\u{2009}\u{202f}\u{a0}]([0-9]{3})", "$1$2"),
    (r"([0-9])\s*\\([dtc]?frac)", r"$1 \$2"),
    (r"\\[dtc]?frac\s*\{\s*(-?[0-9][0-9.,]*)\s*\}\s*\{\s*([0-9][0-9.,]*)\s*\}", "$1/$2"),
    (r"\\[dtc]?frac\s*([0-9])\s*([0-9])", "$1/$2"),
    (r"(^|[^0-9.])0[xX][0-9a-fA-F]+", "$1 "),
    (r"([0-9])\s*[*xX]\s*10\s*\^\s*\{?\s*([-+]?[0-9]{1,3})\s*\}?", "${1}e$2"),
    (r"([\p{L}\)\}\]%°])\s*\^\s*(?:\{[^{}]*\}|[-+]?[0-9]+)", "$1 "),
    (r"(\p{L})_(?:\{[^{}]*\}|[0-9]+)", "$1 "),
    (r"([0-9])[eE]-([0-9]{1,3})", "${1}e~$2"),
    (r"\b(?:USD|US|EUR|GBP|Rs\.?|INR)\s?([0-9])", " $1"),
    (r"(^|[^0-9.\p{L}])\p{L}+[0-9][0-9\p{L},.]*", "$1 "),
    (r"([0-9\p{L}\)\]\}])-", "$1 - "),
)
_DIGITS = r"\.?[0-9](?:[0-9]|[,.]+[0-9])*"
_TOKEN = (
    r"[-+]?[0-9]+ +[0-9]+/[0-9]+(?:/[0-9]+)*|"
    rf"[-+]?(?:{_DIGITS})?\s?√\s?[\{{\(]?(?:{_DIGITS})?|"
    rf"[-+]?{_DIGITS}(?:[eE][+~]?[0-9]+)?(?:\s?[/:^]\s?\{{?[-+]?{_DIGITS}\}}?)*(?:\s?[π√])?"
)
_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.[0-9]+)?|\.[0-9]+)"
_NEAR = 256
"""Characters looked at first, at the end that matters; they suffice where their nearer half has a digit."""
_STRIPPED = "\\s\"'`*_.,;:!?()\\[\\]{}\u201c\u201d\u2018\u2019«»"


def scope(text: pl.Expr, after: str) -> pl.Expr:
    """The part of `text` behind the last `after`; null where that is missing; all of it if none is asked."""
    import polars as pl

    if not after:
        return text
    return pl.when(text.str.contains(after, literal=True)).then(text.str.split(after).list.last())


def boxed(text: pl.Expr) -> pl.Expr:
    r"""The content of the last \boxed{} (three levels of braces); null where there is none that closes."""
    last = text.str.extract_all(_BOX).list.last()
    return last.str.replace(r"^\\f?boxed\s*\{", "").str.replace(r"\}$", "")


def in_box_or(text: pl.Expr, read_box: pl.Expr, read_rest: pl.Expr) -> pl.Expr:
    """`read_box` where `text` has a box, even one that cannot be read; `read_rest` elsewhere."""
    import polars as pl

    return pl.when(text.str.contains(r"\\f?boxed")).then(read_box).otherwise(read_rest)


def number(text: pl.Expr, *, first: bool = False) -> pl.Expr:
    """The token of the last (or first) number; in a box, of the only one; null where there is none."""
    import polars as pl

    end = text.str.head(_NEAR) if first else text.str.tail(_NEAR)
    near = (end.str.head(_NEAR // 2) if first else end.str.tail(_NEAR // 2)).str.contains("[0-9]")
    tokens, rest = _tokens(boxed(text)), _tokens(pl.when(near).then(end).otherwise(text))
    only = pl.when(tokens.list.len() == 1).then(tokens.list.first())
    return in_box_or(text, only, rest.list.first() if first else rest.list.last()).str.replace("~", "-")


def decimal(token: pl.Expr) -> pl.Expr:
    """The one spelling of a plain decimal ("1,234.50" -> "1234.5", "-0" -> "0"); null for other numbers."""
    import polars as pl

    plain = pl.when(token.str.contains(rf"^[-+]?{_DECIMAL}$")).then(
        token.str.replace_all(",", "").str.strip_prefix("+")
    )
    sign = pl.when(plain.str.starts_with("-")).then(pl.lit("-")).otherwise(pl.lit(""))
    body = plain.str.strip_prefix("-").str.replace(r"^0+([0-9])", "$1").str.replace(r"^\.", "0.")
    body = (
        pl.when(body.str.contains(".", literal=True))
        .then(body.str.strip_chars_end("0").str.strip_chars_end("."))
        .otherwise(body)
    )
    return pl.when(body == "0").then(body).otherwise(sign + body)


def value(token: pl.Expr) -> pl.Expr:
    """The value (float64) of a decimal, exponent, fraction or mixed number; null where it is not finite."""
    import polars as pl

    def part(pattern: str, group: int) -> pl.Expr:
        return token.str.extract(pattern, group).str.replace_all(",", "").cast(pl.Float64, strict=False)

    simple = part(rf"^\+?(-?{_DECIMAL}(?:[eE][-+]?[0-9]{{1,3}})?)$", 1)
    ratio = rf"^\+?(-?{_DECIMAL})\s?/\s?({_DECIMAL})$"
    mixed = r"^[-+]?([0-9]+) +([0-9]+)/([0-9]+)$"
    sign = pl.when(token.str.starts_with("-")).then(-1.0).otherwise(1.0)
    whole = sign * (part(mixed, 1) + part(mixed, 2) / part(mixed, 3))
    values = pl.coalesce(simple, part(ratio, 1) / part(ratio, 2), whole)
    return pl.when(values.is_finite()).then(values)


def choice(text: pl.Expr, letters: str) -> pl.Expr:
    """The upper-case letter chosen; null where none, or more than one, is."""
    import polars as pl

    upper, any_case = f"[{letters}]", f"[{letters}{letters.lower()}]"
    one = rf"(?:\({any_case}\)|{upper}\b)"
    lead = (
        r"(?i:\b(?:answer|choice|option|correct|select|choose|pick))"
        r"(?i:\s+(?:is|was|are|would\s+be|should\s+be|must\s+be|option|choice|answer|letter|one|the|to))*"
        r"\s*[:=]?[\s\"'*_\[\\{$]*"
    )
    small = rf"[{letters.lower()}]\s*[.)]?\s*(?:\n|$)"
    marked = text.str.extract_all(
        rf"{lead}(?:{one}|{small})(?:[^\p{{L}}\p{{N}}]*(?:\s(?i:or|and)\s|/|&|,)\W*{one})?"
    ).list.last()
    hedged = marked.str.contains(rf"(?:\s(?i:or|and)\s|/|&|,)\W*{one}$")
    letter = marked.str.replace(rf"^{lead}", "").str.extract(rf"({any_case})", 1)
    bracketed = _same(text.str.extract_all(rf"\({any_case}\)"), any_case)
    lined = _same(text.str.extract_all(rf"(?m)^[\s*_]*{upper}[.):](?:\s|$)"), any_case)
    unmarked = pl.coalesce(lone_letter(text, letters), bracketed, lined)
    rest = pl.when(marked.is_not_null()).then(pl.when(hedged.not_()).then(letter)).otherwise(unmarked)
    bare = boxed(text).str.replace_all(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", "$1")
    return in_box_or(text, lone_letter(bare, letters), rest).str.to_uppercase()


def lone_letter(text: pl.Expr, letters: str) -> pl.Expr:
    """The letter of a text that is just a letter, with whatever marks around it."""
    return text.str.extract(rf"^[\W_]*([{letters}{letters.lower()}])[\W_]*$", 1).str.to_uppercase()


def leading_letter(text: pl.Expr, letters: str) -> pl.Expr:
    """The letter that a gold answer starts with: `B`, `(b)`, `B) because ...`."""
    return text.str.extract(rf"^[\W_]*([{letters}{letters.lower()}])(?:[\W_]|$)", 1).str.to_uppercase()


def words(text: pl.Expr) -> pl.Expr:
    """The text (or its box's) in NFKC and lower case, blanks joined, end marks off; null if empty."""
    normalized = (
        in_box_or(text, boxed(text), text)
        .str.normalize("NFKC")
        .str.replace_all(r"[\u{200b}-\u{200f}\u{2060}\u{feff}]", "")
    )
    normalized = normalized.str.to_lowercase().str.replace_all(r"\s+", " ")
    normalized = normalized.str.replace(rf"^[{_STRIPPED}]+", "").str.replace(rf"[{_STRIPPED}]+$", "")
    return normalized.str.extract(r"(?s)^(.+)$", 1)


def _tokens(text: pl.Expr) -> pl.Expr:
    text = text.str.replace_many(list(_CHARACTERS), list(_CHARACTERS.values()))
    for pattern, new in _REWRITES:
        text = text.str.replace_all(pattern, new)
    return text.str.extract_all(_TOKEN)


def _same(matches: pl.Expr, letter: str) -> pl.Expr:
    """The letter that all of `found` agree on."""
    import polars as pl

    letters = matches.list.eval(pl.element().str.extract(f"({letter})", 1).str.to_uppercase()).list.unique()
    return pl.when(letters.list.len() == 1).then(letters.list.first())
