"""What Istio says and what it means, as tables.

Every function that takes a `Mesh` asks all clusters at once, tolerates what cannot be reached as a row that says so,
and returns a pandas DataFrame with the columns of the `Table` in its module.
"""
