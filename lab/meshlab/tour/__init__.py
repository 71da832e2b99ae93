"""The guided tour: the migration of the lab, stage by stage, with a question before each and its answer after.

stops, stops.yaml    what is asked at each stage, the answer, and the tables of the run that show it
visit                a stage run for the tour, and what it showed
page                 a stop in JupyterLab, by buttons
"""
