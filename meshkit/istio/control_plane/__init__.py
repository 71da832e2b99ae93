"""istiod: its replicas, versions, revisions, installation and debug endpoints.

Belongs here: what belongs to the control plane of one cluster. Does not belong here: its CA (`ca`), its view of other
clusters (`multicluster`), and verdicts (`checks`).
"""
