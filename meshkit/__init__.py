"""meshkit: notebooks that take a live Istio service mesh from one cluster to many."""

__version__ = "0.1.0"
