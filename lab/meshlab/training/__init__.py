"""Training: the lab is broken by a seed, a person finds out by what; what `meshkit lab drill` and the notebook do.

rules     what a seed draws, what hints tell, how an answer is judged, what it is worth
sheet     the score sheet: one line for each event, from which a round is known again after a kill
rounds    a round on the running lab: broken, hinted at, answered or given up, healed, scored
"""
