"""Meshes as people have them: what `meshkit lab up --shape` and `meshkit lab shapes` know.

NAME.yaml    one shape each; shape.py says what its fields mean
shape        reads shapes, combines several into one, lists them
"""
