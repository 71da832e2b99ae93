"""Twelve stages, one class each: look, check, plan, apply, prove, conclude.

Belongs here: what one stage plans, waits for and proves. Does not: reading (istio, probing), judging that another stage
or `meshkit check` needs, too (checks), making changes (changes).
"""

from meshkit.stages.discovery.stage import Discovery

__all__ = ["Discovery"]
