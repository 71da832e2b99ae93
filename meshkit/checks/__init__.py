"""Verdicts: every check of the catalogue, as findings from facts.

Belongs here: pure functions that compare facts with what is expected, one module for each subject; catalogue, causes
and the audit. Does not belong here: reading (`istio`, `probing`), and changes (`changes`, `stages`).
"""
