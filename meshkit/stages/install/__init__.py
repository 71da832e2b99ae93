"""Stage 05: the same Istio in every cluster, and the rename of a live cluster's id.

Belongs here: what only this stage plans, waits for and proves. Does not belong here: readings and general checks.
"""
