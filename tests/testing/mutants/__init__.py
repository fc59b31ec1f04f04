"""Blocks and window policies that are broken on purpose, each by one fault, and the right ones that they come from."""

from mutants import calls, costs, experts, many, policies, promises, states, taken
from mutants.base import Mutant

MUTANTS: list[Mutant] = [*calls.MUTANTS, *states.MUTANTS, *costs.MUTANTS, *experts.MUTANTS, *promises.MUTANTS]
MUTANTS += many.MUTANTS
RULES: dict[Mutant, str] = taken.MUTANTS
POLICIES = policies.MUTANTS
