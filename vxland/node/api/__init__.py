"""Answers of a running node to vxlandctl and to monitoring."""
