"""Studies shipped as package data, and the embedded models that some of them tune."""
