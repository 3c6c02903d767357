"""How good a router is, against what could be had without one."""
