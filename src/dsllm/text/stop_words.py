"""Stop words: the commonest function words of a language, by which running text is told from lists.

English has the eight words of the Gopher rules (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1). Chinese
has single characters, since a character is a word here (`dsllm.text.scan.words`), in simplified and
traditional form: the function words of modern prose, and those of classical prose, which shares few of them.
"""

_ENGLISH = ("the", "be", "to", "of", "and", "that", "have", "with")
_MODERN_CHINESE = "的一是了不在有和我他这這那也就都要会會可为為与與及以对對从從把被让讓"
_CLASSICAL_CHINESE = "之其而于於者所则則乃若曰此何无無"

STOP_WORDS: dict[str, frozenset[str]] = {
    "en": frozenset(_ENGLISH),
    "zh": frozenset(_MODERN_CHINESE + _CLASSICAL_CHINESE),
}
