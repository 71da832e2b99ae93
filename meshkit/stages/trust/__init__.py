"""Stage 04: one root for all clusters, by adoption or by root rotation, and its undo.

Belongs here: what only this stage plans, waits for and proves. Does not belong here: certificates (`istio/ca`).
"""
