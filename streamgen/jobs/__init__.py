"""Video files that a running service restyles beside its live sessions, at batch priority."""

from streamgen.jobs.jobs import Jobs
from streamgen.jobs.routes import add_jobs

__all__ = ["Jobs", "add_jobs"]
