"""What connects clusters: remote secrets, remote clusters, networks, east-west gateways, endpoint shards.

Belongs here: readings and manifests of these. Does not belong here: requests through them (`probing`), and verdicts
(`checks`).
"""
