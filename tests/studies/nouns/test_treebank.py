from __future__ import annotations

from pathlib import Path

import pytest

from studies.nouns.treebank import read_conllu, treebank_file

CONLLU = """\
# text = I don't like dogs (big).
1\tI\tI\tPRON\t_\t_\t_\t_\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\t_\t_\t_\t_\t_\t_
3\tn't\tnot\tPART\t_\t_\t_\t_\t_\t_
4\tlike\tlike\tVERB\t_\t_\t_\t_\t_\t_
5\tdogs\tdog\tNOUN\t_\t_\t_\t_\t_\t_
5.1\tghost\tghost\tNOUN\t_\t_\t_\t_\t_\t_
6\t(\t(\tPUNCT\t_\t_\t_\t_\t_\tSpaceAfter=No
7\tbig\tbig\tADJ\t_\t_\t_\t_\t_\tSpaceAfter=No
8\t)\t)\tPUNCT\t_\t_\t_\t_\t_\tSpaceAfter=No
9\t.\t.\tPUNCT\t_\t_\t_\t_\t_\t_

# text = Call 1 800
1\tCall\tcall\tVERB\t_\t_\t_\t_\t_\t_
2\t1 800\t1 800\tNUM\t_\t_\t_\t_\t_\t_
"""


def test_words_tags_and_spaces(tmp_path: Path) -> None:
    path = tmp_path / "en_x-ud-dev.conllu"
    path.write_text(CONLLU, encoding="utf-8")
    assert treebank_file(tmp_path, "dev") == path
    first, second = read_conllu(path)
    assert first.text == "I don't like dogs (big)."
    assert first.words[:3] == ("I", "do", "n't")
    assert first.tags[3:5] == ("VERB", "NOUN")
    assert first.without_final_punctuation().text == "I don't like dogs (big"
    assert first.lowered().text == "i don't like dogs (big)."
    assert second.text == "Call 1\u00a0800"


def test_a_folder_without_the_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="0 files named"):
        treebank_file(tmp_path, "train")
