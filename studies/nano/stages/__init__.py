"""The stages in order: language, alignment, projector, instruction."""
