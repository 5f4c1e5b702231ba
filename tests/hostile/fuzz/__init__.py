"""Parsers fed with bytes that nobody wrote: one target for each, run by atheris or by a test."""
