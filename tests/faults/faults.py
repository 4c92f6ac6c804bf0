"""All faults: what is done, what has to come of it, and what came of it."""

from __future__ import annotations

from tests.faults.daemons import DAEMONS
from tests.faults.fault import Fault
from tests.faults.hosts import HOSTS
from tests.faults.kmes import KMES
from tests.faults.links import LINKS

FAULTS: list[Fault] = [*DAEMONS, *HOSTS, *LINKS, *KMES]
