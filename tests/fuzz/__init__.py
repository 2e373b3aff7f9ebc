"""Requests and frames at random: the service must answer each one, and none with a 5xx or a traceback."""
