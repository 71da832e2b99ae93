"""Changes to clusters: the plan of a stage with its dry runs, the journal, undo, and temporary changes.

Belongs here: how any change is previewed, applied, recorded and reverted. Does not belong here: which changes a stage
needs (`stages`), and which checks gate them (`checks`).
"""
