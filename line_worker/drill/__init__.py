"""Breaks a line on purpose, then proves from three independent books that the promise held."""
