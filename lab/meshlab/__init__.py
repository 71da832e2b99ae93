"""The lab: a real Istio mesh of plain processes on this machine. It stands apart; only the command line knows it.

layout      where everything lies: folders, addresses, names
programs/   the one Go module of all programs, and its build
doctor      what this machine lacks, and what mends it
box         the namespaces that hold the whole lab, and its first process
wan         the relay between clusters: round trips and cuts
cluster     one cluster's control plane: certificates, etcd, API server, controllers
node        the process runner: pods as the controllers make them (with container, volumes, probes)
services    what kube-proxy, a cloud's load balancers and CoreDNS would do
scenarios   empty, single, meshed, strangers: by istioctl, kubectl and openssl only
"""
