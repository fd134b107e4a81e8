"""A small server for image questions, without vLLM: ``python -m examples.server MODEL CONFIG``."""
