"""Faults of a mesh, made on the running lab and healed: what `meshkit lab faults|break|heal` do.

fault        what a fault is; catalogue: all of them by their names
bench        the verbs that faults are made with; each is noted first, so that another process can take it back
objects pods inside clock    the API servers' objects, restarts, the box's firewalls and processes, wrong clocks
credentials gateways trust proxies services    the faults themselves
health       whether the mesh is whole, by istioctl and by calls
drills       break, heal, and what is broken now
"""
