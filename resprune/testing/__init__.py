"""Conformance suites and tiny models, for this project's tests and for third parties."""
