"""The mesh file that is found: what the clusters of some contexts say of each field, and what none of them says.

    found = mesh_file.of_contexts(["prod-east", "prod-west"])
    found.spec                     # a mesh file like any other
    found.fields                   # its fields in order, each with what says so

Belongs here: which reading speaks for which field. Does not: how that is read, nor how the file is written.
"""
