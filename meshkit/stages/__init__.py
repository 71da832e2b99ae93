"""Twelve stages, one class each: look, check, plan, apply, prove, conclude.

Belongs here: what one stage plans, waits for and proves. Does not: reading (istio, probing), judging that another stage
or `meshkit check` needs, too (checks), making changes (changes).
"""

from meshkit.stages.assess import Assess
from meshkit.stages.backup.stage import Backup
from meshkit.stages.discovery.stage import Discovery
from meshkit.stages.gateways import Gateways
from meshkit.stages.install.stage import Install
from meshkit.stages.observe import Observe
from meshkit.stages.prepare import Prepare
from meshkit.stages.rollback.stage import Rollback
from meshkit.stages.shift import Shift
from meshkit.stages.troubleshoot import Troubleshoot
from meshkit.stages.trust.stage import Trust
from meshkit.stages.verify import Verify

__all__ = [
    "Assess",
    "Backup",
    "Discovery",
    "Gateways",
    "Install",
    "Observe",
    "Prepare",
    "Rollback",
    "Shift",
    "Troubleshoot",
    "Trust",
    "Verify",
]
