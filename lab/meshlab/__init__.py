"""The lab: a real Istio mesh of plain processes on this machine. It depends on meshkit, never the reverse.

layout      folders, addresses and names
programs/   the one Go module of all programs, and its build
doctor      what this machine lacks, and the commands that fix it
sandbox     the namespaces in which all of the lab runs, and its first process
wan_relay   the relay between clusters: round trips and cuts
cluster     one cluster's control plane: certificates, etcd, API server, controllers
node        the process runner: pods as the controllers make them (with container, volumes, probes)
services    what kube-proxy, a cloud's load balancers and CoreDNS would do
scenarios   empty, single, meshed, strangers: by istioctl, kubectl and openssl only
"""
