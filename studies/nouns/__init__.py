"""How the embedded noun pipeline of ``resprune.nouns`` was trained, and how it is measured."""
