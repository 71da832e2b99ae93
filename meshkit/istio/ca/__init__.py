"""Certificate authorities of the mesh: `cacerts`, istiod's CA, the user's own CA, and the roots that proxies trust.

Belongs here: reading, checking and issuing certificates, and the choice of a common root. Does not belong here: changes
to a cluster (`stages/trust`), and verdicts (`checks`).
"""
