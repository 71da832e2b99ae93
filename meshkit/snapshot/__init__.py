"""One moment of one mesh: every reading, asked once, of all clusters at once, live or from a file.

Belongs here: which readings there are, and how they are kept without secrets, written and read back. Does not: how they
are read (istio), what is tried from pods (probing), and what they mean (checks).
"""
