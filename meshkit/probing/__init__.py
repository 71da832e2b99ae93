"""Requests from pods, and what they show: reachability, traffic between clusters, latency, load during a change.

Belongs here: sending requests and recording their outcome with time and place. Does not belong here: reading objects
and debug endpoints (`istio`), and verdicts (`checks`).
"""
