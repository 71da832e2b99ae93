"""Training: a seed breaks the lab, and a person finds the fault, by `meshkit lab drill` or the notebook.

lesson, lessons/   what each fault teaches: topic, level, hints, an expert's path, why; one YAML file a topic
rules              the fault of a seed, its hints, how an answer is checked, its points
sheet              the score sheet: one line for each event, from which a round is restored after a kill
expert             the commands of a path, run on the broken mesh, and the lines that tell
rounds             a round on the running lab: broken, hinted at, answered or given up, shown, healed, scored
page               the round in JupyterLab, by buttons
"""

TOPICS = ("discovery", "gateways", "trust", "policy", "proxies")
