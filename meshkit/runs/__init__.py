"""Headless runs of the stage notebooks, and their evidence.

Belongs here: the papermill engine, the run folder, record, comparison and report. Does not belong here: what a stage
does (`stages`), and command-line options (`cli`).
"""
