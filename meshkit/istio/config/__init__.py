"""Istio's configuration objects: what is valid in one cluster and wrong in many.

Belongs here: reading and interpreting networking, security and policy objects. Does not belong here: what istiod or a
proxy made of them (`control_plane`, `proxies`), and verdicts (`checks`).
"""
