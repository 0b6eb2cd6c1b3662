"""Is a machine, or a cluster, ready for a study? Facts are gathered at the edge; pure functions make findings of them.

* `facts`, `storage`: what a machine has; sent to every node as they are
* `network`: what answers at an address; `nodes`: the facts of every node; `remote`: the same through a job
* `holdings`: the bytes that a study puts on every node
* `checks`: facts to findings, one function a check; `examination`: all of them
"""

from pkdray.doctor.findings import Finding, failed, merged, where

__all__ = ["Finding", "failed", "merged", "where"]
