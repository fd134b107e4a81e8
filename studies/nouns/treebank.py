"""Reads Universal Dependencies treebanks (CoNLL-U) into tagged sentences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sentence:
    """A tagged sentence.

    Attributes:
        words: surface forms; a multi-word token such as "don't" is its syntactic words.
        tags: one universal part of speech a word.
        spaces: whether a space follows each word.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    spaces: tuple[bool, ...]

    @property
    def text(self) -> str:
        """The sentence as running text."""
        pairs = zip(self.words, self.spaces, strict=True)
        return "".join(word + (" " if space else "") for word, space in pairs).rstrip()

    def lowered(self) -> Sentence:
        """The same sentence in lower case."""
        return Sentence(tuple(word.lower() for word in self.words), self.tags, self.spaces)

    def without_final_punctuation(self) -> Sentence:
        """The same sentence less the punctuation that ends it."""
        end = len(self.words)
        while end and self.tags[end - 1] == "PUNCT":
            end -= 1
        return Sentence(self.words[:end], self.tags[:end], self.spaces[:end])


def treebank_file(folder: Path, split: str) -> Path:
    """The ``split`` (train, dev or test) of the treebank in ``folder``.

    Raises:
        FileNotFoundError: if ``folder`` does not hold exactly one such file.
    """
    found = sorted(folder.glob(f"*-ud-{split}.conllu"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{folder} holds {len(found)} files named *-ud-{split}.conllu, one is needed; give the "
            "folder of one Universal Dependencies treebank, e.g. UD_English-EWT"
        )
    return found[0]


def read_conllu(path: Path) -> list[Sentence]:
    """Reads the sentences of a CoNLL-U file, in order; empty nodes are passed over."""
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    sentences = (_sentence(block.splitlines()) for block in blocks if block.strip())
    return [sentence for sentence in sentences if sentence.words]


def _sentence(lines: list[str]) -> Sentence:
    words: list[str] = []
    tags: list[str] = []
    spaces: list[bool] = []
    joined_until = 0
    space_after_join = True
    for line in lines:
        if not line or line.startswith("#"):
            continue
        columns = line.split("\t")
        number, form, tag, misc = columns[0], columns[1], columns[3], columns[9]
        space = "SpaceAfter=No" not in misc
        if "." in number:
            continue
        if "-" in number:
            joined_until, space_after_join = int(number.split("-")[1]), space
            continue
        if int(number) < joined_until:
            space = False
        elif int(number) == joined_until:
            space = space_after_join
        # A few forms hold spaces ("1 800"); spaCy would cut them there.
        words.append(form.replace(" ", "\u00a0"))
        tags.append(tag)
        spaces.append(space)
    return Sentence(tuple(words), tuple(tags), tuple(spaces))
