"""Closed lists of general English words that the prompt features count.

None of them is fitted to a task: they are the words by which English marks an attribute, a place,
a comparison, a request to read, or a question about the picture as a whole.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


WH_WORDS = {
    "what": "asks_what",
    "which": "asks_which",
    "who": "asks_who",
    "whose": "asks_who",
    "whom": "asks_who",
    "where": "asks_where",
    "how": "asks_how",
    "when": "asks_when_why",
    "why": "asks_when_why",
}

AUXILIARIES = _words("""
    is are was were am do does did has have had can could will would shall should may might must
    isn't aren't wasn't doesn't don't didn't hasn't haven't can't
""")

COLORS = _words("""
    black white gray grey red orange yellow green blue purple violet pink brown cyan magenta
    turquoise teal beige tan gold golden silver navy maroon olive lime indigo crimson scarlet
    ivory khaki lavender blond blonde bronze copper aqua amber reddish bluish greenish
    yellowish brownish multicolored striped
""")

SPATIAL = _words("""
    left right above below under over beneath behind front beside next near nearby between among
    top bottom middle center centre corner inside outside upper lower leftmost rightmost topmost
    bottommost closest nearest farthest furthest adjacent opposite side edge around across
    foreground underneath along towards away
""")

COMPARISON = _words("""
    most least more less fewer fewest common commonly frequent frequently often usual
    majority minority mostly mainly main dominant predominant prevalent rarest same different
    similar than compare compared bigger larger smaller taller shorter longer older younger
    closer further farther higher better worse equal
""")

READING = _words("""
    text texts word words letter letters digit digits number numbers numeral written write
    writes say says read reads reading printed spelled label labeled labelled title caption
    inscription logo brand price date phrase sentence displayed
""")

GLOBAL = _words("""
    image images picture pictures photo photos photograph scene view overall everything everyone
    anything describe describes description caption summarize summary detail details happening
    setting weather mood background whole entire
""")
