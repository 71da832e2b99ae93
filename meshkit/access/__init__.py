"""What meshkit asks API servers for: the roles that are published, and what a credential lacks of them.

Belongs here: the roles as files, what they allow. Does not: any reading, and what is made of one that was refused.
"""
