"""The operator's side: the client of an agent, rollouts, and the live view of a fleet."""
