"""Hostile input by layer: what must be refused is refused, nothing else happens, and every case can be made again."""
