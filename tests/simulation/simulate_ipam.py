"""`make simulate`: the allocators of many simulated clusters in turmoil, a seed each, on all processors.

    .venv/bin/python tests/simulation/simulate_ipam.py --seeds 100 --peers 30     # seeds 1 to 100
    .venv/bin/python tests/simulation/simulate_ipam.py --first 17 --seeds 1 -v    # one of them, with all that happened

Exit status 1 if a seed failed; each one's line says how to run it again.
"""

from __future__ import annotations

import sys
from pathlib import Path

# `make simulate` runs this file by its path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulation.ipam_turmoil import run_turmoil
from simulation.seeds import Simulation

SIMULATION = Simulation(__file__, str(__doc__), run_turmoil)

if __name__ == "__main__":
    raise SystemExit(SIMULATION.main(sys.argv[1:]))
