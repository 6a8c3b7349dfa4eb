"""The harness's requests, measured by several processes: on this machine, by hand on others, or as an array of jobs.

There is one plan, that of the tests, and one store. Processes share the blocks of a measurement by leases
(:mod:`mcdo.store.leases`); a share (:mod:`mcdo.cluster.shares`) says beforehand which of them are whose.
"""
