"""`line-worker rescore`: recordings and folders judged again on all cores, away from any line.

shares      the processes: each judges every n-th picture
results     where their verdicts are kept
run         puts them together and says what came of it
"""
