"""Stage 03: an archive of all Istio objects, and its restore drill.

Belongs here: what only this stage plans, writes and proves. Does not belong here: readings and general checks.
"""
