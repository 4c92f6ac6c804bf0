"""Fuzzing, guided by coverage: targets, their corpora, what runs them under atheris and what replays them without.

A target (targets/*.py, ``Target``) takes bytes and either returns, or raises one of the errors that it allows; anything
else is a finding, as is an input that takes too long or too much memory. Where plain bytes do not reach far, a target
reads decisions from them (draw.py): which message, which field to spoil, what with.
"""
