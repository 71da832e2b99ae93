"""Training: a seed breaks the lab, and a person finds the fault, by `meshkit lab drill` or the notebook.

rules     the fault of a seed, its hints, how an answer is checked, its points
sheet     the score sheet: one line for each event, from which a round is restored after a kill
rounds    a round on the running lab: broken, hinted at, answered or given up, healed, scored
"""
