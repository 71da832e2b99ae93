"""Faults of a mesh, made on the running lab and healed: what `meshkit lab faults|break|heal` do.

fault        what a fault is; catalogue: all of them by their names
bench        the operations of faults; each is recorded first, so that another process can revert it
objects pods inside clock    the API servers' objects, restarts, the sandbox's firewalls and processes, wrong clocks
credentials gateways trust proxies services views    the faults themselves; remotes: those of primary-remote
health       whether the mesh is healthy, by istioctl and by calls
drills       break, heal, and what is broken now
"""
