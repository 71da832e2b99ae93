"""Kubernetes without Istio: kubeconfig and identity, requests and streams, objects, rollouts, many clusters at once.

Belongs here: what is true of any Kubernetes cluster. Does not belong here: anything that knows Istio's kinds, ports or
labels (`istio`), and verdicts (`checks`). No other package talks HTTP to an API server.
"""
