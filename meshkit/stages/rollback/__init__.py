"""Stage 12: undo of a run from its journal, and what depends on the run's changes.

Belongs here: what only this stage plans, waits for and proves. Does not belong here: undo of one change (`changes`).
"""
