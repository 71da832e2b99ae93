"""Proxies and the workloads that carry them: Envoy's admin interface, xDS status, injection, restart risks, new pods.

Belongs here: what a proxy, or an istiod about a proxy, reports. Does not belong here: certificates (`istio/ca`), remote
clusters and gateways (`istio/multicluster`), and verdicts (`checks`).
"""
