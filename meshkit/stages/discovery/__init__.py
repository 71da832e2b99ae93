"""Stage 07: reader accounts, their tokens and remote secrets in every cluster.

Belongs here: what only this stage plans, waits for and proves. Does not belong here: readings and general checks.
"""
