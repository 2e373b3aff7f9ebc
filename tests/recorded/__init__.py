"""Requests of every operation, and the answers that were recorded for them.

`python -m tests.recorded` plays them on this tree's service and prints the answers that differ from the recorded ones;
`--write` records them anew; `--tree A --tree B` plays them on two trees and compares these. Nothing of `service` is
imported: servers are started as processes and spoken to over sockets.
"""
