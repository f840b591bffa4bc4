"""Choose the code by which a multilingual tokenizer (mBART, mBART-50, NLLB, M2M-100) knows a run's language.

Decision record: these tokenizers mark every text with its language and are set to one source and one target language,
so a text under the wrong one is read as another language and no loss shows it. Rows carry their languages by the run's
names. A name is the code itself, or the only code of that language, or the usual code of a small table; any other name
is refused with the key that says which it is. A model from scratch that writes several languages is told which one as
OPUS-MT's models are: its sources begin with a token such as `>>fr<<`, an added token of its tokenizer. OPUS-MT's own
have these tokens in their vocabulary, under names of their own, and read what the sources of the data begin with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from raykd.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from raykd.text.tokens import Tokenizer

CODED = ("MBartTokenizer", "MBart50Tokenizer", "NllbTokenizer", "M2M100Tokenizer")
"""Tokenizers of transformers that mark texts with their language (older files add "Fast" to the name)."""
SOURCE_MARK = ">>{}<<"
"""The token of a source that says which language to write, as in OPUS-MT's models."""
_MARK = re.compile(r">>([^<>\s]+)<<\Z")
_CODE = re.compile(r"[a-z]{2,3}_([A-Z]{2}|[A-Z][a-z]{3})\Z")
_PAIRS = """
af:afr am:amh ar:arb as:asm az:azj ba:bak be:bel bg:bul bm:bam bn:ben bo:bod bs:bos ca:cat cs:ces cy:cym da:dan de:deu
dz:dzo ee:ewe el:ell en:eng eo:epo es:spa et:est eu:eus fa:pes fi:fin fj:fij fo:fao fr:fra ga:gle gd:gla gl:glg gn:grn
gu:guj ha:hau he:heb hi:hin hr:hrv ht:hat hu:hun hy:hye id:ind ig:ibo is:isl it:ita ja:jpn jv:jav ka:kat kg:kon ki:kik
kk:kaz km:khm kn:kan ko:kor ku:kmr ky:kir lb:ltz lg:lug li:lim ln:lin lo:lao lt:lit lv:lvs mg:plt mi:mri mk:mkd ml:mal
mn:khk mr:mar ms:zsm mt:mlt my:mya nb:nob ne:npi nl:nld nn:nno no:nob ny:nya oc:oci om:gaz or:ory pa:pan pl:pol ps:pbt
pt:por qu:quy rn:run ro:ron ru:rus rw:kin sa:san sd:snd sg:sag si:sin sk:slk sl:slv sm:smo sn:sna so:som sq:als sr:srp
ss:ssw st:sot su:sun sv:swe sw:swh ta:tam te:tel tg:tgk th:tha ti:tir tk:tuk tl:tgl tn:tsn tr:tur ts:tso tt:tat tw:twi
ug:uig uk:ukr ur:urd uz:uzn vi:vie wo:wol xh:xho yi:ydd yo:yor zh:zho zu:zul
"""
_THREE = dict(pair.split(":") for pair in _PAIRS.split())
"""ISO 639-1 to the codes that NLLB uses."""
_USUAL = {"zho": "zho_Hans", "kas": "kas_Arab", "taq": "taq_Latn", "knc": "knc_Latn"}
"""The code that is meant where a language has several scripts and its name says none."""
_REGIONS = {
    "zh_tw": "zho_Hant",
    "zh_hk": "zho_Hant",
    "zh_hant": "zho_Hant",
    "zh_hans": "zho_Hans",
    "zh_cn": "zho_Hans",
}


def list_language_codes(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return the codes of a tokenizer that marks texts with their language; () of any other."""
    own = _unwrap_tokenizer(tokenizer)
    if not hasattr(own, "set_tgt_lang_special_tokens"):
        return ()
    if hasattr(own, "lang_code_to_token"):  # M2M-100: "fr" stands for the token __fr__
        return tuple(own.lang_code_to_token)
    vocabulary = own.get_vocab()
    named = [str(token) for token in getattr(own, "all_special_tokens", ())]
    named += [token for token in vocabulary if token not in named and _CODE.match(token)]
    return tuple(token for token in named if _CODE.match(token) and token in vocabulary)


def find_source_marks(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the ids of the tokens that say at the beginning of a source which language to write, by their codes."""
    own = _unwrap_tokenizer(tokenizer)
    added = own.get_added_vocab() if hasattr(own, "get_added_vocab") else {}
    found = ((_MARK.match(token), number) for token, number in added.items())
    return {match[1]: number for match, number in found if match is not None}


def choose_language_code(codes: Sequence[str], language: str) -> str:
    """Return the code of a language.

    Raises:
        ConfigError: There is none, or there are several; names them.
    """
    found = _match_codes(codes, language)
    if len(found) == 1:
        return found[0]
    near = found or sorted(codes)[:8]
    raise ConfigError(
        f"no language code stands for {language!r}"
        if not found
        else f"several language codes are {language!r}",
        got=repr(language),
        wanted=f"one of {', '.join(near)}" + ("" if found else f", ... ({len(codes)} codes)"),
        next_step=f"say which: language_codes: {{{language}: {near[0]}}} (of the teacher, or of the student)",
    )


def _match_codes(codes: Sequence[str], language: str) -> list[str]:
    name = language.replace("-", "_")
    exact = [code for code in codes if code.lower() == name.lower()]
    usual = _REGIONS.get(name.lower())
    if exact or usual in codes:
        return exact or [str(usual)]
    main = name.partition("_")[0].lower()
    mains = {
        main,
        _THREE.get(main, main),
        next((two for two, three in _THREE.items() if three == main), main),
    }
    found = [code for code in codes if code.partition("_")[0].lower() in mains]
    preferred = [code for code in found if _USUAL.get(code.partition("_")[0]) == code]
    return preferred if len(found) > 1 and preferred else found


def is_multilingual_class(name: object) -> bool:
    """Return whether a tokenizer_config.json's tokenizer_class is one of `CODED`."""
    return isinstance(name, str) and name.removesuffix("Fast") in CODED


def has_wrapped_targets(tokenizer: Tokenizer) -> bool:
    """Return whether models of this tokenizer start a target with the target's last token (mBART)."""
    return type(_unwrap_tokenizer(tokenizer)).__name__.removesuffix("Fast") in (
        "MBartTokenizer",
        "MBart50Tokenizer",
    )


@contextmanager
def set_languages(
    tokenizer: Tokenizer, source: str | None = None, target: str | None = None
) -> Iterator[None]:
    """Set the tokenizer to these codes inside the context; None leaves a code as it is."""
    own = _unwrap_tokenizer(tokenizer)
    codes = {name: code for name, code in (("src_lang", source), ("tgt_lang", target)) if code is not None}
    before = {name: getattr(own, name, None) for name in codes}
    try:
        for name, code in codes.items():
            setattr(own, name, code)
        yield
    finally:
        for name, value in before.items():
            setattr(own, name, value)


def group_rows_by_code(
    tokenizer: Tokenizer, languages: Sequence[str], count: int
) -> Mapping[str | None, list[int]]:
    """Return rows by the code of their language; None where the tokenizer has no codes, or the language is "".

    Raises:
        ConfigError: As `choose_language_code`.
    """
    codes = list_language_codes(tokenizer) if any(languages) else ()
    if not codes:
        return {None: list(range(count))}
    known = {
        language: choose_language_code(codes, language) if language else None for language in set(languages)
    }
    groups: dict[str | None, list[int]] = {}
    for at, language in enumerate(languages):
        groups.setdefault(known[language], []).append(at)
    return groups


def _unwrap_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
    """Return the tokenizer of transformers inside one of `raykd.tokenizers`, or the tokenizer itself."""
    return cast("PreTrainedTokenizerBase", getattr(tokenizer, "inner", tokenizer))
