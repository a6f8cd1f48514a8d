"""Studies of XOR clusters."""
